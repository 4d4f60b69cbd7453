//! What `gpu-cases` leaves in its folder for `gpu-check`.

use hyc_ir::plan::{KernelSpec, Launch};
use serde::{Deserialize, Serialize};

use crate::{Case, Fill};

/// The file's name.
pub const FILE: &str = "cases.json";

/// `cases.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Each kernel once.
    pub kernels: Vec<Kernel>,
    /// What to run them on.
    pub cases: Vec<Entry>,
}

/// A compiled kernel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// What it is.
    pub spec: KernelSpec,
    /// The file with its PTX.
    pub ptx: String,
    /// Its functions, in order.
    pub launches: Vec<Launch>,
    /// Scratch in device memory.
    pub scratch_bytes: u64,
    /// Why there is no code.
    pub refused: Option<String>,
}

/// A case of one of the kernels.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// As in [`Case`].
    pub family: String,
    /// Index of the kernel.
    pub kernel: usize,
    /// As in [`Case`].
    pub sequences: Vec<(u64, u64)>,
    /// As in [`Case`].
    pub fill: Fill,
    /// As in [`Case`].
    pub small: bool,
    /// As in [`Case`].
    pub f32_error: f64,
}

impl Manifest {
    /// A case of the manifest.
    pub fn case(&self, entry: &Entry) -> Case {
        Case {
            family: entry.family.clone(),
            spec: self.kernels[entry.kernel].spec.clone(),
            sequences: entry.sequences.clone(),
            fill: entry.fill,
            small: entry.small,
            f32_error: entry.f32_error,
        }
    }
}
