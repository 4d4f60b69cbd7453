//! Which rows of which sequences a step takes.

use hyc_plan::ModelInfo;

use super::sequence::{Sequence, SequenceId};
use crate::step_input::StepInput;

/// A step: its input, and whose its rows are.
#[derive(Default)]
pub struct Schedule {
    pub input: StepInput,
    /// The sequences, in the order of the step's, and how many tokens each one gives.
    pub taken: Vec<(SequenceId, usize)>,
    /// Of each row of logits.
    pub outputs: Vec<SequenceId>,
}

/// The next step's rows: decode rows first, then prompts, as far as they fit. `all_logits`: each row gives logits; else
/// the last of each sequence that is through with what waits.
pub fn schedule<'s>(
    m: &ModelInfo,
    sequences: impl Iterator<Item = &'s Sequence>,
    all_logits: bool,
) -> Schedule {
    let mut order: Vec<&Sequence> = sequences.filter(|s| !s.waiting().is_empty()).collect();
    order.sort_by_key(|s| (s.waiting().len() > 1, s.id));
    order.truncate(m.max_batch as usize);
    let max_pages = order.iter().map(|s| s.pages.len()).max().unwrap_or(0);
    let limit = if all_logits { m.chunk.min(m.max_outputs) } else { m.chunk } as usize;
    let mut step = Schedule::default();
    let input = &mut step.input;
    for s in order {
        let waiting = s.waiting();
        let count = waiting.len().min(limit - input.token_ids.len());
        let ends = count == waiting.len();
        if count == 0 || (ends && !all_logits && step.outputs.len() as u64 == m.max_outputs) {
            continue;
        }
        let index = input.ring_slot.len() as i32;
        for (offset, token) in waiting[..count].iter().enumerate() {
            if all_logits || (ends && offset + 1 == count) {
                input.out_rows.push(input.token_ids.len() as i32);
                step.outputs.push(s.id);
            }
            input.token_ids.push(*token as i32);
            input.positions.push((s.len + offset) as i32);
            input.sequence.push(index);
        }
        input.page_table.extend(s.pages.iter().copied().chain(std::iter::repeat(-1)).take(max_pages));
        input.ring_slot.push(s.slot as i32);
        step.taken.push((s.id, count));
    }
    step
}
