//! From logits to tokens.

mod sample;

pub use sample::sample;
