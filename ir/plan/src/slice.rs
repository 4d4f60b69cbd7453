//! Slices: consecutive steps that one persistent launch computes, which never stops streaming their weights.
//!
//! ```text
//! part (a step)   tasks   waits for            raises
//! 0  linear        256    the launches before  counter 0, by one for each task
//! 1  linear        688    counter 0 at 256     counter 1
//! 2  linear        256    counter 1 at 688     counter 2
//! ```
//! A part's tasks are in any order, and among those of other parts in any that the counters allow: a task begins once each
//! counter that its part waits for has come to its count. Since a part waits for whole parts before it alone, and for nothing
//! behind it, there is always a task that may begin.

use serde::{Deserialize, Serialize};

use crate::kernel::Launch;
use crate::spec::KernelSpec;
use crate::variant::RowRange;

/// Consecutive steps that one launch computes in place of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The number of its first step.
    pub first: u32,
    /// What each of its steps is split into, in their order.
    pub parts: Vec<Part>,
    /// Index of its code in [`Plan::slice_kernels`](crate::Plan::slice_kernels).
    pub kernel: u32,
}

/// One step of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Tasks; each counts as one of the part's counter when what it writes is there. Several may be counted at once.
    pub tasks: u64,
    /// What its tasks wait for; those of a slice's launch for what was launched before in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
}

/// A counter, and what it has to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Number of the part in the slice whose counter it is.
    pub part: u32,
    /// All tasks of that part.
    pub count: u64,
}

/// The code of slices that differ in nothing but addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceKernel {
    /// A symbol name, unique among all kernels of the plan.
    pub name: String,
    /// Passes of so many rows are computed by it.
    pub rows: RowRange,
    /// Blocks of its launch, all of which have to run at the same time.
    pub blocks: u64,
    /// The function; `None` in a plan without code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<Launch>,
}

/// What a back end's persistent kernels are.
#[derive(Debug, Clone, Copy)]
pub struct Slicer {
    /// Tasks of a step; `None`: it is in no slice.
    pub tasks: fn(&KernelSpec) -> Option<u64>,
    /// The passes that they are for.
    pub rows: RowRange,
    /// Blocks of a launch, all of which run at the same time.
    pub blocks: u64,
}

impl SliceKernel {
    /// Where the counters of slices of so many parts are.
    pub fn counters(&self, parts: usize) -> Counters {
        Counters { parts: parts as u64, blocks: self.blocks }
    }
}

impl Slice {
    /// The numbers of its steps.
    pub fn steps(&self) -> std::ops::Range<usize> {
        self.first as usize..self.first as usize + self.parts.len()
    }
}

/// Where a launch has its counters, in words of 4 bytes, one for each part: zeros when a pass begins, each slice of the plan has
/// its own.
#[derive(Debug, Clone, Copy)]
pub struct Counters {
    /// Parts of the slice.
    pub parts: u64,
    /// Blocks of the launch.
    pub blocks: u64,
}

impl Counters {
    /// Words from what one block hands over of a task that it shares with the one before to the next one's.
    pub const HANDED: u64 = 64;
    /// The first words of that are sums, the next one says that they are there.
    pub const SUMS: u64 = 32;

    /// The counter of a part.
    pub fn of(self, part: u64) -> u64 {
        part
    }

    /// Bytes of them.
    pub fn bytes(self) -> u64 {
        4 * self.of(self.parts).next_multiple_of(64)
    }

    /// Bytes of what blocks hand over, zeros between launches: for each part and block [`Counters::HANDED`] words.
    pub fn handed_bytes(self) -> u64 {
        4 * self.parts * self.blocks * Counters::HANDED
    }
}

/// What all launches of slices share; behind it stands what blocks hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(256))]
pub struct Watch {
    /// Address of a [`Hang`], which the host reads when nothing else can be read.
    pub hang: u64,
    /// Nanoseconds after which a launch gives up.
    pub patience: u64,
}

/// What a launch that has waited in vain says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hang {
    /// 1: it has.
    pub hung: u32,
    /// The part whose task waits.
    pub part: u32,
    /// The part whose counter it waits for; its own: for what another block hands over of a task.
    pub awaited: u32,
    /// What the counter has come to.
    pub count: u32,
    /// The block.
    pub block: u32,
    /// The slice's first step.
    pub step: u32,
}
