//! Nothing is in a plan that no step uses: then what a session allocates, and how long it takes to check a plan, follow
//! from its steps.

use super::Report;
use crate::{Operand, Plan};

/// Checks that each entry is used. Ids are in range: [`super::operands`] has seen to that.
pub fn check(plan: &Plan, report: &mut Report) {
    let mut kernels = vec![false; plan.kernels.len()];
    let mut buffers = vec![false; plan.buffers.len()];
    let mut weights = vec![false; plan.weights.len()];
    let mut caches = vec![false; plan.caches.len()];
    for step in &plan.steps {
        kernels[step.kernel.index()] = true;
        for (operand, role) in step.operands.iter().zip(step.op.roles()) {
            match *operand {
                Operand::Weight(id) => weights[id.index()] = true,
                // What is read was written before.
                Operand::Buffer(id) => buffers[id.index()] |= role.writes(),
                Operand::Cache(id) => caches[id.index()] |= role.writes(),
            }
        }
    }
    let mut all = |used: &[bool], what: &str, name: &dyn Fn(usize) -> String| {
        for index in (0..used.len()).filter(|index| !used[*index]) {
            report.add(name(index), format!("no step {what} it"));
        }
    };
    all(&kernels, "runs", &|i| plan.kernels[i].name.clone());
    all(&buffers, "writes", &|i| plan.buffers[i].name.clone());
    all(&weights, "reads", &|i| plan.weights[i].name.clone());
    all(&caches, "appends to", &|i| plan.caches[i].name.clone());
    for chain in &plan.chains {
        if chain.sparse.iter().chain([&chain.oracle]).any(|layer| *layer >= plan.model.layers) {
            report.add("chains", format!("layer {} or one that reads it is not the model's", chain.oracle));
        }
    }
}
