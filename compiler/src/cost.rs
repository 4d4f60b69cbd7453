//! What a plan must read and compute: the floors that a measurement is set beside.

use hyc_ir::plan::{AttnShape, CacheId, Epilogue, Operand, Plan, Step, StepOp, WeightId};

/// Bytes and operations of a plan.
pub struct Cost<'p> {
    plan: &'p Plan,
}

/// The cost of a plan.
pub fn of(plan: &Plan) -> Cost<'_> {
    Cost { plan }
}

/// Bytes of a step's experts that `tokens` tokens do not choose, if each chooses others.
fn unread_experts(plan: &Plan, step: &Step, tokens: u64) -> u64 {
    let (experts, active) = match step.op {
        StepOp::ExpertsUp { experts, active, .. } | StepOp::ExpertsDown { experts, active, .. } => {
            (experts, active)
        }
        _ => return 0,
    };
    let bytes = step.operands.iter().filter_map(|operand| match operand {
        Operand::Weight(id) => Some(plan.weights[id.index()].bytes()),
        _ => None,
    });
    bytes.map(|bytes| bytes / experts * experts.saturating_sub(active.saturating_mul(tokens))).sum()
}

impl Cost<'_> {
    /// Tokens that each cache read of a step sees at `context`.
    fn reads(&self, step: &Step, context: u64) -> Vec<(CacheId, u64)> {
        let caches: Vec<CacheId> = step
            .operands
            .iter()
            .zip(step.op.signature())
            .filter_map(|(operand, role)| match operand {
                Operand::Cache(id) if !role.write => Some(*id),
                _ => None,
            })
            .collect();
        let tokens: Vec<u64> = match step.op {
            StepOp::FullAttention { .. } | StepOp::OracleAttention { .. } => vec![context],
            StepOp::WindowAttention { window, .. } => vec![window.min(context)],
            StepOp::SparseAttention { select, .. } => vec![(select.blocks * select.block).min(context)],
            StepOp::HybridAttention { select, window, .. } => {
                vec![(select.blocks * select.block).min(context), window.min(context)]
            }
            _ => vec![],
        };
        caches.into_iter().zip(tokens).collect()
    }

    /// Bytes of keys and values that `step` reads for one token at `context`.
    fn kv_bytes(&self, step: &Step, context: u64) -> u64 {
        let kv = self.reads(step, context).into_iter();
        kv.map(|(id, tokens)| tokens * self.plan.caches[id.index()].token_bytes()).sum()
    }

    /// Bytes that a decode step of `batch` sequences reads: each weight once, the keys and values of each
    /// sequence. A weight that two steps share (a tied embedding) counts once.
    pub fn decode_bytes(&self, context: u64, batch: u64) -> u64 {
        let mut seen = vec![false; self.plan.weights.len()];
        let mut sum = 0;
        for step in &self.plan.steps {
            sum += self.weight_bytes(step, batch, &mut |id| !std::mem::replace(&mut seen[id.index()], true));
            sum += batch * self.kv_bytes(step, context);
        }
        sum
    }

    /// The part of [`Cost::decode_bytes`] that one step of the plan reads.
    pub fn step_bytes(&self, step: &Step, context: u64, batch: u64) -> u64 {
        self.weight_bytes(step, batch, &mut |_| true) + batch * self.kv_bytes(step, context)
    }

    /// Bytes of those of a step's weights that `counts` lets count. An embedding gives a row a token.
    fn weight_bytes(&self, step: &Step, tokens: u64, counts: &mut dyn FnMut(WeightId) -> bool) -> u64 {
        if let StepOp::Embed { .. } = step.op {
            return 0;
        }
        let weights = step.operands.iter().filter_map(|operand| match operand {
            Operand::Weight(id) if counts(*id) => Some(self.plan.weights[id.index()].bytes()),
            _ => None,
        });
        let sum: u64 = weights.sum();
        sum.saturating_sub(unread_experts(self.plan, step, tokens))
    }

    /// Operations of one decode step of `batch` sequences at `context`, in one step of the plan.
    pub fn decode_flop(&self, step: &Step, context: u64, batch: u64) -> f64 {
        let attention: f64 = match attention(&step.op) {
            Some(shape) => {
                let tokens: u64 = self.reads(step, context).iter().map(|(_, tokens)| *tokens).sum();
                (shape.heads * (shape.qk_dim + shape.v_dim) * tokens) as f64
            }
            None => 0.0,
        };
        2.0 * batch as f64 * (matrices(&step.op) + attention)
    }

    /// Operations of a prefill of `context` tokens; a multiply-add counts as two. Logits are for one row.
    pub fn prefill_flop(&self, context: u64) -> f64 {
        self.plan.steps.iter().map(|step| self.step_flop(step, context)).sum()
    }

    /// The part of [`Cost::prefill_flop`] that one step of the plan computes.
    pub fn step_flop(&self, step: &Step, context: u64) -> f64 {
        let n = context as f64;
        let outputs = matches!(step.operands.last(), Some(Operand::Buffer(id))
            if self.plan.buffers[id.index()].rows == hyc_ir::plan::Rows::Outputs);
        let attention: f64 = match attention(&step.op) {
            Some(shape) => {
                // A token at position t sees min(t, limit) tokens; summed over t.
                let seen = |limit: u64| {
                    let limit = limit.min(context) as f64;
                    limit * (limit + 1.0) / 2.0 + (n - limit) * limit
                };
                let tokens: f64 = self.reads(step, context).iter().map(|(_, tokens)| seen(*tokens)).sum();
                (shape.heads * (shape.qk_dim + shape.v_dim)) as f64 * tokens
            }
            None => 0.0,
        };
        2.0 * (matrices(&step.op) * if outputs { 1.0 } else { n } + attention)
    }
}

/// Multiply-adds of an op's matrices for one row.
fn matrices(op: &StepOp) -> f64 {
    let count = match *op {
        StepOp::Linear { inn, out, epilogue: Epilogue::SwiGlu, .. } => 2 * inn * out,
        StepOp::Linear { inn, out, .. } => inn * out,
        StepOp::QkvAppend { inn, shape, own_kv, .. } => {
            let kv = if own_kv { shape.kv_heads * (shape.qk_dim + shape.v_dim) } else { 0 };
            inn * (shape.heads * shape.qk_dim + kv)
        }
        StepOp::ExpertsUp { active, inn, ffn, .. } => 2 * active * inn * ffn,
        StepOp::ExpertsDown { active, out, ffn, .. } => active * out * ffn,
        _ => 0,
    };
    count as f64
}

/// The geometry of an attention.
fn attention(op: &StepOp) -> Option<AttnShape> {
    match *op {
        StepOp::FullAttention { shape, .. }
        | StepOp::OracleAttention { shape, .. }
        | StepOp::WindowAttention { shape, .. }
        | StepOp::SparseAttention { shape, .. }
        | StepOp::HybridAttention { shape, .. } => Some(shape),
        _ => None,
    }
}
