//! The machine code of an artefact, and whether this machine can run it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hyc_plan::artefact::{ALIGN, CODE};
use hyc_plan::{Code, Plan, Target};
use memmap2::Mmap;

use super::fault::damaged;
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
pub(super) fn check_places(
    path: &Path,
    map: &[u8],
    plan: &Plan,
    places: &BTreeMap<String, (usize, usize)>,
) -> Result<()> {
    let Some((start, end)) = places.get(CODE).copied() else { return Ok(()) };
    let len = (end - start) as u64;
    for kernel in &plan.kernels {
        let Code::Host { offset, bytes, .. } = kernel.code else { continue };
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= len);
        if !inside || bytes == 0 || offset % ALIGN != 0 {
            return Err(damaged(path, format!("kernel {} is not inside the code", kernel.name)));
        }
    }
    hyc_plan::bind::check(plan, &map[start..end]).map_err(|e| damaged(path, e))
}

/// The code, copied to memory that may be executed; `None` where the artefact has none for this machine.
pub(super) fn code(
    map: &[u8],
    plan: &Plan,
    places: &BTreeMap<String, (usize, usize)>,
) -> Result<Option<Arc<Mmap>>> {
    let Some((start, end)) = places.get(CODE).copied().filter(|_| plan.target.is_host()) else {
        return Ok(None);
    };
    let len = (end - start) as u64;
    let io =
        |e: std::io::Error| Error::new(ErrorKind::Resource, format!("cannot map memory for the code: {e}"));
    let mut memory = memmap2::MmapMut::map_anon(len.max(1) as usize).map_err(io)?;
    memory[..len as usize].copy_from_slice(&map[start..end]);
    memory.make_exec().map(|code| Some(Arc::new(code))).map_err(io)
}
