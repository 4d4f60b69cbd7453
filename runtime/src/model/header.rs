//! An artefact's header: its metadata, where its tensors are, and its hash.

use std::collections::BTreeMap;
use std::path::Path;

use hyc_ir::artefact::{ALIGN, HASH_KEY, NO_HASH, PAD, VERSION, VERSION_KEY};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use super::damaged;
use crate::error::{Error, ErrorKind, Result};

/// The end of the header in the file, and its metadata.
pub(super) fn read_header(path: &Path, map: &[u8]) -> Result<(usize, BTreeMap<String, String>)> {
    let no_artefact = || {
        Error::new(ErrorKind::BadArtefact, format!("{} is no hyc artefact", path.display()))
            .help("an artefact is what `hyc compile` writes")
    };
    let length = map.get(..8).and_then(|b| <[u8; 8]>::try_from(b).ok()).ok_or_else(no_artefact)?;
    let end = usize::try_from(u64::from_le_bytes(length)).ok().and_then(|n| n.checked_add(8));
    let end = end.filter(|end| *end <= map.len()).ok_or_else(|| match map.get(8) {
        Some(b'{') => damaged(path, "it ends inside its header"),
        _ => no_artefact(),
    })?;
    let json: serde_json::Value =
        serde_json::from_slice(&map[8..end]).map_err(|e| damaged(path, format!("its header: {e}")))?;
    let metadata = json.get("__metadata__").and_then(|m| m.as_object()).ok_or_else(no_artefact)?;
    let strings = metadata.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string())));
    Ok((end, strings.collect()))
}

pub(super) fn check_version(path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
    match metadata.get(VERSION_KEY) {
        Some(version) if *version == VERSION.to_string() => Ok(()),
        Some(version) => Err(Error::new(
            ErrorKind::BadArtefact,
            format!("{} has format version {version}; this build reads {VERSION}", path.display()),
        )
        .help("compile the model again with this build")),
        None => Err(Error::new(
            ErrorKind::BadArtefact,
            format!("{} is a safetensors file but no hyc artefact", path.display()),
        )
        .help("an artefact is what `hyc compile` writes")),
    }
}

/// Byte ranges of all tensors, in the file.
pub(super) fn places(path: &Path, map: &[u8], header: usize) -> Result<BTreeMap<String, (usize, usize)>> {
    let tensors = SafeTensors::deserialize(map).map_err(|e| damaged(path, format!("{e:?}")))?;
    let base = map.as_ptr() as usize;
    let mut places = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        let start = view.data().as_ptr() as usize - base;
        // A pad begins where its tensor ended; it only has to end aligned.
        if start < header || (start as u64 % ALIGN != 0 && !name.starts_with(PAD)) {
            return Err(damaged(path, format!("tensor `{name}` is not aligned")));
        }
        places.insert(name, (start, start + view.data().len()));
    }
    Ok(places)
}

pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn check_hash(path: &Path, header: &[u8], metadata: &BTreeMap<String, String>) -> Result<()> {
    let hash = metadata.get(HASH_KEY).filter(|hash| hash.len() == NO_HASH.len());
    let hash = hash.ok_or_else(|| damaged(path, "it has no hash"))?;
    let text = std::str::from_utf8(header).map_err(|_| damaged(path, "its header is not UTF-8"))?;
    let blank = text.replacen(hash.as_str(), NO_HASH, 1);
    if hex(&Sha256::digest(blank.as_bytes())) == *hash {
        return Ok(());
    }
    Err(damaged(path, "its header does not have the hash that it states"))
}
