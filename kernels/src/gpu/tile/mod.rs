//! Tiles of shared memory and of registers, and the pipelines that fill them.

pub mod pipeline;
