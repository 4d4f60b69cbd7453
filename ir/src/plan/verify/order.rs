//! What is read was written before, and nothing came in between: buffers, caches, and the indices that kernels follow
//! (selections, chosen experts).

use std::collections::BTreeMap;

use super::super::{BufferId, CacheId, CachePolicy, Operand, Plan, SelectShape, Step, StepOp};
use super::Report;

/// What stands in memory while the steps go by.
struct State<'p> {
    plan: &'p Plan,
    /// Whether each buffer holds what its producer wrote, and who that was.
    written: Vec<Option<usize>>,
    /// The buffers that hold what was written, by their offset: no two of them overlap.
    live: BTreeMap<u64, BufferId>,
    /// The step that appended to each cache.
    appended: Vec<Option<usize>>,
}

/// Simulates one pass over the steps. Ids are in range: [`super::operands`] has seen to that.
pub fn check(plan: &Plan, report: &mut Report) {
    let mut state = State {
        plan,
        written: vec![None; plan.buffers.len()],
        live: BTreeMap::new(),
        appended: vec![None; plan.caches.len()],
    };
    for (index, step) in plan.steps.iter().enumerate() {
        state.reads(step, report);
        state.selection(step, report);
        state.experts(step, report);
        state.writes(index, step, report);
    }
    if state.written[plan.logits.index()].is_none() {
        report.add("logits", "nothing has written them at the end of the pass");
    }
    if plan.sampled.is_some_and(|id| state.written[id.index()].is_none()) {
        report.add("sampled", "nothing has written the tokens at the end of the pass");
    }
}

impl State<'_> {
    fn overlap(&self, a: BufferId, b: BufferId) -> bool {
        let (a, b) = (&self.plan.buffers[a.index()], &self.plan.buffers[b.index()]);
        a.offset < b.offset + b.bytes() && b.offset < a.offset + a.bytes()
    }

    fn reads(&self, step: &Step, report: &mut Report) {
        for (operand, role) in step.operands.iter().zip(step.op.signature()).filter(|(_, role)| !role.write) {
            match *operand {
                Operand::Buffer(id) if self.written[id.index()].is_none() => {
                    let name = &self.plan.buffers[id.index()].name;
                    report.add(
                        &step.name,
                        format!("reads {id} ({name}), which does not hold what was written to it"),
                    );
                }
                Operand::Cache(id) => self.cache_read(step, id, role.name, report),
                _ => {}
            }
        }
    }

    fn cache_read(&self, step: &Step, id: CacheId, role: &str, report: &mut Report) {
        let cache = &self.plan.caches[id.index()];
        if self.appended[id.index()].is_none() {
            report.add(
                &step.name,
                format!("reads cache {id} before its owner, layer {}, appends to it", cache.owner),
            );
        }
        let CachePolicy::Ring { window: kept, .. } = cache.policy else { return };
        let within = match step.op {
            StepOp::WindowAttention { window, .. } => window <= kept,
            StepOp::HybridAttention { window, .. } => role == "own" && window <= kept,
            _ => false,
        };
        if !within {
            report.add(&step.name, format!("reads more of cache {id} than the {kept} tokens that it keeps"));
        }
    }

    fn writes(&mut self, index: usize, step: &Step, report: &mut Report) {
        let roles = step.op.signature();
        let list = |write: bool| {
            step.operands.iter().zip(&roles).filter(move |(_, role)| role.write == write).filter_map(
                |(o, _)| match o {
                    Operand::Buffer(id) => Some(*id),
                    _ => None,
                },
            )
        };
        let written: Vec<BufferId> = list(true).collect();
        for (i, id) in written.iter().enumerate() {
            if list(false).chain(written[..i].iter().copied()).any(|other| self.overlap(*id, other)) {
                report.add(&step.name, format!("{id} overlaps another operand of the step"));
            }
        }
        for id in written {
            self.overwrite(id);
            self.written[id.index()] = Some(index);
            self.live.insert(self.plan.buffers[id.index()].offset, id);
        }
        for (operand, role) in step.operands.iter().zip(&roles) {
            if let (Operand::Cache(id), true) = (operand, role.write) {
                let owner = self.plan.caches[id.index()].owner;
                if step.layer != Some(owner) {
                    report.add(&step.name, format!("appends to cache {id} of layer {owner}"));
                }
                if self.appended[id.index()].replace(index).is_some() {
                    report.add(&step.name, format!("appends to cache {id} a second time in the pass"));
                }
            }
        }
    }

    /// Whatever lies under a buffer is gone.
    fn overwrite(&mut self, id: BufferId) {
        let buffer = &self.plan.buffers[id.index()];
        let before = self.live.range(..buffer.offset).next_back().map(|(at, _)| *at);
        let inside = self.live.range(buffer.offset..buffer.offset + buffer.bytes()).map(|(at, _)| *at);
        for at in inside.chain(before).collect::<Vec<u64>>() {
            if self.live.get(&at).is_some_and(|other| self.overlap(id, *other))
                && let Some(other) = self.live.remove(&at)
            {
                self.written[other.index()] = None;
            }
        }
    }

    /// Chosen experts are those of a router over as many.
    fn experts(&self, step: &Step, report: &mut Report) {
        let (StepOp::ExpertsUp { experts, active, .. } | StepOp::ExpertsDown { experts, active, .. }) =
            step.op
        else {
            return;
        };
        let Operand::Buffer(list) = step.operands[1] else { return };
        // A list that nobody wrote has been reported as a read.
        let Some(producer) = self.written[list.index()].map(|index| &self.plan.steps[index]) else { return };
        if producer.op != (StepOp::Router { experts, active })
            || producer.operands.get(1) != Some(&step.operands[1])
        {
            report
                .add(&step.name, format!("{} does not choose {active} of {experts} experts", producer.name));
        }
    }

    /// Selection provenance of one read.
    fn selection(&self, step: &Step, report: &mut Report) {
        let select: SelectShape = match step.op {
            StepOp::SparseAttention { select, .. } | StepOp::HybridAttention { select, .. } => select,
            _ => return,
        };
        let (Operand::Cache(cache), Operand::Buffer(list)) = (step.operands[1], step.operands[2]) else {
            return;
        };
        let read = &self.plan.caches[cache.index()];
        if select.block != read.page {
            report.add(
                &step.name,
                format!("blocks of {} tokens are looked up in pages of {}", select.block, read.page),
            );
        }
        // A list that nobody wrote, or that was overwritten, has been reported as a read.
        let Some(producer) = self.written[list.index()].map(|index| &self.plan.steps[index]) else { return };
        let over = match (producer.op, producer.operands.get(1)) {
            (StepOp::OracleAttention { select: made, .. }, Some(Operand::Cache(over))) if made == select => {
                *over
            }
            _ => {
                return report
                    .add(&step.name, format!("{} does not select the blocks that are read", producer.name));
            }
        };
        if over != cache && Some(read.owner) != step.layer {
            report.add(
                &step.name,
                format!("the blocks were selected over cache {over}, and cache {cache} is read"),
            );
        }
    }
}
