//! The attentions.

mod branch;
mod cluster_layout;
mod combine;
mod flash_expand;
pub mod flash_prefill;
mod flash_select;
mod flash_softmax;
mod flash_tile;
pub mod limits;
pub mod page_lists;
mod rows;
pub mod shared_pages;
pub mod simt;
pub mod sparse;
pub mod sparse_cluster;
pub mod split_kv;
mod staged;
mod states;
mod warp_mma;
