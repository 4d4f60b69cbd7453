//! What each op that was scheduled was made of, pass by pass back to the input.

use std::collections::{BTreeSet, HashMap};

use hyc_ir::{Graph, OpId};
use hyc_passes::{Origins, origins};

use super::subject::Stage;

/// What a pass made an op, or an ancestor of it, of.
pub struct Made {
    /// The stage whose pass it was.
    pub stage: usize,
    /// The ops of the graph before it.
    pub of: Vec<OpId>,
}

/// The origins of all passes.
pub struct Lineage {
    by_stage: Vec<Origins>,
}

impl Lineage {
    /// Compares each stage with the one before.
    pub fn new(stages: &[Stage]) -> Lineage {
        let mut by_stage = vec![Origins::default()];
        by_stage.extend(stages.windows(2).map(|pair| origins(&pair[0].graph, &pair[1].graph)));
        Lineage { by_stage }
    }

    /// What the pass of this stage found to be of no use: ops of the stage before.
    pub fn dropped(&self, stage: usize) -> &[OpId] {
        &self.by_stage[stage].dropped
    }

    /// What an op of the last stage was made of, the newest pass first; passes that left it and its ancestors alone are not
    /// told.
    pub fn of(&self, stages: &[Stage], id: OpId) -> Vec<Made> {
        let mut made = Vec::new();
        let mut now = BTreeSet::from([id]);
        for stage in (1..stages.len()).rev() {
            let (before, after) = (&stages[stage - 1].graph, &stages[stage].graph);
            let mut earlier: BTreeSet<OpId> = BTreeSet::new();
            let mut of: Vec<OpId> = Vec::new();
            for id in &now {
                let found = self.by_stage[stage].of(*id);
                if found.len() != 1 || before.op(found[0]).op.name() != after.op(*id).op.name() {
                    of.extend(found);
                }
                earlier.extend(found);
            }
            if !of.is_empty() {
                of.sort_by_key(|id| before.place(*id));
                of.dedup();
                made.push(Made { stage, of });
            }
            now = earlier;
        }
        made
    }
}

/// The steps of a plan by the ops that they stand for: steps keep the ops' order, and what a back end adds comes last.
/// Nothing where the two do not agree, as in a file that somebody changed.
pub fn steps(graph: &Graph, plan: &hyc_plan::Plan) -> HashMap<OpId, usize> {
    let names_values = |id: &OpId| {
        use hyc_ir::Op::{Cache, Output, Weight};
        matches!(graph.op(*id).op, Weight(_) | Cache(_) | Output(_))
    };
    let ops: Vec<OpId> = graph.ops().filter(|id| !names_values(id)).collect();
    let agree = ops.len() <= plan.steps.len()
        && ops.iter().zip(&plan.steps).all(|(id, step)| graph.op(*id).layer == step.layer);
    if !agree {
        return HashMap::new();
    }
    ops.into_iter().zip(0..).collect()
}
