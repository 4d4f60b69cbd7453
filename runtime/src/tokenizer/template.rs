//! Checks a post-processor's template, which the `tokenizers` crate believes.

use serde_json::Value;

/// Most tokens that a template adds, and most pieces that it has.
const MOST_TOKENS: usize = 1024;

/// Checks one post-processor. Errors: a template of one text that names a second one, or the text twice, or a token that
/// it does not have; one that adds too many.
pub fn check(step: &Value) -> Result<(), String> {
    let Some(pieces) = step["single"].as_array() else { return Ok(()) };
    let (mut texts, mut added) = (0, 0usize);
    for piece in pieces {
        let name = piece["SpecialToken"]["id"].as_str();
        match (piece["Sequence"]["id"].as_str(), name) {
            (Some("B"), _) => return Err("its template for one text names a second one".into()),
            (Some(_), _) => texts += 1,
            (None, Some(name)) => {
                let ids = step["special_tokens"][name]["ids"].as_array();
                let ids =
                    ids.ok_or_else(|| format!("its template names `{name}`, which it does not have"))?;
                added = added.saturating_add(ids.len());
            }
            (None, None) => {}
        }
    }
    if texts > 1 {
        return Err("its template names the text more than once".into());
    }
    if added.max(pieces.len()) > MOST_TOKENS {
        return Err(format!("its template adds more than {MOST_TOKENS} tokens"));
    }
    Ok(())
}
