//! Probes: a small kernel for each building block of the others, for tests on a device. What each reads and must
//! leave behind is in `tests/kernels/src/blocks`, under the same name.
//!
//! Operands are plain words, inputs first. Online softmax has no probe: it is no block of its own, and the attention
//! cases go through all of it, with sinks, masked pages and merged states.

mod choice;
mod common;
mod lanes;
mod memory;
mod products;

pub use common::Probe;

/// All of them.
pub fn all() -> Vec<Probe> {
    [lanes::all(), memory::all(), products::all(), choice::all()].into_iter().flatten().collect()
}
