//! `[tokenizer]`.

use std::path::{Path, PathBuf};

use super::reader::Section;

/// The file that `[tokenizer]` names, found from `folder`.
pub fn read(folder: &Path, tokenizer: &Section) -> Option<PathBuf> {
    tokenizer.string("file", "tokenizer.json").map(|file| folder.join(file.value))
}
