//! Options: opaque, with a setter a field. Where a call takes options, NULL stands for the defaults.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, PoisonError};

use hyc_runtime::{GenerateOptions, LoadOptions, Sampling, SessionOptions, Storage, Verify};

use crate::arguments::text;
use crate::error::{Failure, answer, hyc_status};
use crate::table::Table;

/// How a model is loaded; freed by hyc_load_options_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_load_options(());
/// How a session is set up; freed by hyc_session_options_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_session_options(());
/// How a prompt is continued; freed by hyc_options_free.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_options(());

static LOAD: Table<Mutex<LoadOptions>> = Table::new();
static SESSION: Table<Mutex<SessionOptions>> = Table::new();
static GENERATE: Table<Mutex<GenerateOptions>> = Table::new();

/// A copy of what a handle stands for; NULL: the defaults.
fn copied<T: Clone + Default, H>(table: &Table<Mutex<T>>, handle: *const H) -> Result<T, Failure> {
    if handle.is_null() {
        return Ok(T::default());
    }
    let options: Arc<Mutex<T>> = table.get(handle, "the options")?;
    let options = options.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(options)
}

/// What a handle stands for.
pub fn load_options(handle: *const hyc_load_options) -> Result<LoadOptions, Failure> {
    copied(&LOAD, handle)
}

/// What a handle stands for.
pub fn session_options(handle: *const hyc_session_options) -> Result<SessionOptions, Failure> {
    copied(&SESSION, handle)
}

/// What a handle stands for.
pub fn options(handle: *const hyc_options) -> Result<GenerateOptions, Failure> {
    copied(&GENERATE, handle)
}

/// Changes what a handle stands for. A setter has nothing to tell but that the handle is none.
fn set<T, H>(
    table: &Table<Mutex<T>>,
    handle: *const H,
    change: impl FnOnce(&mut T) -> Result<(), Failure>,
) -> hyc_status {
    answer(std::ptr::null_mut(), || {
        let options = table.get(handle, "the options")?;
        change(&mut options.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(hyc_status::HYC_OK)
    })
}

/// Options to load with: as `hyc run` does.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_load_options_new() -> *mut hyc_load_options {
    LOAD.put(Mutex::default())
}

/// Frees them; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_load_options_free(options: *mut hyc_load_options) {
    drop(LOAD.take(options));
}

/// When weights are checked against their digests: 0 when they are first read, 1 all when the file is loaded, 2 never.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_load_options_set_verify(options: *mut hyc_load_options, when: u32) -> hyc_status {
    set(&LOAD, options, |options| {
        options.verify = match when {
            0 => Verify::OnRead,
            1 => Verify::Full,
            2 => Verify::Header,
            _ => {
                return Err(Failure::argument(format!("there is no way {when} to verify"), "give 0, 1 or 2"));
            }
        };
        Ok(())
    })
}

/// Whether the file is copied to memory, so that whatever happens to it later does not matter; else it is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_load_options_set_copied(options: *mut hyc_load_options, copied: bool) -> hyc_status {
    set(&LOAD, options, |options| {
        options.storage = if copied { Storage::Copied } else { Storage::Mapped };
        Ok(())
    })
}

/// For an artefact without weights: makes them up from a seed, to measure with.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_load_options_set_random_weights(
    options: *mut hyc_load_options,
    seed: u64,
) -> hyc_status {
    set(&LOAD, options, |options| {
        options.random_weights = Some(seed);
        Ok(())
    })
}

/// Options of a session: all cores, and as many sequences and tokens as the model was compiled for.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_options_new() -> *mut hyc_session_options {
    SESSION.put(Mutex::default())
}

/// Frees them; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_options_free(options: *mut hyc_session_options) {
    drop(SESSION.take(options));
}

/// Threads; never more than cores.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_options_set_threads(
    options: *mut hyc_session_options,
    threads: usize,
) -> hyc_status {
    set(&SESSION, options, |options| {
        options.threads = Some(threads);
        Ok(())
    })
}

/// Sequences at a time.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_options_set_max_sequences(
    options: *mut hyc_session_options,
    sequences: u64,
) -> hyc_status {
    set(&SESSION, options, |options| {
        options.max_sequences = Some(sequences);
        Ok(())
    })
}

/// Tokens of all sequences together.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_session_options_set_max_tokens(
    options: *mut hyc_session_options,
    tokens: u64,
) -> hyc_status {
    set(&SESSION, options, |options| {
        options.max_tokens = Some(tokens);
        Ok(())
    })
}

/// Options of a continuation: 256 new tokens at most, chosen as the model says.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_new() -> *mut hyc_options {
    GENERATE.put(Mutex::default())
}

/// Frees them; NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_free(options: *mut hyc_options) {
    drop(GENERATE.take(options));
}

/// Most new tokens.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_set_max_new_tokens(options: *mut hyc_options, tokens: usize) -> hyc_status {
    set(&GENERATE, options, |options| {
        options.max_new_tokens = tokens;
        Ok(())
    })
}

/// The seed of the choice.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_set_seed(options: *mut hyc_options, seed: u64) -> hyc_status {
    set(&GENERATE, options, |options| {
        options.seed = Some(seed);
        Ok(())
    })
}

/// How tokens are chosen, in place of the model's own way: the temperature (0: the likeliest token), of the top_k likeliest
/// (0: all), those that make up top_p (1: all), and none below min_p of the likeliest (0: all).
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_set_sampling(
    options: *mut hyc_options,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
) -> hyc_status {
    set(&GENERATE, options, |options| {
        let sampling = Sampling { temperature, top_k, top_p, min_p, ..options.sampling.unwrap_or_default() };
        sampling.check().map_err(|e| Failure::argument(e.to_string(), "choose a value inside the range"))?;
        options.sampling = Some(sampling);
        Ok(())
    })
}

/// A text that ends the continuation, and is no part of it; may be called several times.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_options_add_stop(
    options: *mut hyc_options,
    stop: *const c_char,
    stop_len: usize,
) -> hyc_status {
    set(&GENERATE, options, |options| {
        // SAFETY: the caller's text.
        options.stop.push(unsafe { text(stop, stop_len, "the stop text") }?.to_string());
        Ok(())
    })
}

/// A token that ends the continuation, beside the model's own; may be called several times.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_add_stop_token(options: *mut hyc_options, token: u32) -> hyc_status {
    set(&GENERATE, options, |options| {
        options.stop_tokens.push(token);
        Ok(())
    })
}

/// Whether the model's own end tokens end nothing.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_set_ignore_eos(options: *mut hyc_options, ignore: bool) -> hyc_status {
    set(&GENERATE, options, |options| {
        options.ignore_eos = ignore;
        Ok(())
    })
}

/// Whether special tokens are part of the text.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_options_set_show_special(options: *mut hyc_options, show: bool) -> hyc_status {
    set(&GENERATE, options, |options| {
        options.show_special = show;
        Ok(())
    })
}
