//! `fuse-epilogues`: what stands before and after a matrix product joins it.
//!
//! In this order, each in its own file: q, k, v projections with QK-norm, RoPE and append ([`qkv`]), and beside them those
//! of gates' logits ([`gates`]); gate and up projections with SwiGLU, and sums with a product ([`product`]); a shared expert
//! with those that are chosen ([`shared`]); norms whose every user is a product ([`norm`]).

mod gates;
mod norm;
mod product;
mod qkv;
mod shared;

use hyc_ir::Graph;
use hyc_plan::Backend;

use crate::error::PassError;

/// Runs all fusions. Returns the rewrites made.
pub fn run(graph: &mut Graph, backend: &dyn Backend) -> Result<usize, PassError> {
    Ok(qkv::run(graph)
        + gates::run(graph, backend)
        + product::swiglu(graph)
        + product::residual(graph)
        + shared::run(graph, backend)
        + norm::run(graph, backend))
}
