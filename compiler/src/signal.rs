//! Ctrl-C: the first asks the work in hand to stop between two steps, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};

static PRESSED: AtomicBool = AtomicBool::new(false);

/// Installs the handler; `on_press` runs in the handler's thread at the first Ctrl-C. Where there is no thread to be
/// had, Ctrl-C ends the process at once, as without a handler.
pub fn install(on_press: impl Fn() + Send + 'static) {
    // The handler would be there before its thread, and then swallow every Ctrl-C.
    match std::thread::Builder::new().spawn(|| ()) {
        Ok(thread) => drop(thread.join()),
        Err(_) => return,
    }
    let _ = ctrlc::set_handler(move || {
        if PRESSED.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
        }
        on_press();
    });
}

/// Whether Ctrl-C was pressed.
pub fn pressed() -> bool {
    PRESSED.load(Ordering::SeqCst)
}

/// Takes a Ctrl-C as dealt with: the next one is a first one again.
pub fn forget() {
    PRESSED.store(false, Ordering::SeqCst);
}

/// The error of a cancelled phase, where Ctrl-C was pressed.
pub fn check(phase: &str) -> Result<()> {
    if pressed() {
        return Err(Error::new(
            ErrorKind::Cancelled,
            format!("cancelled while {phase}; nothing was written"),
        ));
    }
    Ok(())
}
