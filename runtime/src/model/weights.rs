//! Where an artefact's weights lie.

use std::path::Path;

use hyc_plan::{Elem, Layout, Plan, Weight};

use super::damaged;
use super::header::{Dtype, Header};
use crate::error::Result;

/// Offsets of the plan's weights, checked against the plan's sizes and types.
pub(super) fn weights(path: &Path, plan: &Plan, header: &Header) -> Result<Vec<usize>> {
    let place = |weight: &Weight| {
        let dtype = match weight.elem {
            Elem::Bf16 => Dtype::Bf16,
            _ => Dtype::F32,
        };
        let shape = stored_shape(weight.layout);
        let tensor = header.tensors.get(&weight.name).filter(|tensor| {
            let same = tensor.shape.iter().copied().eq(shape.iter().map(|dim| *dim as u64));
            tensor.dtype == dtype && same && tensor.place.len() as u64 == weight.bytes()
        });
        let wrong = || damaged(path, format!("weight `{}` is not what the plan says", weight.name));
        tensor.map(|tensor| tensor.place.start).ok_or_else(wrong)
    };
    plan.weights.iter().map(place).collect()
}

/// The shape of a weight's tensor in the artefact.
pub fn stored_shape(layout: Layout) -> Vec<usize> {
    let dims = match layout {
        Layout::Vector { len } => vec![len],
        Layout::Rows { rows, cols } => vec![rows, cols],
        Layout::Panels { count, inn, .. } => vec![count * layout.panels(), inn, hyc_plan::PANEL],
        Layout::Tiles { count, out, inn } => {
            let tiles = |n: u64| n.div_ceil(hyc_plan::TILE);
            vec![count * tiles(out), tiles(inn), hyc_plan::TILE, hyc_plan::TILE]
        }
    };
    dims.into_iter().map(|dim| dim as usize).collect()
}
