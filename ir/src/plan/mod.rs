//! The Plan: what an artefact's metadata holds and what the runtime executes.
//!
//! A Plan is a flat list of [`Step`]s over numbered buffers (offsets into one arena), weights (tensors of
//! the artefact) and KV caches. It is plain data with its own serialised form; the graph never is.
//! Everything in it is constant but the four counts of a step (`tokens`, `batch`, `outputs` and each
//! sequence's length), which [`StepContext`](crate::abi::StepContext) carries.

mod roles;
mod spec;
mod step;
mod verify;

use serde::{Deserialize, Serialize};

pub use roles::{Access, Kind, Reach, Role};
pub use spec::{CacheSpec, KernelSpec, OperandSpec};
pub use step::{AttnShape, Epilogue, GateMode, Grid, GridDim, RopeSpec, SelectShape, StepOp};
pub use verify::PlanError;

use crate::abi::{PANEL, ROW_ALIGN, TILE, V_ALIGN, round_up};

/// The format that this build writes and reads.
pub const PLAN_VERSION: u32 = 1;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl $name {
            /// The id as an index.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}
id!(/// A buffer of the arena, printed `b3`.
    BufferId, "b");
id!(/// A weight of the artefact, printed `w3`.
    WeightId, "w");
id!(/// A KV cache, printed `c3`.
    CacheId, "c");
id!(/// A generated kernel, printed `k3`.
    KernelId, "k");

/// Element types that reach a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Elem {
    /// IEEE binary32.
    F32,
    /// bfloat16: the upper half of a binary32.
    Bf16,
    /// Signed 32-bit integer: expert and block indices.
    I32,
}

impl Elem {
    /// Size of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Elem::F32 | Elem::I32 => 4,
            Elem::Bf16 => 2,
        }
    }
}

/// One executable model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`] of the writer.
    pub version: u32,
    /// What the model is and how far it may be driven.
    pub model: ModelInfo,
    /// What the code needs from the machine.
    pub target: TargetInfo,
    /// Bytes of the arena that all buffers live in.
    pub arena_bytes: u64,
    /// Buffers, by [`BufferId`].
    pub buffers: Vec<Buffer>,
    /// Weights, by [`WeightId`].
    pub weights: Vec<Weight>,
    /// KV caches, by [`CacheId`].
    pub caches: Vec<Cache>,
    /// Steps in execution order.
    pub steps: Vec<Step>,
    /// Kernels, by [`KernelId`].
    pub kernels: Vec<Kernel>,
    /// Hybrid blocks: who selects for whom.
    pub chains: Vec<Chain>,
    /// Where the logits stand after the last step: `[outputs, vocab]` f32.
    pub logits: BufferId,
    /// Where the sampled tokens stand, `[outputs, 1]` i32, in a plan that samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<BufferId>,
}

/// The model's name, sizes and limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name from the model description.
    pub name: String,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Vocabulary entries; a token id is below it.
    pub vocab: u64,
    /// Most tokens of one sequence, prompt and continuation.
    pub max_context: u64,
    /// Most sequences in one step.
    pub max_batch: u64,
    /// Most tokens in one step (rows of every `tokens` buffer).
    pub chunk: u64,
    /// Most rows of logits in one step.
    pub max_outputs: u64,
    /// Tokens of one page of the growing caches: the selection block.
    pub page: u64,
}

/// What the code was made for; checked when an artefact is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// `cpu` or `sm_90a`.
    pub kind: String,
    /// Host architecture of CPU code, as Rust names it (`x86_64`); empty for a plan without code.
    pub arch: String,
    /// CPU features that the code uses, as Rust names them (`avx2`, `fma`, ...).
    pub features: Vec<String>,
}

/// Which count a buffer's rows, or a grid's items, follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// One row a token of the step.
    Tokens,
    /// One row for each wanted row of logits.
    Outputs,
}

