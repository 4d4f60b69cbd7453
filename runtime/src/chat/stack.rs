//! Stacks that are as deep as a template can make them: `minijinja` bounds parentheses and calls, but walks chains of
//! operators and values within values by itself.

use crate::error::{Error, ErrorKind, Result};

/// Bytes that any template takes.
const BASE: usize = 4 << 20;
/// Bytes for each byte of a template's text: `-` before `-` is one level of its syntax.
const FOR_LETTER: usize = 2048;
/// Bytes for each step: `[` is one, and one level of a value.
const FOR_STEP: usize = 512;

/// Does work over a template of so many bytes, of at most so many steps, on a thread of its own.
pub fn with_room<T: Send>(letters: usize, steps: u64, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let bytes = BASE + letters * FOR_LETTER + steps as usize * FOR_STEP;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("hyc-template".into()).stack_size(bytes);
        let thread = thread.spawn_scoped(scope, work).map_err(|e| {
            let message = format!("there is no thread for the chat template: {e}");
            Error::new(ErrorKind::Resource, message)
                .help(format!("it needs {bytes} bytes of address space: does a limit stand in its way?"))
        })?;
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}
