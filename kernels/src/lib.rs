//! What one op becomes on one target, and the reference that each is tested against.

pub mod cpu;
#[cfg(feature = "llvm")]
pub mod gpu;
mod lists;
#[cfg(feature = "llvm")]
pub mod mlir;
mod nvidia;
mod operands;
mod panels;
pub mod reference;
mod slices;
pub mod table;
mod this_build;
mod tiles;

pub use lists::page_lists;
pub use nvidia::{Activations, FP8_ROWS, Generator, Nvidia, shipped};
pub use this_build::gpu_generator;
