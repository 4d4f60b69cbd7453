//! Sessions: one call at a time, from any thread.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use hyc_runtime::plan::{Operand, StepOp};
use hyc_runtime::{Continuation, Continuations, SequenceId, Session as Of, Values};
use pyo3::prelude::*;

use crate::error::{busy, failed, wrong};
use crate::floats::Floats;
use crate::generation::{Batch, Generation};
use crate::model::Model;
use crate::options::{Prompt, Wish};

/// What calls of a session share.
pub struct Cell {
    inside: Mutex<Inside>,
    /// What is to be done before the next call: see [`Cell::leave`].
    left: Mutex<Vec<Leaving>>,
}

/// Takes out of a session what an object had there.
pub type Leaving = Box<dyn FnOnce(&mut Of) + Send>;

/// What one call at a time may use.
pub struct Inside {
    pub session: Of,
    sequences: HashMap<u64, SequenceId>,
    next: u64,
}

impl Cell {
    /// Errors: another thread is inside.
    pub fn enter(&self) -> PyResult<MutexGuard<'_, Inside>> {
        let mut inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::WouldBlock) => return Err(busy()),
            // What a panic left is checked by every call.
            Err(TryLockError::Poisoned(inside)) => inside.into_inner(),
        };
        let left = std::mem::take(&mut *self.left());
        left.into_iter().for_each(|leaving| leaving(&mut inside.session));
        Ok(inside)
    }

    /// What an object does that goes: at once, or where somebody is inside, before the next call. It never waits, since
    /// objects go wherever the interpreter collects garbage, within a call too.
    pub fn leave(&self, leaving: Leaving) {
        self.left().push(leaving);
        drop(self.enter());
    }

    fn left(&self) -> MutexGuard<'_, Vec<Leaving>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn add(&mut self, id: SequenceId) -> u64 {
        self.next += 1;
        self.sequences.insert(self.next, id);
        self.next
    }

    /// Errors: no sequence has this number.
    fn sequence(&self, number: u64) -> PyResult<SequenceId> {
        let found = self.sequences.get(&number).copied();
        found.ok_or_else(|| wrong(format!("the session has no sequence {number}"), "add_sequence makes one"))
    }
}

/// A model with caches and threads.
#[pyclass(frozen, module = "hyc")]
pub struct Session {
    cell: Arc<Cell>,
    model: Py<Model>,
}

impl Session {
    /// A session of a model.
    pub fn new(session: Of, model: Py<Model>) -> Session {
        let inside = Inside { session, sequences: HashMap::new(), next: 0 };
        Session { cell: Arc::new(Cell { inside: Mutex::new(inside), left: Mutex::default() }), model }
    }

    /// A call without the interpreter's lock. Errors: another thread is inside; its own.
    fn inside<R: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&mut Inside) -> hyc_runtime::Result<R> + Send,
    ) -> PyResult<R> {
        let cell = &self.cell;
        py.detach(|| {
            let mut inside = cell.enter()?;
            call(&mut inside).map_err(failed)
        })
    }

    /// Tokens of a prompt; `bare` where it goes on with a text.
    fn tokens_of(&self, prompt: Prompt, bare: bool) -> PyResult<Vec<u32>> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Text(text) => {
                let tokenizer = self.model.get().tokenizer()?;
                if bare { tokenizer.encode_bare(&text) } else { tokenizer.encode(&text) }.map_err(failed)
            }
        }
    }
}

#[pymethods]
impl Session {
    #[getter]
    fn model(&self, py: Python<'_>) -> Py<Model> {
        self.model.clone_ref(py)
    }

