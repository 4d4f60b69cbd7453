//! Several prompts at a time.

use std::ffi::c_char;
use std::sync::{Arc, Mutex};

use hyc_runtime::{Continuations, Prompt, Tokenizer};

use crate::arguments::{check_place, fill, put, slice};
use crate::error::{Failure, answer, enter, hyc_error, hyc_status};
use crate::event::{hyc_event, hyc_finish};
use crate::options::{hyc_options, options};
use crate::session::{Cell, hyc_session, session};
use crate::table::Table;

/// Prompts that are continued together; freed by hyc_batch_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_batch(());

struct State {
    cell: Arc<Cell>,
    tokenizer: Arc<Tokenizer>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    /// Prompts that are added before the first event.
    prompts: Vec<Prompt>,
    running: Option<Continuations<Arc<Tokenizer>>>,
    text: String,
}

impl State {
    /// What runs; it begins here, with the prompts that were added.
    fn running<'r>(
        &self,
        running: &'r mut Option<Continuations<Arc<Tokenizer>>>,
        prompts: &mut Vec<Prompt>,
    ) -> &'r mut Continuations<Arc<Tokenizer>> {
        running.get_or_insert_with(|| Continuations::new(self.tokenizer.clone(), std::mem::take(prompts)))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let running = self.inside.get_mut().ok().and_then(|inside| inside.running.as_mut());
        if let (Some(running), Ok(mut inside)) = (running, self.cell.enter()) {
            running.end(&mut inside.session);
        }
    }
}

static BATCHES: Table<State> = Table::new();

fn inside(
    handle: *const hyc_batch,
    error: *mut *mut hyc_error,
    call: impl FnOnce(&State, &mut Inside) -> Result<hyc_status, Failure>,
) -> hyc_status {
    answer(error, || {
        let state = BATCHES.get(handle, "the batch")?;
        let mut inside = enter(&state.inside, "this batch")?;
        call(&state, &mut inside)
    })
}

/// An empty batch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_batch_new(
    session: *mut hyc_session,
    batch: *mut *mut hyc_batch,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        check_place(batch, "batch")?;
        let cell = self::session(session)?;
        let tokenizer = cell.model.tokenizer()?;
        // SAFETY: the caller's place, not NULL.
        unsafe { batch.write(BATCHES.put(State { cell, tokenizer, inside: Mutex::default() })) };
        Ok(hyc_status::HYC_OK)
    })
}

/// Adds a prompt, before the first event. index: how its events are known.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_batch_add(
    batch: *mut hyc_batch,
    tokens: *const u32,
    count: usize,
    options: *const hyc_options,
    index: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(batch, error, |_, inside| {
        if inside.running.is_some() {
            return Err(Failure::argument(
                "the batch runs already",
                "add prompts before the first hyc_batch_next",
            ));
        }
        // SAFETY: the caller's tokens and place.
        unsafe {
            put(index, inside.prompts.len(), "index")?;
            let tokens = slice(tokens, count, "the prompt")?.to_vec();
            inside.prompts.push(Prompt { tokens, options: self::options(options)? });
        }
        Ok(hyc_status::HYC_OK)
    })
}

/// The next event of any prompt, after a step for all where one is needed; HYC_END when all are through. A prompt's last
/// event is HYC_EVENT_END, or an error, with event.index filled in; the others go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_batch_next(
    batch: *mut hyc_batch,
    event: *mut hyc_event,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(batch, error, |state, inside| {
        // SAFETY: the caller's event.
        unsafe { hyc_event::check(event) }?;
        let Inside { prompts, running, text } = inside;
        let running = state.running(running, prompts);
        let mut entered = state.cell.enter()?;
        let Some((index, next)) = running.next(&mut entered.session) else { return Ok(hyc_status::HYC_END) };
        let (of, status) = match next {
            Ok(of) => (hyc_event::of(of, index, text), Ok(hyc_status::HYC_OK)),
            Err(error) => (hyc_event::none(index), Err(error.into())),
        };
        // SAFETY: checked above.
        unsafe { of.write(event) };
        status
    })
}

/// Asks the prompt of an index to stop, from any thread that is not inside hyc_batch_next: its next event is HYC_CANCELLED.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_batch_cancel(
    batch: *mut hyc_batch,
    index: usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(batch, error, |state, inside| {
        let Inside { prompts, running, .. } = inside;
        let running = state.running(running, prompts);
        let token = running.cancel_token(index).ok_or_else(|| {
            Failure::argument(format!("the batch has no prompt {index}"), "give what hyc_batch_add gave")
        })?;
        token.cancel();
        Ok(hyc_status::HYC_OK)
    })
}

/// A prompt's text, and why it ended, after its HYC_EVENT_END. text: room for capacity bytes; len: how many there are.
/// HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_batch_result(
    batch: *mut hyc_batch,
    index: usize,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
    finish: *mut hyc_finish,
    error: *mut *mut hyc_error,
) -> hyc_status {
    inside(batch, error, |_, inside| {
        let results = inside.running.as_ref().map(Continuations::results).unwrap_or_default();
        let done = results.get(index).ok_or_else(|| {
            Failure::argument(format!("the batch has no prompt {index} at work"), "ask after its last event")
        })?;
        let done = done.as_ref().map_err(Clone::clone)?;
        // SAFETY: the caller's places.
        unsafe {
            put(finish, done.finish.into(), "finish")?;
            fill(done.text.as_bytes(), text.cast(), capacity, len)
        }
    })
}

/// Frees a batch; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_batch_free(batch: *mut hyc_batch) {
    drop(BATCHES.take(batch));
}
