//! Generated kernels, their variants, and on a GPU the functions that make them up.

use serde::{Deserialize, Serialize};

use crate::spec::KernelSpec;
use crate::step::{Grid, GridDim, Rows};
use crate::target::Target;
use crate::variant::{Chosen, Variant};

/// A generated kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// A symbol name, unique in the plan.
    pub name: String,
    /// Scratch a thread needs; on a GPU, of the whole kernel, in device memory.
    pub scratch_bytes: u64,
    /// Whose count its rows follow.
    pub rows: Rows,
    /// The ways in which it can compute its steps; a plan has code for those that are chosen, and may have some for others.
    pub variants: Vec<Variant>,
    /// Which of them computes steps of which rows: from 1 to the most, without a gap.
    pub chosen: Vec<Chosen>,
    /// Where its code is and how it is started, as its target does that.
    pub code: Code,
}

/// A kernel's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Code {
    /// One function in the artefact's code, called for ranges of items.
    Host {
        /// How its work is split: [`KernelSpec::grid`](crate::KernelSpec::grid).
        grid: Grid,
        /// Byte offset of the entry in the code tensor; 0 in a plan without code.
        offset: u64,
        /// Bytes of code; 0 in a plan without code.
        bytes: u64,
    },
    /// Functions in the artefact's PTX.
    Nvidia {
        /// In launch order; none in a plan without code.
        launches: Vec<Launch>,
    },
}

impl Kernel {
    /// A kernel without code for this target.
    pub fn new(
        name: String,
        spec: &KernelSpec,
        target: &Target,
        (variants, chosen): (Vec<Variant>, Vec<Chosen>),
    ) -> Kernel {
        let code = match target {
            Target::Host { .. } => Code::Host { grid: spec.grid(), offset: 0, bytes: 0 },
            Target::Nvidia(_) => Code::Nvidia { launches: Vec::new() },
        };
        Kernel { name, scratch_bytes: 0, rows: spec.rows, variants, chosen, code }
    }

    /// A kernel without code, that computes all steps in one way.
    pub fn of_one_variant(name: String, spec: &KernelSpec, target: &Target) -> Kernel {
        let variant = Variant::only("only", spec, 1);
        let chosen = Chosen { variant: variant.name.clone(), rows: variant.rows };
        Kernel::new(name, spec, target, (vec![variant], vec![chosen]))
    }

    /// The functions that make it up on a GPU; none on a processor.
    pub fn launches(&self) -> &[Launch] {
        match &self.code {
            Code::Host { .. } => &[],
            Code::Nvidia { launches } => launches,
        }
    }

    /// The name of the variant that computes a step of so many rows; `None`: more rows than the plan allows, or none.
    pub fn variant_for(&self, rows: u64) -> Option<&str> {
        self.chosen.iter().find(|chosen| chosen.rows.contains(rows)).map(|chosen| chosen.variant.as_str())
    }

    /// Whether there is code of this variant: a function of its own, beside those that all variants have; or functions of
    /// all variants alone. One that is of steps in which there is nothing to do needs none.
    pub fn has_code(&self, variant: &str) -> bool {
        if self.variants.iter().any(|known| known.name == variant && known.launches == 0) {
            return true;
        }
        let launches = self.launches();
        let own = |launch: &Launch| launch.variants.iter().any(|name| name == variant);
        let common = |launch: &Launch| launch.variants.is_empty();
        launches.iter().any(own) || (!launches.is_empty() && launches.iter().all(common))
    }

    /// The functions of one of its variants, in launch order.
    pub fn launches_of<'k>(&'k self, variant: &'k str) -> impl Iterator<Item = &'k Launch> {
        self.launches().iter().filter(move |launch| launch.is_of(variant))
    }
}

/// What the first thread of a block of a [`clocked`](Launch::clocked) launch writes down, in nanoseconds of the device's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockTimes {
    /// It began.
    pub begin: u64,
    /// The launches before it were through, as far as it waits for them.
    pub inputs: u64,
    /// It ended.
    pub end: u64,
    /// The multiprocessor that it ran on.
    pub multiprocessor: u64,
}

/// One function of a GPU kernel. Its parameters are the device address of the
/// [`StepContext`](crate::abi::StepContext), of each operand in order, and of the kernel's scratch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The function's name in the PTX.
    pub entry: String,
    /// Blocks in x and y.
    pub grid: [Extent; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Whether it may start while the launch before it still runs: it waits by itself (`griddepcontrol.wait`) before
    /// it uses what that one writes; what it reads of that before is a guess, which it reads again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlaps: bool,
    /// Whether it has one more parameter, the device address of a [`BlockTimes`] for each of its blocks, by x, then by y.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clocked: bool,
    /// Names of the variants that it is a part of; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<String>,
}

impl Launch {
    /// Whether it is a part of this variant.
    pub fn is_of(&self, variant: &str) -> bool {
        self.variants.is_empty() || self.variants.iter().any(|name| name == variant)
    }
}

/// Blocks of a launch along one axis: `ceil(count * per / each)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Whose count; 1 for [`GridDim::One`].
    pub dim: GridDim,
    /// Items for each.
    pub per: u64,
    /// Items a block.
    pub each: u64,
}

impl Extent {
    /// `n` blocks, whatever the step's size.
    pub const fn fixed(n: u64) -> Extent {
        Extent { dim: GridDim::One, per: n, each: 1 }
    }

    /// Blocks of a step with these counts.
    pub fn blocks(&self, tokens: u64, outputs: u64) -> u64 {
        let count = match self.dim {
            GridDim::One => 1,
            GridDim::Tokens => tokens,
            GridDim::Outputs => outputs,
        };
        (count * self.per).div_ceil(self.each)
    }
}
