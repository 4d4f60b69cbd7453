//! Models: shared between threads, kept alive by their sessions.

use std::ffi::{CString, c_char};
use std::sync::{Arc, OnceLock};

use hyc_runtime::{Linked, Model, Tokenizer};

use crate::arguments::{check_place, fill, put, slice, text};
use crate::error::{Failure, answer, hyc_error, hyc_status};
use crate::options::{hyc_load_options, load_options};
use crate::table::Table;

/// A loaded model; any thread may use it. Freed by hyc_model_free, and kept by its sessions as long as they live.
#[allow(non_camel_case_types, reason = "C's names")]
pub struct hyc_model(());

/// A model with its tokenizer, once it is needed.
pub struct Shared {
    /// The model.
    pub model: Arc<Model>,
    name: CString,
    tokenizer: OnceLock<Result<Arc<Tokenizer>, hyc_runtime::Error>>,
}

impl Shared {
    /// Errors: the model has no tokenizer.
    pub fn tokenizer(&self) -> Result<Arc<Tokenizer>, Failure> {
        let tokenizer = self.tokenizer.get_or_init(|| Tokenizer::of(&self.model).map(Arc::new));
        Ok(tokenizer.clone()?)
    }
}

static MODELS: Table<Shared> = Table::new();

/// What a handle stands for.
pub fn model(handle: *const hyc_model) -> Result<Arc<Shared>, Failure> {
    MODELS.get(handle, "the model")
}

unsafe fn loaded(
    to: *mut *mut hyc_model,
    error: *mut *mut hyc_error,
    load: impl FnOnce() -> Result<Model, Failure>,
) -> hyc_status {
    answer(error, || {
        check_place(to, "model")?;
        let model = Arc::new(load()?);
        let name = CString::new(model.plan().model.name.replace('\0', " ")).unwrap_or_default();
        // SAFETY: the caller's place, not NULL.
        unsafe { to.write(MODELS.put(Shared { model, name, tokenizer: OnceLock::new() })) };
        Ok(hyc_status::HYC_OK)
    })
}

/// Loads an artefact. Loading one is running a program: hyc compile wrote it, and whoever could change it since is trusted
/// as this program is. Nobody writes to the file or shortens it while the model lives, unless it is copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_load(
    path: *const c_char,
    path_len: usize,
    options: *const hyc_load_options,
    model: *mut *mut hyc_model,
    error: *mut *mut hyc_error,
) -> hyc_status {
    let load = || {
        // SAFETY: the caller's text, and promise.
        unsafe { Ok(Model::load(text(path, path_len, "the path")?, &load_options(options)?)?) }
    };
    // SAFETY: the caller's place.
    unsafe { loaded(model, error, load) }
}

/// The same from memory that lives as long as the program, at a multiple of 64.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_from_static(
    bytes: *const u8,
    len: usize,
    options: *const hyc_load_options,
    model: *mut *mut hyc_model,
    error: *mut *mut hyc_error,
) -> hyc_status {
    let load = || {
        // SAFETY: the caller's bytes, and promise.
        unsafe { Ok(Model::from_static(slice(bytes, len, "the artefact")?, &load_options(options)?)?) }
    };
    // SAFETY: the caller's place.
    unsafe { loaded(model, error, load) }
}

/// Loads a model of an object file of `hyc compile --emit obj --symbol NAME`, which this program was linked with: its
/// symbols NAME_hyc_artefact and NAME_hyc_code with their sizes. weights: the path of the artefact that was compiled with
/// it; NULL where the weights are in the object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_linked(
    artefact: *const u8,
    artefact_len: usize,
    code: *const u8,
    code_len: usize,
    weights: *const c_char,
    weights_len: usize,
    options: *const hyc_load_options,
    model: *mut *mut hyc_model,
    error: *mut *mut hyc_error,
) -> hyc_status {
    let load = || {
        // SAFETY: the caller's object, which lives as long as the program.
        unsafe {
            let artefact = slice(artefact, artefact_len, "the artefact")?;
            let linked =
                Linked { name: "the linked model", artefact, code: slice(code, code_len, "the code")? };
            let options = load_options(options)?;
            Ok(match weights.is_null() {
                true => Model::linked(linked, &options)?,
                false => {
                    Model::linked_with_weights(linked, text(weights, weights_len, "the path")?, &options)?
                }
            })
        }
    };
    // SAFETY: the caller's place.
    unsafe { loaded(model, error, load) }
}

/// Frees a model; its sessions keep what they need of it. NULL is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_model_free(model: *mut hyc_model) {
    drop(MODELS.take(model));
}

/// A number of the model; 0 where it is none.
fn number(handle: *const hyc_model, get: impl FnOnce(&hyc_runtime::plan::ModelInfo) -> u64) -> u64 {
    model(handle).map_or(0, |shared| get(&shared.model.plan().model))
}

/// Entries of the vocabulary; 0 where the handle is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_model_vocab(model: *const hyc_model) -> u64 {
    number(model, |info| info.vocab)
}

/// Most tokens of a sequence; 0 where the handle is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_model_max_context(model: *const hyc_model) -> u64 {
    number(model, |info| info.max_context)
}

/// Most sequences in a step; 0 where the handle is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_model_max_batch(model: *const hyc_model) -> u64 {
    number(model, |info| info.max_batch)
}

/// The model's name, UTF-8; valid until the model is freed. NULL where the handle is none.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_model_name(model: *const hyc_model) -> *const c_char {
    self::model(model).map_or(std::ptr::null(), |shared| shared.name.as_ptr())
}

/// Tokens of a text: as a prompt, with what the model wants at its beginning, or bare. tokens: room for capacity of them;
/// count: how many there are. HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_encode(
    model: *const hyc_model,
    text: *const c_char,
    text_len: usize,
    bare: bool,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let tokenizer = self::model(model)?.tokenizer()?;
        // SAFETY: the caller's text and places.
        unsafe {
            let text = self::text(text, text_len, "the text")?;
            let found = if bare { tokenizer.encode_bare(text) } else { tokenizer.encode(text) }?;
            fill(&found, tokens, capacity, count)
        }
    })
}

/// Text of tokens, without the special ones, UTF-8 and not ended by a zero. text: room for capacity bytes; len: how many
/// there are. HYC_SHORT where they do not fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_decode(
    model: *const hyc_model,
    tokens: *const u32,
    count: usize,
    text: *mut c_char,
    capacity: usize,
    len: *mut usize,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let tokenizer = self::model(model)?.tokenizer()?;
        // SAFETY: the caller's tokens and places.
        unsafe {
            let found = tokenizer.decode(slice(tokens, count, "the tokens")?)?;
            fill(found.as_bytes(), text.cast(), capacity, len)
        }
    })
}

/// Whether the model has a tokenizer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hyc_model_has_tokenizer(
    model: *const hyc_model,
    has: *mut bool,
    error: *mut *mut hyc_error,
) -> hyc_status {
    answer(error, || {
        let has_one = self::model(model)?.model.tokenizer_json().is_some();
        // SAFETY: the caller's place.
        unsafe { put(has, has_one, "has") }?;
        Ok(hyc_status::HYC_OK)
    })
}
