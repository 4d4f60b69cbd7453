//! Continuations that are pulled.

use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use hyc_runtime::{CancelToken, Continuation, Tokenizer};

use crate::arguments::{check_place, fill, put, slice};
use crate::error::{Failure, answer, enter, hyc_error, hyc_status};
use crate::event::{hyc_event, hyc_finish};
use crate::options::{hyc_options, options};
use crate::session::{Cell, Inside, hyc_session, session};
use crate::table::Table;

/// A continuation of a prompt; freed by hyc_generation_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_generation(());

struct State {
    cell: Arc<Cell>,
    /// Whether the sequence leaves the session with this.
    own: bool,
    cancel: CancelToken,
    pulled: Mutex<Pulled>,
}

struct Pulled {
    continuation: Continuation<Arc<Tokenizer>>,
    /// The last event's text.
    text: String,
}

impl State {
    fn pulled(&self) -> Result<MutexGuard<'_, Pulled>, Failure> {
        enter(&self.pulled, "this generation")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let pulled = self.pulled.get_mut().ok().filter(|_| self.own);
        // A session that another thread is inside of keeps the sequence: it was told to free one after the other.
        if let (Some(pulled), Ok(mut inside)) = (pulled, self.cell.enter()) {
            let _ = inside.session.remove_sequence(pulled.continuation.sequence());
        }
    }
}

static GENERATIONS: Table<State> = Table::new();

/// Begins in a sequence that `of` gives; `own`: it leaves the session with the generation.
fn begin(
    handle: *const hyc_session,
    tokens: &[u32],
    given: *const hyc_options,
    own: bool,
    of: impl FnOnce(&mut Inside) -> Result<hyc_runtime::SequenceId, Failure>,
) -> Result<*mut hyc_generation, Failure> {
    let cell = session(handle)?;
    let (tokenizer, given) = (cell.model.tokenizer()?, options(given)?);
    let mut inside = cell.enter()?;
    let id = of(&mut inside)?;
    let continuation = match Continuation::new(&mut inside.session, id, tokenizer, tokens, &given) {
        Ok(continuation) => continuation,
        Err(error) => {
            if own {
                inside.session.remove_sequence(id)?;
            }
            return Err(error.into());
        }
    };
    drop(inside);
    let cancel = continuation.cancel_token().clone();
    let pulled = Mutex::new(Pulled { continuation, text: String::new() });
    Ok(GENERATIONS.put(State { cell, own, cancel, pulled }))
}

/// Continues a prompt in a sequence of its own, which leaves the session when the generation is freed. Nothing is computed
/// yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generate(
    session: *mut hyc_session,
    tokens: *const u32,
    count: usize,
    options: *const hyc_options,
    generation: *mut *mut hyc_generation,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        check_place(generation, "generation")?;
        // SAFETY: the caller's tokens.
        let tokens = unsafe { slice(tokens, count, "the prompt") }?;
        let begun = begin(session, tokens, options, true, |inside| Ok(inside.session.add_sequence()?))?;
        // SAFETY: the caller's place, not NULL.
        unsafe { generation.write(begun) };
        Ok(hyc_status::HYC_OK)
    })
}

/// Continues a sequence that stays: of tokens, all of its text, those that it does not hold yet are fed. Afterwards it
/// holds all of them and all new ones but the last.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generate_in(
    session: *mut hyc_session,
    sequence: u64,
    tokens: *const u32,
    count: usize,
    options: *const hyc_options,
    generation: *mut *mut hyc_generation,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        check_place(generation, "generation")?;
        // SAFETY: the caller's tokens.
        let tokens = unsafe { slice(tokens, count, "the text") }?;
        let begun = begin(session, tokens, options, false, |inside| inside.sequence(sequence))?;
        // SAFETY: the caller's place, not NULL.
        unsafe { generation.write(begun) };
        Ok(hyc_status::HYC_OK)
    })
}

fn next(state: &State, event: *mut hyc_event) -> Result<hyc_status, Failure> {
    // SAFETY: the caller's event.
    unsafe { hyc_event::check(event) }?;
    let mut pulled = state.pulled()?;
    let mut inside = state.cell.enter()?;
    let Pulled { continuation, text } = &mut *pulled;
    match continuation.next(&mut inside.session)? {
        None => Ok(hyc_status::HYC_END),
        Some(of) => {
            // SAFETY: checked above.
            unsafe { hyc_event::of(of, 0, text).write(event) };
            Ok(hyc_status::HYC_OK)
        }
    }
}

/// The next event, after the session's next step where one is needed; HYC_END at the end, and again whenever it is asked.
/// After an error the generation may be asked again, or freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generation_next(
    generation: *mut hyc_generation,
    event: *mut hyc_event,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || next(&*GENERATIONS.get(generation, "the generation")?, event))
}

/// What hyc_generation_run calls for each event; what it returns other than 0 ends the run as HYC_CANCELLED.
#[allow(non_camel_case_types, reason = "C's names")]
pub type hyc_on_event = Option<unsafe extern "C" fn(event: *const hyc_event, user: *mut c_void) -> i32>;

/// Runs to the end: a loop over hyc_generation_next.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generation_run(
    generation: *mut hyc_generation,
    on_event: hyc_on_event,
    user: *mut c_void,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let state = GENERATIONS.get(generation, "the generation")?;
        let mut event = hyc_event::none(0);
        loop {
            if next(&state, &mut event)? == hyc_status::HYC_END {
                return Ok(hyc_status::HYC_OK);
            }
            // SAFETY: the caller's function; the event lives until the next one.
            if on_event.is_some_and(|on_event| unsafe { on_event(&event, user) } != 0) {
                return Ok(hyc_status::HYC_CANCELLED);
            }
        }
    })
}

/// Asks a generation to stop, from any thread, also while another one is inside hyc_generation_next: its next answer is
/// HYC_CANCELLED.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_generation_cancel(generation: *const hyc_generation) -> hyc_status {
    answer(std::ptr::null_mut(), || {
        GENERATIONS.get(generation, "the generation")?.cancel.cancel();
        Ok(hyc_status::HYC_OK)
    })
}

/// The new tokens so far. tokens: room for capacity of them; count: how many there are. HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generation_tokens(
    generation: *const hyc_generation,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let state = GENERATIONS.get(generation, "the generation")?;
        let pulled = state.pulled()?;
        // SAFETY: the caller's places.
        unsafe { fill(&pulled.continuation.so_far().tokens, tokens, capacity, count) }
    })
}

/// The text so far, up to the stop text, UTF-8 and not ended by a zero. text: room for capacity bytes; len: how many there
/// are. HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generation_text(
    generation: *const hyc_generation,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let state = GENERATIONS.get(generation, "the generation")?;
        let pulled = state.pulled()?;
        // SAFETY: the caller's places.
        unsafe { fill(pulled.continuation.so_far().text.as_bytes(), text.cast(), capacity, len) }
    })
}

/// Why it ended, and the seed that repeats it; after HYC_END.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_generation_result(
    generation: *const hyc_generation,
    finish: *mut hyc_finish,
    seed: *mut u64,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let state = GENERATIONS.get(generation, "the generation")?;
        let pulled = state.pulled()?;
        let done = pulled.continuation.so_far();
        // SAFETY: the caller's places.
        unsafe {
            put(finish, done.finish.into(), "finish")?;
            put(seed, done.seed, "seed")?;
        }
        Ok(hyc_status::HYC_OK)
    })
}

/// Frees a generation; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_generation_free(generation: *mut hyc_generation) {
    drop(GENERATIONS.take(generation));
}
