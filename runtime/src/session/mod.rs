//! Sequences with their pages, and the steps that advance them.

mod branch;
mod output;
mod schedule;
mod sequence;
mod state;
mod step;

pub use self::sequence::SequenceId;
pub use self::state::Session;
pub use self::step::{SampledOutput, StepOutput};
