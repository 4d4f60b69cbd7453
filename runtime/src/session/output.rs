//! The model's outputs by name.

use hyc_plan::{BufferId, Operand, Plan, Step, StepOp, WeightId, pack};

use super::sequence::SequenceId;
use super::state::Session;
use crate::error::{Error, ErrorKind, Result};

/// What [`Session::output`] can be asked for.
pub const OUTPUTS: [&str; 2] = ["logits", "hidden"];

impl Session {
    /// An output of the model for a sequence's last token, of the session's last step: `logits`, `[vocab]`, or `hidden`,
    /// the last hidden state behind the final norm, which the head multiplies, `[hidden]`; f32. On a GPU it is copied from
    /// there now, rounded to bf16 where the head's weights are.
    ///
    /// Errors: another name; a sequence that had no row of logits in the last step.
    ///
    /// ```
    /// # use hyc_handmade::{Parts, Plain};
    /// # use hyc_runtime::{Session, SessionOptions};
    /// # fn main() -> hyc_runtime::Result<()> {
    /// # let mut session = Session::with_kernels(Parts::new().load()?, Box::new(Plain), &SessionOptions::default())?;
    /// let id = session.add_sequence()?;
    /// session.feed(id, &[1, 2, 3])?;
    /// session.step_sampled()?;
    /// assert_eq!(session.output(id, "logits")?.len(), 16);
    /// assert_eq!(session.output(id, "hidden")?.len(), 16);
    /// # Ok(())
    /// # }
    /// ```
    pub fn output(&self, id: SequenceId, name: &str) -> Result<Vec<f32>> {
        self.place(id)?;
        let row = self.outputs.iter().rposition(|of| *of == id).ok_or_else(|| {
            let message = format!("the session's last step gave sequence {id} no row of outputs");
            Error::new(ErrorKind::BadInput, message).help("ask between that sequence's step and the next one")
        })?;
        let plan = self.model().plan();
        match name {
            "logits" => self.engine.row(plan.logits, row as u64),
            "hidden" => self.hidden(head(plan)?, row as u64),
            _ => {
                let message = format!("the model has no output `{name}`");
                Err(Error::new(ErrorKind::BadInput, message).help(format!("it has {}", OUTPUTS.join(", "))))
            }
        }
    }

    /// The head's input, through the norm that is fused into it: x / sqrt(mean(x^2) + eps) * weight.
    fn hidden(&self, head: Head, row: u64) -> Result<Vec<f32>> {
        let mut x = self.engine.row(head.x, row)?;
        let Some((eps, norm)) = head.norm else { return Ok(x) };
        let weight = self.model().plan().weights[norm.index()].format;
        let scale = pack::load_row(weight, self.model().weight(norm)?, 0, x.len() as u64);
        let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        let inverse = 1.0 / (squares / x.len() as f64 + eps).sqrt();
        x.iter_mut().zip(scale).for_each(|(x, scale)| *x = (f64::from(*x) * inverse) as f32 * scale);
        Ok(x)
    }
}

/// What the head reads.
struct Head {
    x: BufferId,
    norm: Option<(f64, WeightId)>,
}

/// Errors: a plan whose logits are no product of rows that are there after the pass.
fn head(plan: &Plan) -> Result<Head> {
    let is_head = |step: &&Step| step.operands.last() == Some(&Operand::Buffer(plan.logits));
    let found = plan.steps.iter().rposition(|step| is_head(&step));
    let head = found.and_then(|at| match (plan.steps[at].op, plan.steps[at].operands.as_slice()) {
        (StepOp::Linear(op), [Operand::Buffer(x), Operand::Weight(norm), ..]) => {
            let head = Head { x: *x, norm: op.norm.map(|eps| (eps, *norm)) };
            stays(plan, at, *x).then_some(head)
        }
        _ => None,
    });
    head.ok_or_else(|| Error::new(ErrorKind::Unsupported, "this model keeps no hidden state"))
}

/// Whether no step behind `at` writes where a buffer lies.
fn stays(plan: &Plan, at: usize, id: BufferId) -> bool {
    let place = |id: BufferId| {
        let buffer = &plan.buffers[id.index()];
        buffer.offset..buffer.offset + buffer.bytes()
    };
    let kept = place(id);
    plan.steps[at + 1..].iter().all(|step| {
        step.operands.iter().zip(step.op.roles()).filter(|(_, role)| role.writes()).all(|(operand, _)| {
            let Operand::Buffer(written) = operand else { return true };
            let written = place(*written);
            written.end <= kept.start || kept.end <= written.start
        })
    })
}
