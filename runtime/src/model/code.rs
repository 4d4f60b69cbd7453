//! The machine code of an artefact, and whether this machine can run it.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use hyc_plan::artefact::ALIGN;
use hyc_plan::{Code, Plan, Target};
use memmap2::Mmap;

use super::fault::damaged;
use super::file::FileBytes;
use crate::error::{Error, ErrorKind, Result};

pub(super) fn check_machine(plan: &Plan) -> Result<()> {
    // Whether there is such a GPU is seen when a session opens it.
    let Target::Host { arch, features } = &plan.target else { return Ok(()) };
    let here = std::env::consts::ARCH;
    if arch != here {
        let message = format!("this artefact's code is for {arch}, this machine is {here}");
        return Err(Error::new(ErrorKind::Unsupported, message).help("compile the model on such a machine"));
    }
    let missing: Vec<&str> =
        features.iter().map(String::as_str).filter(|feature| !has_feature(feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("this artefact's code needs {}, which this processor lacks", missing.join(", "));
    Err(Error::new(ErrorKind::Unsupported, message).help("compile the model with `--cpu baseline`"))
}

#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    match name {
        "sse4.1" => std::is_x86_feature_detected!("sse4.1"),
        "avx2" => std::is_x86_feature_detected!("avx2"),
        "fma" => std::is_x86_feature_detected!("fma"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_feature(_: &str) -> bool {
    false
}

/// Every processor's kernel lies in the code, where there is code, which was made for this plan.
pub(super) fn check_places(path: &Path, plan: &Plan, code: Option<&[u8]>) -> Result<()> {
    let Some(code) = code else { return Ok(()) };
    for kernel in &plan.kernels {
        let Code::Host { offset, bytes, .. } = kernel.code else { continue };
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= code.len() as u64);
        if !inside || bytes == 0 || offset % ALIGN != 0 {
            return Err(damaged(path, format!("kernel {} is not inside the code", kernel.name)));
        }
    }
    hyc_plan::bind::check(plan, code).map_err(|e| damaged(path, e))
}

/// A processor's code where it may be executed.
#[derive(Clone)]
pub(crate) enum HostCode {
    /// In memory of its own, or in a mapping of the file.
    Mapped(Arc<Mmap>),
    /// In the program itself.
    Linked(&'static [u8]),
}

impl Deref for HostCode {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            HostCode::Mapped(map) => map,
            HostCode::Linked(code) => code,
        }
    }
}

/// The code in `part` of a file, where it may be executed: copied to memory that is made executable, or, where the system
/// refuses that, mapped from the file. Errors: it can be neither.
pub(super) fn executable(path: &Path, file: &FileBytes, part: Range<usize>) -> Result<HostCode> {
    let copied = memmap2::MmapMut::map_anon(part.len().max(1)).and_then(|mut memory| {
        memory[..part.len()].copy_from_slice(&file[part.clone()]);
        memory.make_exec()
    });
    let refused = match copied {
        Ok(code) => return Ok(HostCode::Mapped(Arc::new(code))),
        Err(error) => error,
    };
    match file.map_executable(part) {
        Some(Ok(code)) => Ok(HostCode::Mapped(Arc::new(code))),
        mapped => {
            let error = mapped.and_then(|mapped| mapped.err()).unwrap_or(refused);
            let message = format!("this system lets the code of {} not be executed: {error}", path.display());
            Err(Error::new(ErrorKind::Unsupported, message).help(
                "link the model into the program (`hyc_runtime::linked_model!`), or load a file as it lies \
                 (`Storage::Mapped`) from a file system that is not mounted `noexec`",
            ))
        }
    }
}
