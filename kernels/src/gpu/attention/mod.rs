//! The attentions.

pub mod flash_prefill;
pub mod simt;
pub mod sparse;
pub mod split_kv_decode;
pub mod warp_mma;
