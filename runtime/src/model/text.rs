//! The text settings of an artefact.

use std::collections::BTreeMap;
use std::path::Path;

use hyc_plan::artefact::TEXT_KEY;
use hyc_plan::text_settings::{MAX_BYTES, TextSettings};

use super::fault::damaged;
use crate::error::Result;

/// What the metadata says of the model's text, bounded before it is parsed.
pub fn text(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Option<TextSettings>> {
    let Some(json) = metadata.get(TEXT_KEY) else { return Ok(None) };
    if json.len() > MAX_BYTES {
        return Err(damaged(path, format!("its text settings have {} bytes", json.len())));
    }
    let settings: TextSettings =
        serde_json::from_str(json).map_err(|e| damaged(path, format!("its text settings: {e}")))?;
    settings.check().map_err(|e| damaged(path, e))?;
    Ok(Some(settings))
}
