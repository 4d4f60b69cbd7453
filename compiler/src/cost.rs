//! What a plan must read and compute: the floors that a measurement is set beside.

use hyc_plan::work::{experts, is_chosen, multiply_adds, reads};
use hyc_plan::{CacheId, Kind, Operand, Plan, Role, Step, WeightId};

/// Bytes and operations of a plan.
pub struct Cost<'p> {
    plan: &'p Plan,
}

/// The cost of a plan.
pub fn of(plan: &Plan) -> Cost<'_> {
    Cost { plan }
}

impl Cost<'_> {
    /// Tokens that each cache read of a step sees at `context`.
    fn reads(&self, step: &Step, context: u64) -> Vec<(CacheId, u64)> {
        let cache = |(index, tokens): (usize, u64)| match step.operands.get(index) {
            Some(Operand::Cache(id)) => Some((*id, tokens)),
            Some(Operand::Buffer(_) | Operand::Weight(_)) | None => None,
        };
        reads(&step.op, context).into_iter().filter_map(cache).collect()
    }

    /// Bytes of keys and values that `step` reads for one token at `context`.
    fn kv_bytes(&self, step: &Step, context: u64) -> u64 {
        let kv = self.reads(step, context).into_iter();
        let bytes = kv.map(|(id, tokens)| tokens.saturating_mul(self.plan.caches[id.index()].token_bytes()));
        bytes.fold(0, u64::saturating_add)
    }

    /// Bytes that a decode step of `batch` sequences reads: each weight once, the keys and values of each
    /// sequence. A weight that two steps share (a tied embedding) counts once.
    pub fn decode_bytes(&self, context: u64, batch: u64) -> u64 {
        let mut seen = vec![false; self.plan.weights.len()];
        let mut sum = 0u64;
        for step in &self.plan.steps {
            let mut first = |id: WeightId| !std::mem::replace(&mut seen[id.index()], true);
            sum = sum.saturating_add(self.weight_bytes(step, batch, &mut first));
            sum = sum.saturating_add(batch.saturating_mul(self.kv_bytes(step, context)));
        }
        sum
    }

    /// The part of [`Cost::decode_bytes`] that one step of the plan reads.
    pub fn step_bytes(&self, step: &Step, context: u64, batch: u64) -> u64 {
        let kv = batch.saturating_mul(self.kv_bytes(step, context));
        self.weight_bytes(step, batch, &mut |_| true).saturating_add(kv)
    }

    /// Bytes of those of a step's weights that `counts` lets count. A table gives a row per token; of experts, those
    /// that `tokens` tokens choose, if each chooses others.
    fn weight_bytes(&self, step: &Step, tokens: u64, counts: &mut dyn FnMut(WeightId) -> bool) -> u64 {
        let roles = step.op.roles();
        let chosen =
            experts(&roles).map(|(experts, active)| (experts, experts.min(active.saturating_mul(tokens))));
        let bytes = |(operand, role): (&Operand, &Role)| {
            let (Operand::Weight(id), false) = (operand, matches!(role.kind, Kind::Table { .. })) else {
                return 0;
            };
            if !counts(*id) {
                return 0;
            }
            let bytes = self.plan.weights[id.index()].bytes();
            match (role.kind, chosen) {
                (_, Some((experts, chosen))) if is_chosen(role) => bytes / experts * chosen,
                _ => bytes,
            }
        };
        step.operands.iter().zip(&roles).map(bytes).sum()
    }

    /// Operations of one decode step of `batch` sequences at `context`, in one step of the plan.
    pub fn decode_flop(&self, step: &Step, context: u64, batch: u64) -> f64 {
        let attention: f64 = match step.op.attention() {
            Some(shape) => {
                let tokens: u64 = self.reads(step, context).iter().map(|(_, tokens)| *tokens).sum();
                (shape.heads * (shape.qk_dim + shape.v_dim) * tokens) as f64
            }
            None => 0.0,
        };
        2.0 * batch as f64 * (multiply_adds(&step.op) + attention)
    }

    /// Operations of a prefill of `context` tokens; a multiply-add counts as two. Logits are for one row.
    pub fn prefill_flop(&self, context: u64) -> f64 {
        self.plan.steps.iter().map(|step| self.step_flop(step, context)).sum()
    }

    /// The part of [`Cost::prefill_flop`] that one step of the plan computes.
    pub fn step_flop(&self, step: &Step, context: u64) -> f64 {
        let n = context as f64;
        let outputs = matches!(step.operands.last(), Some(Operand::Buffer(id))
            if self.plan.buffers[id.index()].rows == hyc_plan::Rows::Outputs);
        let attention: f64 = match step.op.attention() {
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
        2.0 * (multiply_adds(&step.op) * if outputs { 1.0 } else { n } + attention)
    }
}
