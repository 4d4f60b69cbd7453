//! Where an artefact's weights lie.

use std::path::Path;

use hyc_plan::{Plan, Weight};

use super::fault::damaged;
use super::header::Header;
use crate::error::Result;

/// Offsets of the plan's weights, checked against the plan's sizes and types.
pub(super) fn weights(path: &Path, plan: &Plan, header: &Header) -> Result<Vec<usize>> {
    let place = |weight: &Weight| {
        let (dtype, shape) = weight.format.stored();
        let tensor = header.tensors.get(&weight.name).filter(|tensor| {
            let same = tensor.dtype.name() == dtype && tensor.shape == shape;
            same && tensor.place.len() as u64 == weight.bytes()
        });
        let wrong = || damaged(path, format!("weight `{}` is not what the plan says", weight.name));
        tensor.map(|tensor| tensor.place.start).ok_or_else(wrong)
    };
    plan.weights.iter().map(place).collect()
}
