//! `[weights]`: files and the element type that they get.

use std::path::{Path, PathBuf};

use super::desc::{WeightDtype, WeightsDesc};
use super::reader::{Faults, Section};

/// Element types by their names.
pub const DTYPES: &[(&str, WeightDtype)] = &[("bf16", WeightDtype::Bf16), ("f32", WeightDtype::F32)];

/// Reads `[weights]`; files are found from `folder`.
pub fn read(folder: &Path, weights: &Section, faults: &Faults) -> WeightsDesc {
    let mut files: Vec<PathBuf> = Vec::new();
    if let Some(value) = weights.get("files") {
        let items = value.get_ref().as_array();
        for item in items.into_iter().flatten() {
            match item.get_ref().as_str() {
                Some(file) => files.push(folder.join(file)),
                None => faults.add(item.span(), "a weight file is a string", "not a string", ""),
            }
        }
        if items.is_none_or(|items| items.is_empty()) {
            let help = "write `files = [\"model.safetensors\"]`";
            faults.add(value.span(), "`files` must be a list of paths", "not such a list", help);
        }
    }
    WeightsDesc { files, dtype: weights.word("dtype", DTYPES, WeightDtype::Bf16) }
}
