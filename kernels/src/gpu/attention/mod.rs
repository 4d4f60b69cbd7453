//! The attentions.

mod combine;
pub mod flash_prefill;
mod flash_tile;
pub mod limits;
pub mod simt;
pub mod sparse;
pub mod split_kv_decode;
mod warp_mma;