/// A tensor in the arena: `rows x stride` elements at `offset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// The value's name in the graph.
    pub name: String,
    /// Byte offset in the arena, a multiple of 64.
    pub offset: u64,
    /// What its rows follow.
    pub rows: Rows,
    /// Most rows it ever has.
    pub max_rows: u64,
    /// Elements of one row that mean something.
    pub width: u64,
    /// f32 or i32.
    pub elem: Elem,
    /// `Some` where this buffer is a selection: `[tokens][kv_heads][blocks]` of block indices.
    pub selection: Option<SelectShape>,
}

impl Buffer {
    /// Elements from one row to the next.
    pub fn stride(&self) -> u64 {
        round_up(self.width, ROW_ALIGN)
    }

    /// Bytes taken in the arena.
    pub fn bytes(&self) -> u64 {
        self.max_rows * self.stride() * self.elem.bytes()
    }
}

/// How a weight's elements are ordered in the artefact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Layout {
    /// `[len]`, always f32 (norm weights, sinks).
    Vector {
        /// Elements.
        len: u64,
    },
    /// `[rows, cols]` row-major (an embedding of its own).
    Rows {
        /// Rows.
        rows: u64,
        /// Columns.
        cols: u64,
    },
    /// A linear's `[out, inn]`, `count` of them one after the other (1, or the experts), as panels of
    /// [`PANEL`] output features: `[count][out/group][ceil(group/PANEL)][inn][PANEL]`, zero-padded where
    /// `group` is no multiple of PANEL. `group` is `out`, or a head's rows where a panel must not cross
    /// heads. bf16 lanes are stored so that each 32-bit word j of an 8-lane half h holds lane `8h + j` in
    /// its low and lane `8h + 4 + j` in its high 16 bits: a shift and a mask give two f32x4 in lane order.
    Panels {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out: u64,
        /// Input features.
        inn: u64,
        /// Output features that share panels.
        group: u64,
    },
    /// A linear's `[out, inn]` in bf16, `count` of them one after the other, as tensor cores read it: tiles
    /// `[count][ceil(out/64)][ceil(inn/64)][64 outputs][64 inputs]` of 8 KiB, zero-padded, each swizzled as
    /// [`pack::swizzle`](crate::pack::swizzle) says. A tile is copied to shared memory as it lies.
    Tiles {
        /// Matrices stored one after the other.
        count: u64,
        /// Output features of one matrix.
        out: u64,
        /// Input features.
        inn: u64,
    },
}

impl Layout {
    /// Elements stored, padding included.
    pub fn elements(&self) -> u64 {
        match *self {
            Layout::Vector { len } => len,
            Layout::Rows { rows, cols } => rows * cols,
            Layout::Panels { count, out, inn, group } => {
                count * (out / group) * group.div_ceil(PANEL) * PANEL * inn
            }
            Layout::Tiles { count, out, inn } => count * round_up(out, TILE) * round_up(inn, TILE),
        }
    }

    /// Panels or rows of tiles of one matrix; 0 for what is no matrix of a product.
    pub fn panels(&self) -> u64 {
        match *self {
            Layout::Tiles { out, .. } => out.div_ceil(TILE),
            Layout::Panels { out, group, .. } => (out / group) * group.div_ceil(PANEL),
            _ => 0,
        }
    }
}

/// A weight as the artefact stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name of the tensor, in the artefact and in the source files.
    pub name: String,
    /// Shape in the source files.
    pub shape: Vec<u64>,
    /// Element type in the artefact.
    pub elem: Elem,
    /// Order of the elements in the artefact.
    pub layout: Layout,
}

impl Weight {
    /// Bytes in the artefact.
    pub fn bytes(&self) -> u64 {
        self.layout.elements() * self.elem.bytes()
    }
}

/// What a cache keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CachePolicy {
    /// Every token.
    Growing,
    /// The last `window` tokens before any row of a step: `pages` pages a sequence, reused in turn.
    Ring {
        /// Tokens that a reader may look back, itself included.
        window: u64,
        /// Pages a sequence: enough for the window and one chunk.
        pages: u64,
    },
}

