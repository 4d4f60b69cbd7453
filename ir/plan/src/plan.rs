//! The Plan: what an artefact's metadata holds and what the runtime executes.
//!
//! A Plan is a flat list of [`Step`]s over numbered buffers (offsets into one arena), weights (tensors of
//! the artefact) and KV caches. It is plain data with its own serialised form; the graph never is.
//! Everything in it is constant but the four counts of a step (`tokens`, `batch`, `outputs` and each
//! sequence's length), which [`StepContext`](crate::abi::StepContext) carries.

use serde::{Deserialize, Serialize};

use crate::cache::{CachePolicy, CacheSpec, KvCodec, KvOrder};
use crate::elem::Elem;
use crate::format::Format;
use crate::kernel::Kernel;
use crate::sampling::MAX_PENALTY_WINDOW;
use crate::shape::SelectShape;
use crate::slice::{Slice, SliceKernel};
use crate::spec::{KernelSpec, OperandSpec};
use crate::step::{Rows, StepOp};
use crate::target::Target;
use crate::tensor;

/// The format that this build writes and reads.
pub const PLAN_VERSION: u32 = 5;
/// Most layers of a model: several times what any published model has. Passes are linear in the layers up to it.
pub const MAX_LAYERS: u64 = 1024;

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

/// One executable model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`] of the writer.
    pub version: u32,
    /// What the model is and how far it may be driven.
    pub model: ModelInfo,
    /// What the code needs from the machine.
    pub target: Target,
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
    /// Runs of steps that one launch may compute in place of theirs, by their first steps; on a GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// Their code, by [`Slice::kernel`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slice_kernels: Vec<SliceKernel>,
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
    /// Entries that the tokenizer has, where the model has more rows of logits than that: a token of those behind
    /// them means nothing, and is never chosen. `None`: all are chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<u64>,
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

impl ModelInfo {
    /// Entries that tokens are chosen from.
    pub fn choices(&self) -> u64 {
        self.named.unwrap_or(self.vocab)
    }

    /// Entries of the longest [`StepContext::seen`](crate::abi::StepContext::seen): a pass samples one row per
    /// sequence.
    pub fn most_seen(&self) -> u64 {
        let row = self.vocab.min(self.max_context).min(u64::from(MAX_PENALTY_WINDOW));
        self.max_batch.min(self.max_outputs) * row
    }
}

/// A tensor in the arena, at `offset`; see [`tensor`](crate::tensor) for how it lies.
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
    /// f32, i32, or bf16 in tiles ([`tensor`](crate::tensor)).
    pub elem: Elem,
    /// `Some` where this buffer is a selection: `[tokens][kv_heads][blocks]` of block indices.
    pub selection: Option<SelectShape>,
}

impl Buffer {
    /// Elements from one row to the next.
    pub fn stride(&self) -> u64 {
        tensor::stride(self.width)
    }

    /// Whether it has memory in common with another. The numbers of both are possible.
    pub fn overlaps(&self, other: &Buffer) -> bool {
        self.offset < other.offset + other.bytes() && other.offset < self.offset + self.bytes()
    }

    /// Bytes taken in the arena; 0 where there can be no such tensor.
    pub fn bytes(&self) -> u64 {
        tensor::bytes(self.elem, self.max_rows, self.width).unwrap_or(0)
    }
}

/// A weight as the artefact stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name of the tensor, in the artefact and in the source files.
    pub name: String,
    /// Shape in the source files.
    pub shape: Vec<u64>,
    /// How it is stored.
    pub format: Format,
}

impl Weight {
    /// Bytes in the artefact.
    pub fn bytes(&self) -> u64 {
        self.format.bytes()
    }
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
    /// What keys and values are stored as; `elem` in the serialised form, which is older than the codecs that have scales.
    #[serde(rename = "elem")]
    pub codec: KvCodec,
    /// Tokens per page.
    pub page: u64,
    /// Growing or ring.
    pub policy: CachePolicy,
    /// How its pages are stored.
    pub order: KvOrder,
}

impl Cache {
    /// What a kernel knows of it.
    pub fn spec(&self) -> CacheSpec {
        CacheSpec {
            kv_heads: self.kv_heads,
            qk_dim: self.qk_dim,
            v_dim: self.v_dim,
            codec: self.codec,
            page: self.page,
            policy: self.policy,
            order: self.order,
        }
    }

    /// Bytes of one page, padding included.
    pub fn page_bytes(&self) -> u64 {
        self.spec().page_bytes()
    }

    /// Bytes of the keys and values of one token with their scales, without padding.
    pub fn token_bytes(&self) -> u64 {
        self.spec().token_bytes()
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
    /// Whether functions of a GPU write down the times of their blocks.
    pub fn is_clocked(&self) -> bool {
        self.kernels.iter().flat_map(|kernel| kernel.launches()).any(|launch| launch.clocked)
    }

    /// Bytes of all weights in the artefact.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(Weight::bytes).fold(0, u64::saturating_add)
    }

    /// What kernel `step` needs to know of its operands. Panics on an id out of range: verify first.
    pub fn spec(&self, step: &Step) -> KernelSpec {
        let mut rows = Rows::Tokens;
        let roles = step.op.roles();
        let operands = step
            .operands
            .iter()
            .zip(&roles)
            .map(|(operand, role)| match *operand {
                Operand::Buffer(id) => {
                    let buffer = &self.buffers[id.index()];
                    if role.writes() {
                        rows = buffer.rows;
                    }
                    OperandSpec::Tensor { elem: buffer.elem, width: buffer.width, stride: buffer.stride() }
                }
                Operand::Weight(id) => {
                    let weight = &self.weights[id.index()];
                    OperandSpec::Weight(weight.format)
                }
                Operand::Cache(id) => {
                    let cache = &self.caches[id.index()];
                    OperandSpec::Cache(cache.spec())
                }
            })
            .collect();
        let max_rows = rows.count(self.model.chunk, self.model.max_outputs);
        KernelSpec { op: step.op, operands, rows, max_rows, max_context: self.model.max_context }
    }
}
