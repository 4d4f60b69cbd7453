//! Steps: a pass over what waits, and its results by row.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyc_plan::sample::{SampleParams, penalise_and_choose_named};
use hyc_plan::{Rows, Step};

use super::schedule::{Schedule, schedule};
use super::sequence::SequenceId;
use super::state::Session;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

/// What a step gave.
///
/// ```
/// # use hyc_handmade::{Parts, Plain};
/// # use hyc_runtime::{Session, SessionOptions};
/// # fn main() -> hyc_runtime::Result<()> {
/// # let mut session = Session::with_kernels(Parts::new().load()?, Box::new(Plain), &SessionOptions::default())?;
/// let id = session.add_sequence()?;
/// // Token 15 of this model is infinite.
/// session.feed(id, &[1, 15])?;
/// for (id, logits) in session.step()?.logits {
///     match logits {
///         Ok(logits) => assert_eq!(logits.len(), 16),
///         Err(error) => {
///             assert!(error.message.contains("row 1 of step embed"));
///             session.remove_sequence(id)?;
///         }
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// Logits after the last token that was fed to a sequence, for those that are through with theirs;
    /// with [`Session::set_all_logits`] one entry for each row, in order. An error is that row's alone.
    pub logits: Vec<(SequenceId, Result<Vec<f32>>)>,
    /// Tokens that went through.
    pub tokens: u64,
}

/// What a sampling step gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampledOutput {
    /// The next token of each sequence that is through with what was fed to it. It is not fed. An error is that
    /// sequence's alone.
    pub sampled: Vec<(SequenceId, Result<u32>)>,
    /// Tokens that went through.
    pub tokens: u64,
}

/// Why sequences have no result.
type Faults = BTreeMap<SequenceId, Error>;

impl Session {
    /// Runs one step over what waits: decode rows first, then prompts in chunks.
    ///
    /// A row of logits that are no numbers is an error of its sequence, which names the step that made the first of them;
    /// the sequence stands as before, with its tokens waiting: truncate or remove it, else the next step tries again. All
    /// other sequences have gone on. Errors, after which every sequence stands as before: a device's.
    pub fn step(&mut self) -> Result<StepOutput> {
        self.step_with(&mut |engine| engine.run_pass())
    }

    /// The same; `observer` sees the engine after each step of the plan.
    pub fn step_observed(&mut self, observer: &mut dyn FnMut(&Step, &Engine)) -> Result<StepOutput> {
        self.step_with(&mut |engine| {
            let model = Arc::clone(engine.model());
            for (index, step) in model.plan().steps.iter().enumerate() {
                engine.run_step(index)?;
                observer(step, engine);
            }
            Ok(())
        })
    }

    /// The same as [`Session::step`], and chooses a token for each sequence that is through: on the device, where the plan
    /// samples there, so that no logits are copied; else on the host, with the same result.
    ///
    /// Errors: those of [`Session::step`]; after one, of the step or of a sequence, draws stand as before too. A session of
    /// [`Session::set_all_logits`].
    pub fn step_sampled(&mut self) -> Result<SampledOutput> {
        self.sample_step(&|_| true)
    }

    /// The same for one sequence alone: what waits of the others goes on waiting, and no token of theirs is drawn.
    ///
    /// Errors: those of [`Session::step_sampled`]; there is no such sequence.
    pub fn step_sampled_of(&mut self, id: SequenceId) -> Result<SampledOutput> {
        self.step_sampled_among(&[id])
    }

    /// The same for some sequences. Errors: those of [`Session::step_sampled`]; one of them is not there.
    pub fn step_sampled_among(&mut self, ids: &[SequenceId]) -> Result<SampledOutput> {
        ids.iter().try_for_each(|id| self.place(*id).map(drop))?;
        self.sample_step(&|id| ids.contains(&id))
    }

    /// Schedules a pass, has `run` execute it, and takes its results.
    fn step_with(&mut self, run: &mut dyn FnMut(&mut Engine) -> Result<()>) -> Result<StepOutput> {
        let mut step = self.schedule(&|_| true);
        if step.input.token_ids.is_empty() {
            return Ok(StepOutput::default());
        }
        self.begin(&mut step)?;
        run(&mut self.engine)?;
        let logits = self.engine.model().plan().logits;
        let rows = (0..step.outputs.len() as u64).map(|row| self.engine.row(logits, row));
        let rows: Vec<Vec<f32>> = rows.collect::<Result<_>>()?;
        let good: Vec<bool> = rows.iter().map(|row| row.iter().all(|x| x.is_finite())).collect();
        let faults = self.faults(&step, &good)?;
        let tokens = self.advance(&step, &faults)?;
        let results = step.outputs.iter().zip(rows).zip(good);
        let logits =
            results.map(|((id, row), good)| (*id, if good { Ok(row) } else { Err(fault(&faults, *id)) }));
        Ok(StepOutput { logits: logits.collect(), tokens })
    }

