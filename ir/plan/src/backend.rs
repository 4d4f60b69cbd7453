//! What the passes ask of a back end: the one that makes code for the plan's target.

use crate::cache::{CacheSpec, KvOrder};
use crate::codec::Codec;
use crate::format::Format;
use crate::layout::Layout;
use crate::lists::ListShape;
use crate::ops::{ExpertsUp, QkvAppend};
use crate::roles::Kind;
use crate::slice::Slicer;
use crate::spec::KernelSpec;
use crate::step::StepOp;
use crate::target::Target;
use crate::variant::Variant;

/// A back end, as the passes see it: which layouts its kernels read, and the ways in which they can compute a step.
/// No pass knows a layout, or chooses by anything but what is said here.
pub trait Backend {
    /// What its code is for.
    fn target(&self) -> Target;

    /// The layout in which it wants a weight of this kind whose numbers are stored so; `None` where the kind is no weight's.
    fn layout(&self, kind: &Kind, codec: Codec) -> Option<Layout>;

    /// How it wants the pages of a cache; the spec's own order says nothing yet.
    fn kv_order(&self, cache: &CacheSpec) -> KvOrder;

    /// Whether its kernels for this op, of weights in these layouts, read and write rows as bf16 tiles where the op's roles allow
    /// it ([`Kind::RowsOrTiles`]).
    fn tiles_rows(&self, op: &StepOp, weights: &[Layout]) -> bool;

    /// From how many rows of a step on its kernels for this op, of weights in these formats, multiply rows of e4m3; `None`: never.
    fn fp8_rows(&self, op: &StepOp, weights: &[Format]) -> Option<u64>;

    /// Whether its kernels for these projections, of weights in these layouts, make the logits of the op's gates too.
    fn projects_gates(&self, op: &QkvAppend, weights: &[Layout]) -> bool;

    /// Whether its kernels for these experts, of weights in these layouts, compute a shared one beside those that are chosen.
    fn shares_experts(&self, op: &ExpertsUp, weights: &[Layout]) -> bool;

    /// The page lists along which its kernels for this op, which reads a selection, walk in steps of many rows; `None`: they read
    /// the selection alone. `caches`: those that the op reads.
    fn page_lists(&self, op: &StepOp, caches: &[CacheSpec]) -> Option<ListShape>;

    /// Whether a pass ends with the choice of tokens on the target. Else the session chooses them from the logits.
    fn samples(&self) -> bool;

    /// Its persistent kernels; `None`: it has none.
    fn slicer(&self) -> Option<Slicer>;

    /// The ways in which its kernels can compute this, one at least, with what was measured of them. Errors: why there is no
    /// kernel for it.
    fn candidates(&self, spec: &KernelSpec) -> Result<Vec<Variant>, String>;
}
