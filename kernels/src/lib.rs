//! What one op becomes on one target, and the reference that each is tested against.

pub mod cpu;
#[cfg(feature = "llvm")]
pub mod gpu;
pub mod reference;
