//! Cases for kernels: what to run, on which random memory, and how far the results may be from the reference.
//!
//! A case says nothing of a target. `tests/cpu.rs` runs the portable ones on this machine; `gpu-cases` compiles
//! all of them to PTX, `gpu-check` runs that on a GPU.

mod batch;
pub mod blocks;
pub mod case;
pub mod cases;
pub mod compare;
mod host;
mod large;
pub mod manifest;
mod memory;
mod reference;
mod rng;

pub use batch::Batch;
pub use case::{Case, Fill, Filter};
pub use host::HostKernel;
pub use memory::{Memory, memory};
pub use reference::{pointers, result_rows, run_reference, sample_rows};
pub use rng::Rng;
