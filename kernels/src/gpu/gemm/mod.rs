//! Products of rows and weights: `Linear`, `QkvAppend`, and what experts share with them.

pub mod choice;
pub mod digits;
pub mod epilogue;
pub mod feed;
pub mod fp8_rows;
pub mod fragments;
pub mod kept;
pub mod large_m;
pub mod linear;
pub mod matrices;
pub mod pack_rows;
pub mod panel;
pub mod product;
pub mod projections;
pub mod qkv;
pub mod qkv_large_m;
pub mod qkv_small_m;
pub mod qkv_wgmma_strips;
mod rope;
pub mod slice;
pub mod small_m;
pub mod stored;
pub mod stream;
mod stream_rows;
pub mod turned;
pub mod wgmma;
pub mod wgmma_strips;
