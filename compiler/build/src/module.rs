//! The Rust module of a linked model.

use std::path::Path;

use hyc_runtime::Model;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// What a module says beside the model.
pub struct Module<'a> {
    /// The description.
    pub input: &'a Path,
    /// How the object's symbols begin.
    pub symbol: &'a str,
    /// The library that has the object.
    pub library: &'a str,
    /// Whether the weights are in the object.
    pub embedded: bool,
    /// The object.
    pub object: &'a Path,
    /// The artefact with the weights.
    pub artefact: &'a Path,
}

/// Writes the module of a model, where it is not there as it is.
pub fn write(module: &Module<'_>, model: &Model, to: &Path) -> Result<()> {
    let artefact = module.artefact;
    let plan = model.plan();
    let info = &plan.model;
    let (artefact_bytes, code_bytes) = sizes(module)?;
    let text = format!(
        "// Made by hyc-build from {input:?}.
/// The model's name.
pub const NAME: &str = {name:?};
/// Entries of its vocabulary.
pub const VOCAB: u64 = {vocab};
/// Most tokens of a sequence.
pub const MAX_CONTEXT: u64 = {context};
/// Most sequences in a step.
pub const MAX_BATCH: u64 = {batch};
/// Where the build left the artefact with the weights, to be shipped beside the program.
pub const ARTEFACT: &str = {path:?};
/// SHA-256 of that file.
pub const SHA256: &str = {sha:?};

#[link(name = \"{library}\", kind = \"static\")]
unsafe extern \"C\" {{
    #[link_name = \"{symbol}_hyc_artefact\"]
    static LINKED_ARTEFACT: [u8; {artefact_bytes}];
    #[link_name = \"{symbol}_hyc_code\"]
    static LINKED_CODE: [u8; {code_bytes}];
}}

/// What the linker put into this program.
pub fn linked() -> ::hyc_runtime::Linked {{
    // SAFETY: constants of the object that this module was made with.
    unsafe {{ ::hyc_runtime::Linked {{ name: NAME, artefact: &LINKED_ARTEFACT, code: &LINKED_CODE }} }}
}}

/// Loads the model{embedded}. Errors: those of `hyc_runtime::Model::linked`.
pub fn load(options: &::hyc_runtime::LoadOptions) -> ::hyc_runtime::Result<::hyc_runtime::Model> {{
    // SAFETY: the build script's object, whose code is this program's.
    unsafe {{ ::hyc_runtime::Model::linked(linked(), options) }}
}}

/// Loads the model with the weights of the artefact that the build wrote, wherever it is now.
///
/// # Safety
/// Nobody writes to the file or shortens it while the model lives, unless it is copied.
pub unsafe fn load_with_weights(
    weights: impl AsRef<::std::path::Path>,
    options: &::hyc_runtime::LoadOptions,
) -> ::hyc_runtime::Result<::hyc_runtime::Model> {{
    // SAFETY: the same, and the caller's promise.
    unsafe {{ ::hyc_runtime::Model::linked_with_weights(linked(), weights, options) }}
}}
",
        input = module.input,
        name = info.name,
        vocab = info.vocab,
        context = info.max_context,
        batch = info.max_batch,
        path = artefact,
        sha = digest(artefact)?,
        symbol = module.symbol,
        library = module.library,
        embedded = if module.embedded { ", weights and all" } else { ", which has no weights of its own" },
    );
    put(to, &text)
}

/// Writes a module whose `load` is an error, for documentation alone.
pub fn write_stub(folder: &Path, name: &str) -> Result<()> {
    let text = format!(
        "pub const NAME: &str = {name:?};
pub const VOCAB: u64 = 0;
pub const MAX_CONTEXT: u64 = 0;
pub const MAX_BATCH: u64 = 0;
pub const ARTEFACT: &str = \"\";
pub const SHA256: &str = \"\";
/// What the linker put into this program: nothing, since it was built for its documentation.
pub fn linked() -> ::hyc_runtime::Linked {{
    ::hyc_runtime::Linked {{ name: NAME, artefact: &[], code: &[] }}
}}
/// Fails: this was built for its documentation.
pub fn load(options: &::hyc_runtime::LoadOptions) -> ::hyc_runtime::Result<::hyc_runtime::Model> {{
    // SAFETY: there is no code.
    unsafe {{ ::hyc_runtime::Model::linked(linked(), options) }}
}}
/// Fails: this was built for its documentation.
///
/// # Safety
/// Anybody may call it.
pub unsafe fn load_with_weights(
    _: impl AsRef<::std::path::Path>,
    options: &::hyc_runtime::LoadOptions,
) -> ::hyc_runtime::Result<::hyc_runtime::Model> {{
    load(options)
}}
"
    );
    put(&folder.join(format!("{name}.rs")), &text)
}

fn put(to: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(to).is_ok_and(|old| old == text) {
        return Ok(());
    }
    std::fs::write(to, text).map_err(|e| Error::io("write", to, &e))
}

/// Bytes of the object's artefact and of its code.
fn sizes(module: &Module<'_>) -> Result<(u64, u64)> {
    let path = module.object;
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, &e))?;
    Ok(hyc::object::sizes(module.symbol, &bytes)?)
}

fn digest(path: &Path) -> Result<String> {
    let fail = |e| Error::io("read", path, &e);
    let mut sha = Sha256::new();
    let mut file = std::fs::File::open(path).map_err(fail)?;
    std::io::copy(&mut file, &mut sha).map_err(fail)?;
    Ok(hyc_plan::artefact::hex(&sha.finalize()))
}