    fn sample_step(&mut self, wanted: &dyn Fn(SequenceId) -> bool) -> Result<SampledOutput> {
        if self.all_logits {
            return Err(Error::new(ErrorKind::BadInput, "a session that returns all logits samples nothing"));
        }
        let mut step = self.schedule(wanted);
        if step.input.token_ids.is_empty() {
            return Ok(SampledOutput::default());
        }
        let mut seen = Vec::new();
        let next = step.outputs.iter().map(|id| Ok(self.sequence(*id)?.sampler.next(&mut seen)));
        let (params, states): (Vec<SampleParams>, Vec<u64>) =
            next.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let model = Arc::clone(self.model());
        let plan = model.plan();
        let unnamed = model.text_settings().map_or(&[][..], |settings| &settings.unnamed);
        // A plan that chooses by itself chooses from all ids below the last: with some that have no token the host does.
        if plan.sampled.is_some() && unnamed.is_empty() {
            step.input.sampling.clone_from(&params);
            step.input.seen.clone_from(&seen);
        }
        self.begin(&mut step)?;
        self.engine.run_pass()?;
        let chosen: Vec<Option<u32>> = match self.engine.sampled()? {
            Some(tokens) => tokens.into_iter().map(|token| u32::try_from(token).ok()).collect(),
            None => (0u64..)
                .zip(&params)
                .map(|(row, params)| {
                    let mut logits = self.engine.row(plan.logits, row)?;
                    Ok(penalise_and_choose_named(&mut logits, plan.model.choices(), unnamed, params, &seen))
                })
                .collect::<Result<_>>()?,
        };
        let good: Vec<bool> = chosen.iter().map(Option::is_some).collect();
        let faults = self.faults(&step, &good)?;
        let tokens = self.advance(&step, &faults)?;
        let mut sampled = Vec::with_capacity(step.outputs.len());
        for ((id, token), state) in step.outputs.iter().zip(chosen).zip(states) {
            if let Some(token) = token {
                let s = self.sequence_mut(*id)?;
                s.sampler.advance(state);
                s.chosen = Some(token);
            }
            sampled.push((*id, token.ok_or_else(|| fault(&faults, *id))));
        }
        Ok(SampledOutput { sampled, tokens })
    }

    /// The next step's rows, of the sequences that are wanted.
    fn schedule(&self, wanted: &dyn Fn(SequenceId) -> bool) -> Schedule {
        let sequences = self.sequences.iter().flatten().filter(|s| wanted(s.id));
        schedule(&self.model().plan().model, sequences, self.all_logits)
    }

    /// Hands a step to the engine. Whatever becomes of it, rings are written from now on.
    fn begin(&mut self, step: &mut Schedule) -> Result<()> {
        self.check_process()?;
        self.outputs.clear();
        self.engine.begin(std::mem::take(&mut step.input))?;
        for (id, count) in &step.taken {
            let s = self.sequence_mut(*id)?;
            s.held.written = s.held.written.max((s.len + count) as u64);
        }
        Ok(())
    }

    /// The tokens that went through wait no more, but for those of `faults`; how many they are.
    fn advance(&mut self, step: &Schedule, faults: &Faults) -> Result<u64> {
        self.outputs.clone_from(&step.outputs);
        let mut tokens = 0;
        for (id, count) in step.taken.iter().filter(|(id, _)| !faults.contains_key(id)) {
            self.sequence_mut(*id)?.len += count;
            tokens += *count as u64;
        }
        Ok(tokens)
    }

    /// Says of each sequence whose row of logits is not `good` where the first number went wrong: runs the step in hand
    /// again, which writes the same to the same places, and looks at every result.
    fn faults(&mut self, step: &Schedule, good: &[bool]) -> Result<Faults> {
        let bad = step.outputs.iter().zip(good).filter(|(_, good)| !**good);
        let mut open: Vec<SequenceId> = bad.map(|(id, _)| *id).collect();
        open.dedup();
        let mut faults = Faults::new();
        let model = Arc::clone(self.model());
        for (index, of) in model.plan().steps.iter().enumerate() {
            if open.is_empty() {
                break;
            }
            self.engine.run_step(index)?;
            for (rows, row, value) in self.engine.bad_rows(of)? {
                let id = match rows {
                    Rows::Tokens => step.taken[self.engine.input().sequence[row] as usize].0,
                    Rows::Outputs => step.outputs[row],
                };
                if let Some(at) = open.iter().position(|bad| *bad == id) {
                    open.remove(at);
                    faults.insert(id, not_finite(id, &format!("row {row} of step {} ({value})", of.name)));
                }
            }
        }
        faults.extend(open.into_iter().map(|id| (id, not_finite(id, "the logits"))));
        Ok(faults)
    }
}

fn not_finite(id: SequenceId, place: &str) -> Error {
    let message = format!("sequence {id}: {place} is no number: the model's values have overflowed");
    Error::new(ErrorKind::BadNumbers, message)
        .help("check the weights of that layer; `hyc diff` says whether the reference does the same")
}

/// The error of a sequence without a result.
fn fault(faults: &Faults, id: SequenceId) -> Error {
    faults.get(&id).cloned().unwrap_or_else(|| not_finite(id, "the logits"))
}
