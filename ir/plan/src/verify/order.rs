//! What is read was written before, and nothing came in between: buffers, caches, and the indices that kernels follow
//! (selections, chosen experts).

use std::collections::BTreeMap;

use super::{Describe, Report};
use crate::{Access, BufferId, CacheId, CachePolicy, Kind, Operand, Plan, Reach, Role, SelectShape, Step};

/// What stands in memory while the steps go by.
struct State<'p> {
    plan: &'p Plan,
    describe: &'p Describe<'p>,
    /// Whether each buffer holds what its producer wrote, and who that was.
    written: Vec<Option<usize>>,
    /// The buffers that hold what was written, by their offset: no two of them overlap.
    live: BTreeMap<u64, BufferId>,
    /// The step that appended to each cache.
    appended: Vec<Option<usize>>,
}

/// Simulates one pass over the steps. Ids are in range: [`super::operands`] has seen to that.
pub fn check(plan: &Plan, describe: &Describe<'_>, report: &mut Report) {
    let mut state = State {
        plan,
        describe,
        written: vec![None; plan.buffers.len()],
        live: BTreeMap::new(),
        appended: vec![None; plan.caches.len()],
    };
    for (index, step) in plan.steps.iter().enumerate() {
        let roles = describe(&step.op);
        state.reads(step, &roles, report);
        state.writes(index, step, &roles, report);
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
        self.plan.buffers[a.index()].overlaps(&self.plan.buffers[b.index()])
    }

    fn reads(&self, step: &Step, roles: &[Role], report: &mut Report) {
        for (operand, role) in step.operands.iter().zip(roles).filter(|(_, role)| role.access == Access::Read)
        {
            match *operand {
                Operand::Buffer(id) => match self.written[id.index()] {
                    None => {
                        let name = &self.plan.buffers[id.index()].name;
                        report.add(
                            &step.name,
                            format!("reads {id} ({name}), which does not hold what was written to it"),
                        );
                    }
                    Some(producer) => self.followed(step, roles, role, (producer, id), report),
                },
                Operand::Cache(id) => self.cache_read(step, id, role, report),
                Operand::Weight(_) => {}
            }
        }
    }

    fn cache_read(&self, step: &Step, id: CacheId, role: &Role, report: &mut Report) {
        let cache = &self.plan.caches[id.index()];
        if self.appended[id.index()].is_none() {
            report.add(
                &step.name,
                format!("reads cache {id} before its owner, layer {}, appends to it", cache.owner),
            );
        }
        let CachePolicy::Ring { window: kept, .. } = cache.policy else { return };
        let Kind::Cache { reach, .. } = role.kind else { return };
        if !(reach == Reach::Own || matches!(reach, Reach::Window(window) if window <= kept)) {
            report.add(&step.name, format!("reads more of cache {id} than the {kept} tokens that it keeps"));
        }
    }

    /// Indices that a kernel follows are what their producer, step `from`, says that it makes: the same, of the same
    /// thing.
    fn followed(
        &self,
        step: &Step,
        roles: &[Role],
        role: &Role,
        (from, list): (usize, BufferId),
        report: &mut Report,
    ) {
        let producer = &self.plan.steps[from];
        // What the producer says of the list; most reads are of no index, and ask nobody.
        let made = |theirs: &[Role]| {
            let mut written = producer.operands.iter().zip(theirs).filter(|(_, role)| role.writes());
            written.find(|(operand, _)| **operand == Operand::Buffer(list)).map(|(_, role)| role.kind)
        };
        match role.kind {
            Kind::Selection { shape, over } => {
                let theirs = (self.describe)(&producer.op);
                let cache = cache_of(step, roles, over);
                let source = match made(&theirs) {
                    Some(Kind::Selection { shape: made, over }) if made == shape => {
                        cache_of(producer, &theirs, over)
                    }
                    _ => None,
                };
                self.selection(step, shape, cache, (producer, source), report);
            }
            Kind::Experts { experts, active } => {
                if made(&(self.describe)(&producer.op)) != Some(role.kind) {
                    report.add(
                        &step.name,
                        format!("{} does not choose {active} of {experts} experts", producer.name),
                    );
                }
            }
            Kind::PageLists { select, lists, of } => {
                let theirs = (self.describe)(&producer.op);
                let source = match made(&theirs) {
                    Some(Kind::PageLists { select: s, lists: l, of }) if (s, l) == (select, lists) => {
                        buffer_of(producer, &theirs, of)
                    }
                    _ => None,
                };
                let selection = buffer_of(step, roles, of);
                let since = selection.and_then(|sel| self.written[sel.index()]);
                if source.is_none() || source != selection || since.is_none_or(|since| since > from) {
                    let name = &producer.name;
                    report.add(
                        &step.name,
                        format!("{name} does not list the pages of the selection that is read"),
                    );
                }
            }
            Kind::Rows(_)
            | Kind::RowsOrTiles(_)
            | Kind::TokenRows(_)
            | Kind::Token
            | Kind::Vector(_)
            | Kind::Matrices { .. }
            | Kind::Table { .. }
            | Kind::Cache { .. } => {}
        }
    }

    /// Selection provenance of one read: of blocks of `cache` that `producer` selected over `source`.
    fn selection(
        &self,
        step: &Step,
        shape: SelectShape,
        cache: Option<CacheId>,
        (producer, source): (&Step, Option<CacheId>),
        report: &mut Report,
    ) {
        let Some(cache) = cache else {
            return report.add(&step.name, "reads a selection over no cache of its own");
        };
        let read = &self.plan.caches[cache.index()];
        if shape.block != read.page {
            report.add(
                &step.name,
                format!("blocks of {} tokens are looked up in pages of {}", shape.block, read.page),
            );
        }
        let Some(over) = source else {
            return report
                .add(&step.name, format!("{} does not select the blocks that are read", producer.name));
        };
        if over != cache && Some(read.owner) != step.layer {
            report.add(
                &step.name,
                format!("the blocks were selected over cache {over}, and cache {cache} is read"),
            );
        }
    }

    fn writes(&mut self, index: usize, step: &Step, roles: &[Role], report: &mut Report) {
        let list = |write: bool| {
            step.operands.iter().zip(roles).filter(move |(_, role)| role.writes() == write).filter_map(
                |(o, _)| match o {
                    Operand::Buffer(id) => Some(*id),
                    Operand::Weight(_) | Operand::Cache(_) => None,
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
        for (operand, role) in step.operands.iter().zip(roles) {
            if let (Operand::Cache(id), true) = (operand, role.writes()) {
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
}

/// The operand of that name.
fn operand(step: &Step, roles: &[Role], name: &str) -> Option<Operand> {
    step.operands.iter().zip(roles).find(|(_, role)| role.name == name).map(|(operand, _)| *operand)
}

/// The cache in the operand of that name.
fn cache_of(step: &Step, roles: &[Role], name: &str) -> Option<CacheId> {
    match operand(step, roles, name)? {
        Operand::Cache(id) => Some(id),
        Operand::Buffer(_) | Operand::Weight(_) => None,
    }
}

/// The buffer in the operand of that name.
fn buffer_of(step: &Step, roles: &[Role], name: &str) -> Option<BufferId> {
    match operand(step, roles, name)? {
        Operand::Buffer(id) => Some(id),
        Operand::Cache(_) | Operand::Weight(_) => None,
    }
}
