//! What the steps of a measured pass choose, where a workload says it: by kind and sizes of the steps that select blocks or experts.

use hyc_plan::{Plan, StepOp};

use crate::workload::{Workload, overlap};

impl Workload {
    /// Distinct blocks that 4, 16 and 64 neighbours at the end of a prompt select, in units of k, where the workload says what
    /// they select: the mean over KV heads. `None`: it does not, or no layer selects.
    pub fn overlaps(&self, plan: &Plan, tokens: u64) -> Option<Vec<(u64, f64)>> {
        let selection = self.selection?;
        let select = plan.steps.iter().find_map(|step| match step.op {
            StepOp::OracleAttention(op) => Some(op.select),
            _ => None,
        })?;
        let (heads, k) = (select.kv_heads, select.blocks);
        let begin = tokens.saturating_sub(plan.model.chunk);
        let blocks = selection.blocks((begin, tokens), heads, k, select.block);
        let of = |n: u64| overlap(&blocks, heads, k, n).map(|overlap| (n, overlap));
        Some([4, 16, 64].into_iter().filter_map(of).collect())
    }

    /// Experts that a chunk of `tokens` tokens at the beginning of a prompt touches, and how many there are, where the workload
    /// says which.
    pub fn touched(&self, plan: &Plan, tokens: u64) -> Option<(u64, u64)> {
        let routing = self.routing?;
        let router = plan.steps.iter().find_map(|step| match step.op {
            StepOp::Router(op) => Some(op),
            _ => None,
        })?;
        let mut chosen = routing.experts((0, tokens), router.experts, router.active);
        chosen.sort_unstable();
        chosen.dedup();
        Some((chosen.len() as u64, router.experts))
    }

    /// What steps choose in a pass over positions `begin..end` of one sequence, where the workload says it.
    fn choices(&self, plan: &Plan, (begin, end): (u64, u64)) -> Vec<Choice> {
        let mut choices: Vec<Choice> = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let sizes = match step.op {
                StepOp::OracleAttention(op) => [0, op.select.kv_heads, op.select.blocks, op.select.block],
                StepOp::Router(op) => [1, op.experts, op.active, 0],
                _ => continue,
            };
            if let Some(known) = choices.iter_mut().find(|choice| choice.sizes == sizes) {
                known.steps.push(index);
                continue;
            }
            let Workload { selection, routing } = *self;
            let rows = match sizes {
                [0, kv_heads, k, block] => selection.map(|s| s.blocks((begin, end), kv_heads, k, block)),
                [_, experts, active, _] => routing.map(|r| r.experts((begin, end), experts, active)),
            };
            choices.extend(rows.map(|rows| Choice { sizes, steps: vec![index], rows }));
        }
        choices
    }

    /// The chunks of a prompt, with what steps choose in them.
    pub fn chunks(&self, plan: &Plan, tokens: u64) -> Vec<Chunk> {
        let chunk = plan.model.chunk;
        let parts = (0..tokens).step_by(chunk as usize).map(|begin| (begin, tokens.min(begin + chunk)));
        parts.map(|(begin, end)| Chunk { begin, end, choices: self.choices(plan, (begin, end)) }).collect()
    }
}

/// One pass of a prefill.
pub struct Chunk {
    pub begin: u64,
    pub end: u64,
    pub choices: Vec<Choice>,
}

/// What steps of equal sizes choose in a pass.
pub struct Choice {
    /// Of what kind, and its sizes.
    sizes: [u64; 4],
    pub steps: Vec<usize>,
    pub rows: Vec<i32>,
}
