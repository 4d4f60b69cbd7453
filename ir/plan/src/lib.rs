//! The contract between the compiler and the runtime of `hyc`: the Plan with its verifier, what its steps, formats and
//! caches are, the binary interface of kernels, and the artefact that holds it all.
//!
//! The graph that a Plan was made from is not here: an executor needs none.

pub mod abi;
mod align;
pub mod artefact;
mod backend;
pub mod bind;
mod cache;
mod codec;
mod elem;
pub mod eval;
mod format;
mod half;
mod int4;
mod kernel;
mod layout;
pub mod lists;
pub mod ops;
pub mod pack;
mod panel;
mod plan;
mod roles;
mod rope;
mod rope_factors;
pub mod sample;
pub mod sampling;
mod shape;
mod shared;
mod slice;
mod spec;
mod step;
mod target;
pub mod tensor;
pub mod text_settings;
pub mod variant;
mod verify;
mod waits;
pub mod work;

pub use align::{MAX_BYTES, PANEL, ROW_ALIGN, SPAN, STRIP, TILE, V_ALIGN, round_up};
pub use backend::Backend;
pub use cache::{CachePolicy, CacheSpec, KvCodec, KvOrder};
pub use codec::Codec;
pub use elem::{Elem, is_positive_f32};
pub use format::Format;
pub use kernel::{BlockTimes, Code, Extent, Kernel, Launch};
pub use layout::Layout;
pub use lists::ListShape;
pub use plan::{
    Buffer, BufferId, Cache, CacheId, Chain, KernelId, MAX_LAYERS, ModelInfo, Operand, PLAN_VERSION, Plan,
    Step, Weight, WeightId,
};
pub use roles::{Access, Kind, Reach, Role, Stored};
pub use rope::{RopeScaling, RopeSpec};
pub use rope_factors::{MOST_PAIRS, RopeFactors};
pub use shape::{AttnShape, Epilogue, GateMode, RouterRule, Scores, SelectShape};
pub use shared::Shared;
pub use slice::{Counters, Hang, Part, Slice, SliceKernel, Slicer, Wait, Watch};
pub use spec::{KernelSpec, OperandSpec};
pub use step::{Grid, GridDim, Rows, StepOp};
pub use target::{Gpu, NvidiaArch, Target, TargetKind};
pub use variant::{Chosen, RowRange, Timing, Variant};
pub use verify::PlanError;
