//! The machine: LLVM's builder as a small language ([`Emit`]), and the instructions of PTX as its functions.

mod barrier;
mod bulk_copy;
mod cluster;
mod control;
mod emit;
mod hand_over;
mod int;
mod launch;
mod math;
mod memory;
mod mma;
mod warp;
mod wgmma;

pub use emit::{Emit, Float, Int, LANES, Ptr, Var, WARP};
pub use launch::wait_at_entry;
pub use memory::SHARED_SLACK;
pub use mma::Chunk;
