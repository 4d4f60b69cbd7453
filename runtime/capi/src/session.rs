//! Sessions: one thread at a time, any thread.

use std::collections::HashMap;
use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard};

use hyc_runtime::{SequenceId, Session};

use crate::arguments::{check_place, fill, put, slice, text};
use crate::error::{Failure, answer, enter, hyc_error, hyc_status};
use crate::model::{self, Shared, hyc_model};
use crate::options::{hyc_session_options, session_options};
use crate::table::Table;

/// A session: a model with caches and threads. It may go from thread to thread, and runs one call at a time: a second one
/// meanwhile is HYC_BUSY. Freed by hyc_session_free; generations and batches keep it as long as they live.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_session(());

/// What calls of a session share.
pub struct Cell {
    /// The model, with its tokenizer.
    pub model: Arc<Shared>,
    inside: Mutex<Inside>,
}

/// What one call at a time may use.
pub struct Inside {
    /// The session.
    pub session: Session,
    /// The sequences that a caller knows, by the numbers that it knows them by.
    sequences: HashMap<u64, SequenceId>,
    next: u64,
}

impl Cell {
    /// Errors: another thread is inside; a call panicked inside.
    pub fn enter(&self) -> Result<MutexGuard<'_, Inside>, Failure> {
        enter(&self.inside, "this session")
    }
}

impl Inside {
    fn add(&mut self, id: SequenceId) -> u64 {
        self.next += 1;
        self.sequences.insert(self.next, id);
        self.next
    }

    /// Errors: no sequence has this number.
    pub fn sequence(&self, number: u64) -> Result<SequenceId, Failure> {
        self.sequences.get(&number).copied().ok_or_else(|| {
            Failure::argument(
                format!("the session has no sequence {number}"),
                "give one that hyc_session_add_sequence made and nobody has removed",
            )
        })
    }

    fn number(&self, id: SequenceId) -> Option<u64> {
        self.sequences.iter().find(|(_, of)| **of == id).map(|(number, _)| *number)
    }
}

static SESSIONS: Table<Cell> = Table::new();

/// What a handle stands for.
pub fn session(handle: *const hyc_session) -> Result<Arc<Cell>, Failure> {
    SESSIONS.get(handle, "the session")
}

/// A call inside a session.
fn inside(
    handle: *const hyc_session,
    error: *mut *mut hyc_error,
    call: impl FnOnce(&mut Inside) -> Result<hyc_status, Failure>,
) -> hyc_status {
    answer(error, || {
        let cell = session(handle)?;
        let mut inside = cell.enter()?;
        call(&mut inside)
    })
}

/// Sets up a session: checks that its memory is free, and takes it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_new(
    model: *const hyc_model,
    options: *const hyc_session_options,
    session: *mut *mut hyc_session,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        check_place(session, "session")?;
        let model = model::model(model)?;
        let made = Session::new(model.model.clone(), &session_options(options)?)?;
        let inside = Inside { session: made, sequences: HashMap::new(), next: 0 };
        // SAFETY: the caller's place, not NULL.
        unsafe { session.write(SESSIONS.put(Cell { model, inside: Mutex::new(inside) })) };
        Ok(hyc_status::HYC_OK)
    })
}

/// The bytes that a session of these options would take, known before anything is allocated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_bytes(
    model: *const hyc_model,
    options: *const hyc_session_options,
    bytes: *mut u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let model = model::model(model)?;
        let plan = hyc_runtime::MemoryPlan::of(&model.model, &session_options(options)?)?;
        // SAFETY: the caller's place.
        unsafe { put(bytes, plan.total(), "bytes") }?;
        Ok(hyc_status::HYC_OK)
    })
}

/// Frees a session, once its generations are freed too. NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_free(session: *mut hyc_session) {
    drop(SESSIONS.take(session));
}

/// A new, empty sequence.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_add_sequence(
    session: *mut hyc_session,
    sequence: *mut u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        check_place(sequence, "sequence")?;
        let id = inside.session.add_sequence()?;
        // SAFETY: the caller's place.
        unsafe { put(sequence, inside.add(id), "sequence") }?;
        Ok(hyc_status::HYC_OK)
    })
}

