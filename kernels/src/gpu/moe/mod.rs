//! Router and experts.

pub mod experts;
mod grouped_gemm;
mod panel;
pub mod router;
