//! What a kernel is compiled from: an op and what is constant about its operands.

use serde::{Deserialize, Serialize};

use super::{CachePolicy, Elem, Layout, Operand, Plan, Rows, Step, StepOp};
use crate::abi::{TILE, V_ALIGN, round_up};
use crate::pack::swizzle;

/// Everything constant that a kernel may depend on. Two steps with equal specs share one kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelSpec {
    /// What to compute.
    pub op: StepOp,
    /// One entry an operand, in the order of [`StepOp::roles`].
    pub operands: Vec<OperandSpec>,
    /// The count that rows follow: `tokens`, or `outputs` after the rows were gathered.
    pub rows: Rows,
    /// Most rows.
    pub max_rows: u64,
    /// Most tokens of a sequence.
    pub max_context: u64,
}

impl KernelSpec {
    /// Where the operand of this name stands, by [`StepOp::roles`]; `None` where the op has none of that name.
    pub fn at(&self, name: &str) -> Option<usize> {
        self.op.roles().iter().position(|role| role.name == name)
    }
}

/// The constants of one operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperandSpec {
    /// An arena tensor.
    Tensor {
        /// f32 or i32.
        elem: Elem,
        /// Elements that mean something in a row.
        width: u64,
        /// Elements from row to row.
        stride: u64,
    },
    /// A weight.
    Weight {
        /// Element type.
        elem: Elem,
        /// Element order.
        layout: Layout,
    },
    /// A KV cache.
    Cache(CacheSpec),
}

/// The constants of a KV cache; the layout of a page is told in [`crate::abi`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CacheSpec {
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
    /// Whether pages are stored as tensor cores read them.
    pub tiled: bool,
}

impl CacheSpec {
    /// Elements of a V row, padding included.
    pub fn v_pad(&self) -> u64 {
        round_up(self.v_dim, V_ALIGN)
    }

    /// Whether a cache of these constants can be stored as tensor cores read it: bf16, pages of 64 tokens,
    /// keys of whole tiles, values of whole swizzle atoms.
    pub fn can_tile(&self) -> bool {
        self.elem == Elem::Bf16 && self.page == TILE && self.qk_dim % TILE == 0 && self.v_dim % 16 == 0
    }

    /// Element offset of the K part of `kv_head` in its page.
    pub fn k_offset(&self, kv_head: u64) -> u64 {
        kv_head * self.qk_dim * self.page
    }

    /// Element offset of the V part of `kv_head` in its page.
    pub fn v_offset(&self, kv_head: u64) -> u64 {
        self.kv_heads * self.qk_dim * self.page + kv_head * self.page * self.v_pad()
    }

    /// Element offset of dim `dim` of the key of `kv_head` at token `place` of its page.
    pub fn key_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.k_offset(kv_head)
            + if self.tiled {
                dim / TILE * TILE * self.page + swizzle(place, dim % TILE)
            } else {
                dim * self.page + place
            }
    }

    /// Element offset of dim `dim` of the value of `kv_head` at token `place` of its page.
    pub fn value_index(&self, kv_head: u64, place: u64, dim: u64) -> u64 {
        self.v_offset(kv_head) + if self.tiled { swizzle(dim, place) } else { place * self.v_pad() + dim }
    }

    /// Elements of a page.
    pub fn page_elements(&self) -> u64 {
        self.kv_heads * self.page * (self.qk_dim + self.v_pad())
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> u64 {
        self.page_elements() * self.elem.bytes()
    }
}

pub(super) fn of(plan: &Plan, step: &Step) -> KernelSpec {
    let mut rows = Rows::Tokens;
    let roles = step.op.roles();
    let operands = step
        .operands
        .iter()
        .zip(&roles)
        .map(|(operand, role)| match *operand {
            Operand::Buffer(id) => {
                let buffer = &plan.buffers[id.index()];
                if role.writes() {
                    rows = buffer.rows;
                }
                OperandSpec::Tensor { elem: buffer.elem, width: buffer.width, stride: buffer.stride() }
            }
            Operand::Weight(id) => {
                let weight = &plan.weights[id.index()];
                OperandSpec::Weight { elem: weight.elem, layout: weight.layout }
            }
            Operand::Cache(id) => {
                let cache = &plan.caches[id.index()];
                OperandSpec::Cache(cache.spec())
            }
        })
        .collect();
    let max_rows = match rows {
        Rows::Tokens => plan.model.chunk,
        Rows::Outputs => plan.model.max_outputs,
    };
    KernelSpec { op: step.op, operands, rows, max_rows, max_context: plan.model.max_context }
}
