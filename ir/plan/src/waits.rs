//! What the parts of a slice have to wait for: the steps before, with which they share memory that either writes.

use crate::plan::{Operand, Plan, Step};
use crate::slice::{Slice, Wait};
use crate::spec::KernelSpec;

impl Plan {
    /// The number of the slice that begins with this step.
    pub fn slice_at(&self, step: usize) -> Option<usize> {
        self.slices.binary_search_by_key(&step, |slice| slice.first as usize).ok()
    }

    /// What the kernels of a slice's steps are compiled from. Panics on steps or ids out of range: verify first.
    pub fn slice_specs(&self, slice: &Slice) -> Vec<KernelSpec> {
        self.steps[slice.steps()].iter().map(|step| self.spec(step)).collect()
    }

    /// Whether two steps may not run at the same time: one of them writes what the other reads or writes. Ids are in range.
    pub fn conflict(&self, a: &Step, b: &Step) -> bool {
        let sides = |step: &Step| step.operands.iter().copied().zip(step.op.roles()).collect::<Vec<_>>();
        let others = sides(b);
        sides(a).iter().any(|(x, role)| {
            let mut met = others.iter().filter(|(_, other)| role.writes() || other.writes());
            met.any(|(y, _)| self.overlap(*x, *y))
        })
    }

    /// Whether two operands have memory in common.
    fn overlap(&self, a: Operand, b: Operand) -> bool {
        match (a, b) {
            (Operand::Buffer(a), Operand::Buffer(b)) => {
                self.buffers[a.index()].overlaps(&self.buffers[b.index()])
            }
            (a, b) => a == b,
        }
    }

    /// The least waits with which the parts of these steps, split into so many tasks each, do what the steps in turn do.
    pub fn waits(&self, steps: &[Step], tasks: &[u64]) -> Vec<Vec<Wait>> {
        let mut before: Vec<Vec<bool>> = Vec::new();
        let mut waits = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let mut reached = vec![false; i];
            let mut own = Vec::new();
            for j in (0..i).rev() {
                if !reached[j] && self.conflict(step, &steps[j]) {
                    own.push(Wait { part: j as u32, count: tasks[j] });
                    reached[j] = true;
                    reached.iter_mut().zip(&before[j]).for_each(|(reached, there)| *reached |= there);
                }
            }
            own.reverse();
            waits.push(own);
            before.push(reached);
        }
        waits
    }
}
