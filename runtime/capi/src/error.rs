//! Errors that callers own, and the way of every call.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

pub use crate::failure::{Failure, enter, hyc_status};
use crate::table::Table;

/// An error that a caller owns.
pub struct Told {
    status: hyc_status,
    message: CString,
    help: Option<CString>,
}

/// Why a call failed; freed by hyc_error_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_error(());

pub static ERRORS: Table<Told> = Table::new();

/// Runs a call: a failure, and a panic, become its status and, where `error` is not NULL, an error in it.
pub fn answer(error: *mut *mut hyc_error, call: impl FnOnce() -> Result<hyc_status, Failure>) -> hyc_status {
    put(error, ptr::null_mut());
    let failure = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(status)) => return status,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Failure::bug(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words"))
        }
    };
    let text = |text: String| CString::new(text.replace('\0', " ")).unwrap_or_default();
    let status = failure.status;
    if !error.is_null() {
        let told = Told { status, message: text(failure.message), help: failure.help.map(text) };
        put(error, ERRORS.put(told));
    }
    status
}

/// Writes to where a caller wants an error, if it does.
fn put(to: *mut *mut hyc_error, error: *mut hyc_error) {
    if !to.is_null() {
        // SAFETY: every call's contract: NULL, or a place for a pointer.
        unsafe { to.write(error) };
    }
}

fn told<R>(error: *const hyc_error, nothing: R, get: impl FnOnce(&Told) -> R) -> R {
    ERRORS.get(error, "the error").map_or(nothing, |told: Arc<Told>| get(&told))
}

/// The status of the call that gave the error; HYC_BAD_HANDLE where it is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_error_kind(error: *const hyc_error) -> hyc_status {
    told(error, hyc_status::HYC_BAD_HANDLE, |told| told.status)
}

/// What is wrong and where, UTF-8; valid until the error is freed. Never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_error_message(error: *const hyc_error) -> *const c_char {
    told(error, c"no error".as_ptr(), |told| told.message.as_ptr())
}

/// What to do, UTF-8; valid until the error is freed. NULL where nothing is known.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_error_help(error: *const hyc_error) -> *const c_char {
    told(error, ptr::null(), |told| told.help.as_ref().map_or(ptr::null(), |help| help.as_ptr()))
}

/// Frees an error; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_error_free(error: *mut hyc_error) {
    drop(ERRORS.take(error));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        let mut error = ptr::null_mut();
        let status = answer(&mut error, || panic!("the {}", "words"));
        assert_eq!((status, hyc_error_kind(error)), (hyc_status::HYC_BUG, hyc_status::HYC_BUG));
        // SAFETY: valid until it is freed.
        let message = unsafe { std::ffi::CStr::from_ptr(hyc_error_message(error)) };
        assert_eq!(message.to_str(), Ok("the words"));
        hyc_error_free(error);
        assert_eq!(hyc_error_kind(error), hyc_status::HYC_BAD_HANDLE);
        hyc_error_free(error);
        assert_eq!(answer(ptr::null_mut(), || panic!("nobody asks")), hyc_status::HYC_BUG);
    }
}
