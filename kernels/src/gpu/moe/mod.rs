//! Router and experts.

mod grouped_gemm;
pub mod panel;
pub mod router;
