//! What one op becomes on one target, and the reference that each is tested against.

pub mod cpu;
pub mod reference;