    /// Continues a prompt, or with `sequence` what a sequence holds, by this.
    #[pyo3(signature = (prompt, *, sequence = None, max_new_tokens = 256, temperature = None, top_k = None, top_p = None,
        min_p = None, seed = None, stop = None, stop_tokens = None, ignore_eos = false, show_special = false))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: Prompt,
        sequence: Option<u64>,
        max_new_tokens: usize,
        temperature: Option<f32>,
        top_k: Option<u32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        seed: Option<u64>,
        stop: Option<Vec<String>>,
        stop_tokens: Option<Vec<u32>>,
        ignore_eos: bool,
        show_special: bool,
    ) -> PyResult<Generation> {
        let wish = Wish {
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            stop: stop.unwrap_or_default(),
            stop_tokens: stop_tokens.unwrap_or_default(),
            ignore_eos,
            show_special,
        };
        let tokenizer = self.model.get().tokenizer()?;
        let mut inside = self.cell.enter()?;
        let held = sequence.map(|number| inside.sequence(number)).transpose()?;
        let mut tokens = match held {
            Some(id) => inside.session.tokens(id).map_err(failed)?.to_vec(),
            None => Vec::new(),
        };
        tokens.extend(self.tokens_of(prompt, !tokens.is_empty())?);
        let options = wish.options(&inside.session)?;
        let id = match held {
            Some(id) => id,
            None => inside.session.add_sequence().map_err(failed)?,
        };
        let session = &mut inside.session;
        let begun = py.detach(|| Continuation::new(session, id, tokenizer, &tokens, &options));
        match begun {
            Ok(continuation) => Ok(Generation::new(self.cell.clone(), continuation, held.is_none())),
            Err(error) => {
                if held.is_none() {
                    inside.session.remove_sequence(id).map_err(failed)?;
                }
                Err(failed(error))
            }
        }
    }

    /// Continues several prompts together.
    #[pyo3(signature = (prompts, *, max_new_tokens = 256, temperature = None, top_k = None, top_p = None, min_p = None,
        seed = None, stop = None, stop_tokens = None, ignore_eos = false, show_special = false))]
    #[allow(clippy::too_many_arguments, reason = "they are keywords")]
    fn batch(
        &self,
        prompts: Vec<Prompt>,
        max_new_tokens: usize,
        temperature: Option<f32>,
        top_k: Option<u32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        seed: Option<u64>,
        stop: Option<Vec<String>>,
        stop_tokens: Option<Vec<u32>>,
        ignore_eos: bool,
        show_special: bool,
    ) -> PyResult<Batch> {
        let wish = Wish {
            max_new_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            stop: stop.unwrap_or_default(),
            stop_tokens: stop_tokens.unwrap_or_default(),
            ignore_eos,
            show_special,
        };
        let tokenizer = self.model.get().tokenizer()?;
        let options = wish.options(&self.cell.enter()?.session)?;
        let prompt = |prompt| {
            Ok(hyc_runtime::Prompt { tokens: self.tokens_of(prompt, false)?, options: options.clone() })
        };
        let prompts = prompts.into_iter().map(prompt).collect::<PyResult<Vec<_>>>()?;
        Ok(Batch::new(self.cell.clone(), Continuations::new(tokenizer, prompts)))
    }

    /// A new, empty sequence.
    fn add_sequence(&self, py: Python<'_>) -> PyResult<u64> {
        self.inside(py, |inside| {
            let id = inside.session.add_sequence()?;
            Ok(inside.add(id))
        })
    }

    /// Removes a sequence.
    fn remove_sequence(&self, sequence: u64) -> PyResult<()> {
        let mut inside = self.cell.enter()?;
        let id = inside.sequence(sequence)?;
        inside.session.remove_sequence(id).map_err(failed)?;
        inside.sequences.remove(&sequence);
        Ok(())
    }

    /// A new sequence with all that another one has.
    fn fork(&self, py: Python<'_>, sequence: u64) -> PyResult<u64> {
        let id = self.cell.enter()?.sequence(sequence)?;
        self.inside(py, |inside| {
            let id = inside.session.fork(id)?;
            Ok(inside.add(id))
        })
    }

    /// Takes tokens back until `len` are left.
    fn truncate(&self, sequence: u64, len: u64) -> PyResult<()> {
        let mut inside = self.cell.enter()?;
        let id = inside.sequence(sequence)?;
        inside.session.truncate(id, len).map_err(failed)
    }

    /// A sequence's tokens, those that wait for a step too.
    fn tokens(&self, sequence: u64) -> PyResult<Vec<u32>> {
        let inside = self.cell.enter()?;
        let id = inside.sequence(sequence)?;
        inside.session.tokens(id).map(<[u32]>::to_vec).map_err(failed)
    }

    /// Gives a sequence tokens, which wait for a step.
    fn feed(&self, py: Python<'_>, sequence: u64, tokens: Vec<u32>) -> PyResult<()> {
        let id = self.cell.enter()?.sequence(sequence)?;
        self.inside(py, |inside| inside.session.feed(id, &tokens))
    }

    /// Runs one step over all that waits: the token of each sequence that is through. Errors: the first of a sequence.
    fn step(&self, py: Python<'_>) -> PyResult<BTreeMap<u64, u32>> {
        self.inside(py, |inside| {
            let output = inside.session.step_sampled()?;
            let number = |id: SequenceId| {
                inside.sequences.iter().find(|(_, of)| **of == id).map(|(number, _)| *number)
            };
            let known = output.sampled.into_iter().filter_map(|(id, token)| Some((number(id)?, token)));
            known.map(|(number, token)| Ok((number, token?))).collect()
        })
    }

    /// `logits` or `hidden` of a sequence's last token, of the last step.
    fn output(&self, py: Python<'_>, sequence: u64, name: &str) -> PyResult<Floats> {
        let id = self.cell.enter()?.sequence(sequence)?;
        self.inside(py, |inside| inside.session.output(id, name)).map(Floats::new)
    }

    /// Feeds a sequence tokens, and gives what the oracle layers choose for each of them: by layer, token and KV head the
    /// blocks. On a GPU lists come from there after each layer.
    fn selections(
        &self,
        py: Python<'_>,
        sequence: u64,
        tokens: Vec<u32>,
    ) -> PyResult<BTreeMap<u32, Vec<Vec<Vec<i32>>>>> {
        let id = self.cell.enter()?.sequence(sequence)?;
        let mut selected: BTreeMap<u32, Vec<Vec<Vec<i32>>>> = BTreeMap::new();
        let mut waits = true;
        self.inside(py, |inside| inside.session.feed(id, &tokens))?;
        while waits {
            py.check_signals()?;
            self.inside(py, |inside| {
                let session = &mut inside.session;
                session.step_observed(&mut |step, engine| {
                    let StepOp::OracleAttention(op) = step.op else { return };
                    let (Some(layer), Some(Operand::Buffer(at))) = (step.layer, step.operands.last()) else {
                        return;
                    };
                    let Ok(Values::I32(list)) = engine.buffer(*at) else { return };
                    let blocks = op.select.blocks as usize;
                    let token = |token: &[i32]| {
                        let heads = token.chunks(blocks);
                        heads.map(|head| head.iter().copied().filter(|block| *block >= 0).collect()).collect()
                    };
                    let rows = list.chunks(op.select.kv_heads as usize * blocks);
                    selected.entry(layer).or_default().extend(rows.map(token));
                })?;
                waits = session.pending(id)? > 0;
                Ok(())
            })?;
        }
        Ok(selected)
    }
}
