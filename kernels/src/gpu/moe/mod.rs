//! Router and experts.

pub mod dispatch;
pub mod experts;
pub mod grouped_gemm;
mod panel;
pub mod router;
