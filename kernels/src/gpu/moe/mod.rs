//! Router and experts.

pub mod dispatch;
mod down_streamed;
pub mod experts;
pub mod grouped_gemm;
mod panel;
pub mod router;
