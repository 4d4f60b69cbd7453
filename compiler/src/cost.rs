//! What a plan must read and compute: the floors that a measurement is set beside.

use hyc_ir::plan::{CacheId, Operand, Plan, Step, StepOp};

/// Bytes and operations of a plan.
pub struct Cost<'p> {
    plan: &'p Plan,
    weight_bytes: u64,
}

/// The cost of a plan.
pub fn of(plan: &Plan) -> Cost<'_> {
    let table = |step: &Step| match (step.op, step.operands.first()) {
        (StepOp::Embed { .. }, Some(Operand::Weight(id))) => Some(*id),
        _ => None,
    };
    // The embedding table gives one row a token, unless a product reads it as well.
    let tables: Vec<_> = plan.steps.iter().filter_map(table).collect();
    let alone = |id: &hyc_ir::plan::WeightId| {
        plan.steps.iter().filter(|s| s.operands.contains(&Operand::Weight(*id))).count() == 1
    };
    let skipped: u64 = tables.iter().filter(|id| alone(id)).map(|id| plan.weights[id.index()].bytes()).sum();
    let experts: u64 = plan.steps.iter().map(|step| unread_experts(plan, step)).sum();
    let all: u64 = plan.weights.iter().map(hyc_ir::plan::Weight::bytes).sum();
    Cost { plan, weight_bytes: all - skipped - experts }
}

/// Bytes of a step's experts that one token does not choose.
fn unread_experts(plan: &Plan, step: &Step) -> u64 {
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
    bytes.map(|bytes| bytes / experts * (experts - active)).sum()
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

    /// Bytes that one decode step of one sequence reads: the weights, and keys and values.
    pub fn decode_bytes(&self, context: u64) -> u64 {
        self.weight_bytes + self.plan.steps.iter().map(|step| self.kv_bytes(step, context)).sum::<u64>()
    }

    /// The part of [`Cost::decode_bytes`] that one step of the plan reads.
    pub fn step_bytes(&self, step: &Step, context: u64) -> u64 {
        let weights = step.operands.iter().filter_map(|operand| match operand {
            Operand::Weight(id) => Some(self.plan.weights[id.index()].bytes()),
            _ => None,
        });
        let whole = if matches!(step.op, StepOp::Embed { .. }) { 0 } else { weights.sum::<u64>() };
        whole - unread_experts(self.plan, step) + self.kv_bytes(step, context)
    }

    /// Operations of a prefill of `context` tokens; a multiply-add counts as two. Logits are for one row.
    pub fn prefill_flop(&self, context: u64) -> f64 {
        self.plan.steps.iter().map(|step| self.step_flop(step, context)).sum()
    }

    /// The part of [`Cost::prefill_flop`] that one step of the plan computes.
    pub fn step_flop(&self, step: &Step, context: u64) -> f64 {
        let n = context as f64;
        let matrices: f64 = match step.op {
            StepOp::Linear { inn, out, epilogue, .. } => {
                let count = if epilogue == hyc_ir::plan::Epilogue::SwiGlu { 2.0 } else { 1.0 };
                let outputs = matches!(step.operands.last(), Some(Operand::Buffer(id))
                    if self.plan.buffers[id.index()].rows == hyc_ir::plan::Rows::Outputs);
                return 2.0 * count * (inn * out) as f64 * if outputs { 1.0 } else { n };
            }
            StepOp::QkvAppend { inn, shape, own_kv, .. } => {
                let kv = if own_kv { shape.kv_heads * (shape.qk_dim + shape.v_dim) } else { 0 };
                (inn * (shape.heads * shape.qk_dim + kv)) as f64
            }
            StepOp::ExpertsUp { active, inn, ffn, .. } => 2.0 * (active * inn * ffn) as f64,
            StepOp::ExpertsDown { active, out, ffn, .. } => (active * out * ffn) as f64,
            _ => 0.0,
        };
        let attention: f64 = match step.op {
            StepOp::FullAttention { shape, .. }
            | StepOp::OracleAttention { shape, .. }
            | StepOp::WindowAttention { shape, .. }
            | StepOp::SparseAttention { shape, .. }
            | StepOp::HybridAttention { shape, .. } => {
                // A token at position t sees min(t, limit) tokens; summed over t.
                let seen = |limit: u64| {
                    let limit = limit.min(context) as f64;
                    limit * (limit + 1.0) / 2.0 + (n - limit) * limit
                };
                let tokens: f64 = self.reads(step, context).iter().map(|(_, tokens)| seen(*tokens)).sum();
                (shape.heads * (shape.qk_dim + shape.v_dim)) as f64 * tokens
            }
            _ => 0.0,
        };
        2.0 * (matrices * n + attention)
    }
}
