//! Weights that lie in another file than the model.

use std::path::{Path, PathBuf};

use hyc_plan::Plan;
use hyc_plan::artefact::{NO_WEIGHTS, PLAN_KEY, WEIGHTS_KEY};

use super::digests::Digests;
use super::file::FileBytes;
use super::header::read_header;
use super::weights::weights;
use crate::error::{Error, ErrorKind, Result};

/// An artefact of which the weights alone are used.
pub(super) struct Beside {
    pub path: PathBuf,
    pub file: FileBytes,
    pub digests: Digests,
}

impl Beside {
    /// Reads an artefact's header, and where the weights of `plan` lie in it. Errors: those of
    /// [`Model::load`](super::Model::load); weights of another plan than `plan`, whose JSON is `stated`; none.
    pub(super) fn open(
        path: &Path,
        file: FileBytes,
        plan: &Plan,
        stated: &str,
    ) -> Result<(Beside, Vec<usize>)> {
        let header = read_header(path, &file)?;
        let of = |key| header.metadata.get(key).map(String::as_str);
        let wrong = if of(PLAN_KEY) != Some(stated) {
            Some("are another model's, or of another build of it")
        } else {
            (of(WEIGHTS_KEY) == Some(NO_WEIGHTS)).then_some("were left out")
        };
        if let Some(wrong) = wrong {
            let message =
                format!("the weights in {} {wrong}: `{}` needs its own", path.display(), plan.model.name);
            return Err(Error::new(ErrorKind::BadArtefact, message)
                .help("give the artefact that was written with the linked model, in the same build"));
        }
        let digests = Digests::new(path, &file, &header)?;
        let places = weights(path, plan, &header)?;
        Ok((Beside { path: path.to_path_buf(), file, digests }, places))
    }
}