/// Removes a sequence; its pages are free again.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_remove_sequence(
    session: *mut hyc_session,
    sequence: u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        let id = inside.sequence(sequence)?;
        inside.session.remove_sequence(id)?;
        inside.sequences.remove(&sequence);
        Ok(hyc_status::HYC_OK)
    })
}

/// A new sequence with all that another one has; what they share is there once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_fork(
    session: *mut hyc_session,
    sequence: u64,
    fork: *mut u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        check_place(fork, "fork")?;
        let id = inside.session.fork(inside.sequence(sequence)?)?;
        // SAFETY: the caller's place.
        unsafe { put(fork, inside.add(id), "fork") }?;
        Ok(hyc_status::HYC_OK)
    })
}

/// Takes tokens back until len are left. A window's ring keeps its last tokens alone: where it does not reach back that
/// far, the error says how far it does.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_truncate(
    session: *mut hyc_session,
    sequence: u64,
    len: u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        let id = inside.sequence(sequence)?;
        inside.session.truncate(id, len)?;
        Ok(hyc_status::HYC_OK)
    })
}

/// A sequence's tokens, those that wait for a step too. tokens: room for capacity of them; count: how many there are.
/// HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_tokens(
    session: *mut hyc_session,
    sequence: u64,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        let id = inside.sequence(sequence)?;
        // SAFETY: the caller's places.
        unsafe { fill(inside.session.tokens(id)?, tokens, capacity, count) }
    })
}

/// Gives a sequence tokens, which wait for a step.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_feed(
    session: *mut hyc_session,
    sequence: u64,
    tokens: *const u32,
    count: usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        let id = inside.sequence(sequence)?;
        // SAFETY: the caller's tokens.
        inside.session.feed(id, unsafe { slice(tokens, count, "the tokens") }?)?;
        Ok(hyc_status::HYC_OK)
    })
}

/// Runs one step over all that waits, and chooses a token for each sequence that is through; it is not fed. sequences and
/// tokens: room for capacity of them, and at least max_batch is asked for; count: how many were chosen. An error of one
/// sequence is the call's, after all others have their tokens; HYC_END where nothing waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_step(
    session: *mut hyc_session,
    sequences: *mut u64,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        check_place(count, "count")?;
        let batch = inside.session.model().plan().model.max_batch;
        if (capacity as u64) < batch {
            let message = format!("there is room for {capacity} tokens, a step may choose {batch}");
            return Err(Failure::argument(message, "give arrays of hyc_model_max_batch"));
        }
        let output = inside.session.step_sampled()?;
        let (mut numbers, mut chosen, mut failed) = (Vec::new(), Vec::new(), None);
        for (id, token) in output.sampled {
            match (inside.number(id), token) {
                (Some(number), Ok(token)) => {
                    numbers.push(number);
                    chosen.push(token);
                }
                (Some(_), Err(error)) => failed = Some(error),
                (None, _) => {}
            }
        }
        // SAFETY: the caller's places.
        unsafe {
            fill(&numbers, sequences, capacity, count)?;
            fill(&chosen, tokens, capacity, count)?;
        }
        match failed {
            Some(error) => Err(error.into()),
            None if output.tokens == 0 => Ok(hyc_status::HYC_END),
            None => Ok(hyc_status::HYC_OK),
        }
    })
}

/// An output of the model for a sequence's last token, of the last step: "logits" or "hidden". values: room for capacity
/// numbers; count: how many there are. HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_session_output(
    session: *mut hyc_session,
    sequence: u64,
    name: *const c_char,
    name_len: usize,
    values: *mut f32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(session, error, |inside| {
        let id = inside.sequence(sequence)?;
        // SAFETY: the caller's text and places.
        unsafe {
            let row = inside.session.output(id, text(name, name_len, "the name")?)?;
            fill(&row, values, capacity, count)
        }
    })
}
