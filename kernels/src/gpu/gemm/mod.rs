//! Products of rows and weights: `Linear`, `QkvAppend`.

pub mod linear;
pub mod panel;
pub mod projections;
pub mod qkv;
mod qkv_small_m;
pub mod small_m;
