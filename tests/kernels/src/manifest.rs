//! What `gpu-cases` leaves in its folder for `gpu-check`.

use hyc_plan::{KernelSpec, Launch, Variant};
use serde::{Deserialize, Serialize};

use crate::{Case, Fill, blocks};

/// The file's name.
pub const FILE: &str = "cases.json";

/// `cases.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Each kernel once.
    pub kernels: Vec<Kernel>,
    /// What to run them on.
    pub cases: Vec<Entry>,
    /// Probes of building blocks.
    pub blocks: Vec<Probe>,
}

/// A building block that a kernel was made for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Probe {
    /// As in [`crate::blocks`].
    pub name: String,
    /// Index of the kernel.
    pub kernel: usize,
}

/// Something to run: a case, or behind all cases a probe.
#[derive(Debug)]
pub struct Item {
    /// The row of the table that it belongs to.
    pub family: String,
    /// Unique within that.
    pub name: String,
    /// Index of the kernel.
    pub kernel: usize,
    /// Whether it is quick enough for a run under a sanitizer.
    pub small: bool,
}

/// A compiled kernel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kernel {
    /// What it is.
    pub spec: KernelSpec,
    /// The file with its PTX.
    pub ptx: String,
    /// Its variants; none of a probe.
    pub variants: Vec<Variant>,
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
    /// Its variant.
    pub variant: String,
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
    /// Cases and probes.
    pub fn count(&self) -> usize {
        self.cases.len() + self.blocks.len()
    }

    /// The probe that a number stands for; none where it is a case's.
    pub fn probe(&self, number: usize) -> Option<&Probe> {
        number.checked_sub(self.cases.len()).map(|at| &self.blocks[at])
    }

    /// What a number stands for.
    pub fn item(&self, number: usize) -> Item {
        if let Some(probe) = self.probe(number) {
            let (family, name) = (blocks::FAMILY.to_string(), probe.name.clone());
            return Item { family, name, kernel: probe.kernel, small: true };
        }
        let entry = &self.cases[number];
        let (family, mut name) = (entry.family.clone(), self.case(entry).name());
        if self.kernels[entry.kernel].variants.len() > 1 {
            name = format!("{name} by {}", entry.variant);
        }
        Item { family, name, kernel: entry.kernel, small: entry.small }
    }

    /// Whether two numbers are variants of one kernel in one case.
    pub fn same_case(&self, a: usize, b: usize) -> bool {
        let (Some(a), Some(b)) = (self.cases.get(a), self.cases.get(b)) else { return false };
        let of = |entry: &Entry| (entry.kernel, entry.sequences.clone(), entry.fill);
        of(a) == of(b)
    }

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
