//! Panics of the `tokenizers` crate as errors: it takes much of what a file says for granted.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use crate::error::{Error, ErrorKind, Result};

/// Most letters of what the crate says.
const WORDS: usize = 300;

thread_local! {
    /// Panics of this thread are caught and told.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What [`refuse`] unwinds with.
struct Refusal(String);

/// Ends the work that [`contained`] does with an error of these words: the crate drops errors of a normalizer.
pub fn refuse(words: String) -> ! {
    resume_unwind(Box::new(Refusal(words)))
}

/// Does work of the crate. Its errors and its panics are errors that begin with `what`; nothing is printed.
pub fn contained<T>(what: &str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    silence();
    let before = QUIET.replace(true);
    // Nothing of the crate is left half-changed: it locks its caches by `try_lock`, and does without a poisoned one.
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(before);
    let words = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => words(payload.as_ref()),
    };
    let mut shown: String = words.chars().take(WORDS).collect();
    if shown.len() < words.len() {
        shown.push('…');
    }
    Err(Error::new(ErrorKind::BadInput, format!("{what}: {shown}")))
}

/// Lets the process's hook say nothing of panics that are caught here.
fn silence() {
    static ONCE: Once = Once::new();
    // A thread that panics may not change the hook.
    if !std::thread::panicking() {
        ONCE.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !QUIET.get() {
                    before(info);
                }
            }));
        });
    }
}

fn words(payload: &(dyn Any + Send)) -> String {
    if let Some(Refusal(words)) = payload.downcast_ref() {
        return words.clone();
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
    format!("its parts do not fit each other ({text})")
}
