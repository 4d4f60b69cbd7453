//! Tiles of shared memory and of registers, with their layout in their type, and the pipelines that fill them.

mod codes;
mod fragment;
pub mod pipeline;
mod register;
pub mod rows;
mod shared;
mod swizzle;

pub use codes::{ONES, bytes, e4m3_pair, int8_pair, split};
pub use fragment::Fragment;
pub use register::RegisterTile;
pub use rows::{TiledRows, tile_row};
pub use shared::{SharedTile, clear_from};
pub use swizzle::{Swizzle, TILE_BYTES};
