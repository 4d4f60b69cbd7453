//! What is wrong with an artefact, or with what is asked of it.

use std::path::Path;

use hyc_plan::WeightId;

use crate::error::{Error, ErrorKind};

/// A file that is not what was written.
pub(super) fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadArtefact, format!("{} is damaged: {what}", path.display()))
        .help("copy it again, or compile the model again")
}

pub(crate) fn no_weight(id: WeightId) -> Error {
    Error::new(ErrorKind::BadInput, format!("the plan has no weight {id}"))
}

/// `len` bytes at `at` are asked for of a weight that has `has`.
pub(super) fn no_bytes(name: &str, (at, len): (usize, usize), has: u64) -> Error {
    let message = format!("weight `{name}` has {has} bytes; {len} at byte {at} are beyond them");
    Error::new(ErrorKind::BadInput, message).help("a weight's bytes are those of its format, `Weight::bytes`")
}

pub(super) fn unread_weights(path: &Path) -> Error {
    let message = format!("{} was opened to look at it, without its weights", path.display());
    Error::new(ErrorKind::BadInput, message).help("open it with `Verify::Full`, which reads them too")
}

/// A model that was linked without its weights.
pub(super) fn unlinked_weights(path: &Path) -> Error {
    Error::new(ErrorKind::BadInput, format!("`{}` is linked into this program without its weights", path.display()))
        .help("load it with `load_with_weights` from the artefact that the build wrote, or embed them (`Weights::Embedded`)")
}

/// Weights that are there and shall be made up, or are `absent` and shall not.
pub(super) fn wrong_weights(path: &Path, absent: bool) -> Error {
    let path = path.display();
    if absent {
        Error::new(ErrorKind::BadInput, format!("{path} was compiled without weights"))
            .help("compile it with its weights; to measure speed, load it with `--random-weights SEED`")
    } else {
        Error::new(ErrorKind::BadInput, format!("{path} has weights: random ones cannot take their place"))
            .help("leave `--random-weights` away, or compile the model with `--no-weights`")
    }
}