/// A KV cache: one owner that appends, any number of readers. An aliased reader has no entry of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The value's name in the graph.
    pub name: String,
    /// Layer that appends.
    pub owner: u32,
    /// Layers that read, ascending, the owner among them.
    pub readers: Vec<u32>,
    /// KV heads.
    pub kv_heads: u64,
    /// Elements of a key.
    pub qk_dim: u64,
    /// Elements of a value.
    pub v_dim: u64,
    /// f32 or bf16.
    pub elem: Elem,
    /// Tokens a page.
    pub page: u64,
    /// Growing or ring.
    pub policy: CachePolicy,
    /// Whether pages are stored as tensor cores read them; see [`crate::abi`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tiled: bool,
}

impl Cache {
    /// What a kernel knows of it.
    pub fn spec(&self) -> CacheSpec {
        CacheSpec {
            kv_heads: self.kv_heads,
            qk_dim: self.qk_dim,
            v_dim: self.v_dim,
            elem: self.elem,
            page: self.page,
            policy: self.policy,
            tiled: self.tiled,
        }
    }

    /// Bytes of one page, padding included.
    pub fn page_bytes(&self) -> u64 {
        self.kv_heads * self.page * (self.qk_dim + round_up(self.v_dim, V_ALIGN)) * self.elem.bytes()
    }

    /// Bytes of the keys and values of one token, without padding.
    pub fn token_bytes(&self) -> u64 {
        self.kv_heads * (self.qk_dim + self.v_dim) * self.elem.bytes()
    }
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// `L3.hybrid_attention`: layer and op.
    pub name: String,
    /// Layer, where the step belongs to one.
    pub layer: Option<u32>,
    /// What it computes.
    pub op: StepOp,
    /// Operands in the order of [`StepOp::roles`].
    pub operands: Vec<Operand>,
    /// Items to split over threads.
    pub grid: Grid,
    /// The generated kernel.
    pub kernel: KernelId,
}

/// What a step reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operand {
    /// A buffer of the arena.
    Buffer(BufferId),
    /// A weight.
    Weight(WeightId),
    /// A KV cache.
    Cache(CacheId),
}

/// A generated kernel: a function in the artefact's code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// A symbol name, unique in the plan.
    pub name: String,
    /// Byte offset of the entry in the code tensor; 0 in a plan without code.
    pub code_offset: u64,
    /// Bytes of code; 0 in a plan without code.
    pub code_bytes: u64,
    /// Scratch a thread needs; on a GPU, of the whole kernel, in device memory.
    pub scratch_bytes: u64,
    /// On a GPU: the functions that make up the kernel, in launch order. Empty on a CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<Launch>,
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
    /// it touches what that one writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overlaps: bool,
    /// Rows of a step for which this function is launched; it is skipped for others. All, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
}

/// A range of a step's row count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    /// Whose count.
    pub dim: GridDim,
    /// The least.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Launch {
    /// Whether a step with these counts has this launch.
    pub fn applies(&self, tokens: u64, outputs: u64) -> bool {
        self.when.is_none_or(|when| {
            let count = match when.dim {
                GridDim::One => 1,
                GridDim::Tokens => tokens,
                GridDim::Outputs => outputs,
            };
            (when.least..=when.most).contains(&count)
        })
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

/// One hybrid block: an oracle and the sparse layers that reuse its selection and cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The full layer that selects.
    pub oracle: u32,
    /// The sparse layers that read its selection, ascending.
    pub sparse: Vec<u32>,
    /// The cache that the sparse branch of each reads (the oracle's, or their own).
    pub shared_kv: bool,
}

impl Plan {
    /// What kernel `step` needs to know of its operands. Panics on an id out of range: verify first.
    pub fn spec(&self, step: &Step) -> KernelSpec {
        spec::of(self, step)
    }

    /// Checks every invariant of a plan and returns all violations.
    pub fn verify(&self) -> Result<(), Vec<PlanError>> {
        verify::verify(self)
    }
}
