//! Where an artefact's weights lie.

use std::collections::BTreeMap;
use std::path::Path;

use hyc_ir::plan::{Elem, Layout, Plan, Weight};
use safetensors::{Dtype, SafeTensors};

use super::damaged;
use crate::error::Result;

/// Offsets of the plan's weights, checked against the plan's sizes and types.
pub(super) fn weights(
    path: &Path,
    map: &[u8],
    plan: &Plan,
    places: &BTreeMap<String, (usize, usize)>,
) -> Result<Vec<usize>> {
    let tensors = SafeTensors::deserialize(map).map_err(|e| damaged(path, format!("{e:?}")))?;
    let place = |weight: &Weight| {
        let (start, end) = places.get(&weight.name).copied().unwrap_or((0, 0));
        let view = tensors.tensor(&weight.name).ok();
        let dtype = match weight.elem {
            Elem::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        let right =
            view.is_some_and(|view| view.dtype() == dtype && view.shape() == stored_shape(weight.layout));
        match right && (end - start) as u64 == weight.bytes() {
            true => Ok(start),
            false => Err(damaged(path, format!("weight `{}` is not what the plan says", weight.name))),
        }
    };
    plan.weights.iter().map(place).collect()
}

/// The shape of a weight's tensor in the artefact.
pub fn stored_shape(layout: Layout) -> Vec<usize> {
    let dims = match layout {
        Layout::Vector { len } => vec![len],
        Layout::Rows { rows, cols } => vec![rows, cols],
        Layout::Panels { count, inn, .. } => vec![count * layout.panels(), inn, hyc_ir::abi::PANEL],
        Layout::Tiles { count, out, inn } => {
            let tiles = |n: u64| n.div_ceil(hyc_ir::abi::TILE);
            vec![count * tiles(out), tiles(inn), hyc_ir::abi::TILE, hyc_ir::abi::TILE]
        }
    };
    dims.into_iter().map(|dim| dim as usize).collect()
}
