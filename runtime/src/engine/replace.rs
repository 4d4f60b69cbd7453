//! Choices of a pass that are made up, to measure what depends on them.

use hyc_plan::{BufferId, Kind, Operand, Step};

use super::Engine;
use crate::error::{Error, ErrorKind, Result};

impl Engine {
    /// In the pass in hand, what each of these steps selects or chooses is `rows` in place of its own: `[tokens][width]`, i32. To
    /// measure what depends on it. Errors: no such step; one that selects no blocks and chooses no experts; another number of
    /// rows; blocks that a row does not see, or experts that there are not; no pass that begins.
    pub fn replace_choice(&mut self, steps: &[usize], rows: &[i32]) -> Result<()> {
        let wrong = |message: String| {
            let help = "give rows as the steps would write them, after `Engine::begin`";
            Error::new(ErrorKind::BadInput, message).help(help)
        };
        if self.next != Some(0) {
            return Err(wrong("no pass begins here".to_string()));
        }
        let (plan, positions) = (self.plan(), &self.input.positions);
        let (mut places, mut stride) = (Vec::new(), None);
        for &index in steps {
            let step = plan.steps.get(index).ok_or_else(|| wrong(format!("there is no step {index}")))?;
            let (at, kind, id) =
                choice(step).ok_or_else(|| wrong(format!("step {index} ({}) chooses nothing", step.name)))?;
            let buffer = &plan.buffers[id.index()];
            let width = buffer.width as usize;
            if rows.len() != width * positions.len() {
                let message = format!("{} numbers are not {} rows of {width}", rows.len(), positions.len());
                return Err(wrong(message));
            }
            let mut listed = rows.chunks_exact(width.max(1)).zip(positions);
            if !listed.all(|(row, position)| may_choose(&kind, row, *position)) {
                return Err(wrong(format!("step {index} ({}) can choose no such rows", step.name)));
            }
            places.push((index, at));
            stride = Some((width, buffer.stride() as usize));
        }
        let Some((width, stride)) = stride else { return Ok(()) };
        let padded = rows.chunks_exact(width.max(1)).flat_map(|row| {
            let padding = std::iter::repeat_n(&0, stride - width);
            row.iter().chain(padding).flat_map(|x| x.to_le_bytes())
        });
        let bytes: Vec<u8> = padded.collect();
        // SAFETY: the buffers have rows for all tokens of a pass, all of one width, and the values are such as the steps write.
        unsafe { self.runner.clock().replace(&places, &bytes) }
    }
}

/// What a step selects or chooses: the operand's number, what it is, and its buffer.
fn choice(step: &Step) -> Option<(usize, Kind, BufferId)> {
    step.op.roles().into_iter().zip(&step.operands).enumerate().find_map(|(at, (role, operand))| {
        let counts = role.writes() && matches!(role.kind, Kind::Selection { .. } | Kind::Experts { .. });
        match operand {
            Operand::Buffer(id) if counts => Some((at, role.kind, *id)),
            Operand::Buffer(_) | Operand::Weight(_) | Operand::Cache(_) => None,
        }
    })
}

/// Whether a row at a position can be such a choice.
fn may_choose(kind: &Kind, row: &[i32], position: i32) -> bool {
    match *kind {
        Kind::Experts { experts, .. } => row.iter().all(|e| (0..experts as i64).contains(&i64::from(*e))),
        Kind::Selection { shape, .. } => {
            row.iter().all(|b| *b >= -1 && i64::from(*b) * shape.block as i64 <= i64::from(position))
        }
        Kind::PageLists { .. }
        | Kind::Rows(_)
        | Kind::RowsOrTiles(_)
        | Kind::TokenRows(_)
        | Kind::Token
        | Kind::Vector(_)
        | Kind::Matrices { .. }
        | Kind::Table { .. }
        | Kind::Cache { .. } => false,
    }
}
