//! How a session is set up.

use std::time::Duration;

use crate::memory::Machine;

/// What a session on a GPU does its own way.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    /// Whether decode passes are captured once and replayed. Without it each kernel is launched by itself, and
    /// the error of a kernel that fails says which one it was.
    pub graphs: bool,
    /// Whether a captured pass of one row computes runs of its steps in one persistent launch each, where the artefact has
    /// such. Without it each step is launched by itself, which takes as long.
    pub slices: bool,
    /// How long a task of such a launch waits for another at most: then the launch fails, and its error names both. Other
    /// processes on the device count.
    pub patience: Duration,
}

impl Default for GpuOptions {
    fn default() -> GpuOptions {
        GpuOptions { graphs: true, slices: false, patience: Duration::from_secs(10) }
    }
}

/// How a session is set up.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Threads; `None`: one per core that the process may use ([`Machine::cores`]), and never more than that: two
    /// threads on one core take turns, and every turn costs.
    pub threads: Option<usize>,
    /// Sequences at a time; `None`: the plan's `max_batch`.
    pub max_sequences: Option<u64>,
    /// Tokens of all sequences together; `None`: every sequence may reach `max_context`.
    pub max_tokens: Option<u64>,
    /// Prefixes that are kept at a time for sequences that begin with the same tokens
    /// ([`Session::save_prefix`](crate::Session::save_prefix)); each takes the pages of its tokens, of those that
    /// `max_tokens` allows, and a window in every ring cache.
    pub prefixes: u64,
    /// For an artefact of a GPU.
    pub gpu: GpuOptions,
}

impl SessionOptions {
    /// Threads that a session gets: 1 to 1024, and no more than cores.
    pub fn thread_count(&self) -> usize {
        let cores = Machine::here().cores().clamp(1, 1024);
        self.threads.unwrap_or(cores).clamp(1, cores)
    }
}
