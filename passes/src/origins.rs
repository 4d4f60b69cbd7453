//! Which ops of the graph before a pass each op after it was made of.
//!
//! Passes keep no record of it: values outlive the ops that make them, and what a rewrite replaces makes the same
//! values as before or values that nobody makes any more. So an op stands for its own earlier self (the makers of its
//! results), and for every op whose results are gone and led to it. An op whose results are all new stands for what its readers
//! do.
//!
//! ```text
//! %s = sparse_attention(..)
//! %w = window_attention(..)          =>   %o = hybrid_attention(..)      made of sparse_attention (%s is gone and led
//! %o = add(%s, %w)                                                       to %o), window_attention and add
//! ```

use std::collections::{BTreeSet, HashMap};

use hyc_ir::{Graph, OpId};

/// Where the ops after a pass come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    of: HashMap<OpId, Vec<OpId>>,
    /// Ops that led to nothing that is left: what a pass found to be of no use. In execution order.
    pub dropped: Vec<OpId>,
}

impl Origins {
    /// The ops before the pass that `after` was made of, in execution order: one for an op that stayed.
    pub fn of(&self, after: OpId) -> &[OpId] {
        self.of.get(&after).map_or(&[], Vec::as_slice)
    }
}

/// Compares a graph with what a pass, or several, made of a copy of it.
pub fn origins(before: &Graph, after: &Graph) -> Origins {
    let mut heirs: HashMap<OpId, BTreeSet<OpId>> = HashMap::new();
    let ends: Vec<OpId> = after.ops().filter(|id| after.op(*id).results.is_empty()).collect();
    let mut origins = Origins::default();
    // Readers first, so that what a value led to is known where its maker is met.
    for id in before.ops().rev() {
        let results = &before.op(id).results;
        let mut mine: BTreeSet<OpId> = BTreeSet::new();
        if results.is_empty() {
            mine.extend(&ends);
        }
        for result in results {
            if let Some(maker) = after.def(*result) {
                mine.insert(maker);
            } else {
                let readers = before.users(*result).filter_map(|(reader, _)| heirs.get(&reader));
                mine.extend(readers.flatten());
            }
        }
        if mine.is_empty() {
            origins.dropped.push(id);
        }
        heirs.insert(id, mine);
    }
    origins.dropped.reverse();
    for id in before.ops() {
        for heir in &heirs[&id] {
            origins.of.entry(*heir).or_default().push(id);
        }
    }
    // Readers first: what is new altogether was made for them.
    for id in after.ops().rev().filter(|id| !origins.of.contains_key(id)).collect::<Vec<OpId>>() {
        let results = after.op(id).results.iter();
        let readers = results.flat_map(|result| after.users(*result));
        let of: BTreeSet<OpId> = readers.flat_map(|(reader, _)| origins.of(reader).to_vec()).collect();
        let mut of: Vec<OpId> = of.into_iter().collect();
        of.sort_unstable_by_key(|id| before.place(*id));
        origins.of.insert(id, of);
    }
    origins
}
