//! The text settings of an artefact.

use std::collections::BTreeMap;
use std::path::Path;

use hyc_plan::artefact::TEXT_KEY;
use hyc_plan::text_settings::{MAX_BYTES, TextSettings};

use super::fault::damaged;
use crate::error::Result;

/// What the metadata says of the text of a model that chooses from so many entries, bounded before it is parsed.
pub fn text(path: &Path, metadata: &BTreeMap<String, String>, choices: u64) -> Result<Option<TextSettings>> {
    let Some(json) = metadata.get(TEXT_KEY) else { return Ok(None) };
    if json.len() > MAX_BYTES {
        return Err(damaged(path, format!("its text settings have {} bytes", json.len())));
    }
    let settings: TextSettings =
        serde_json::from_str(json).map_err(|e| damaged(path, format!("its text settings: {e}")))?;
    settings.check().map_err(|e| damaged(path, e))?;
    if settings.unnamed.last().is_some_and(|[_, end]| u64::from(*end) >= choices) {
        return Err(damaged(
            path,
            "its text settings name ids without a token behind the last one that has one",
        ));
    }
    Ok(Some(settings))
}
