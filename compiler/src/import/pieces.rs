//! SentencePiece's BPE (Kudo and Richardson, 1808.06226) from a GGUF file, as a tokenizer.json.
//!
//! SentencePiece puts together, again and again, the two neighbours that make the piece of the highest score; a
//! tokenizer.json has a list of pairs, the first of which are put together first. So the pairs are all that a piece can be cut
//! into, by the piece's score. Spaces are `\u{2581}`, one of them before a text; what no piece spells is `<0xNN>` by bytes.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::tokens::{CONTROL, Keys, PLAIN, UNKNOWN, added, broken};
use crate::error::Result;
use crate::gguf::Value;
use crate::words::shortened;

const SPACE: &str = "\u{2581}";
/// Most bytes of a piece that is put together; SentencePiece's own have up to 16 letters where nothing else is said.
const MOST_BYTES: usize = 512;
/// Pairs for each piece; those of published vocabularies are 2 to 3.
const MOST_PAIRS: usize = 8;

/// A piece, and where it is cut.
struct Pair<'t> {
    score: f64,
    piece: &'t str,
    at: usize,
}

/// The vocabulary in `keys`, whose tokens and their kinds are given. Errors: scores that are none or fewer; pieces that are
/// alike or too long.
pub fn tokenizer(keys: &Keys<'_>, tokens: &[&str], kinds: &[Value]) -> Result<Json> {
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(other) = vocab.insert(token.to_string(), json!(id)) {
            return Err(broken(&format!("two tokens, {other} and {id}, that are `{}`", shortened(token))));
        }
    }
    let merges: Vec<Json> = pairs(keys, tokens, kinds)?
        .into_iter()
        .map(|pair| json!([pair.piece[..pair.at], pair.piece[pair.at..]]))
        .collect();
    let unknown = keys.id("unknown_token_id").and_then(|id| tokens.get(usize::try_from(id).ok()?));
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let back = json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " });
    let mut normalizers = vec![spaces];
    let mut decoders = vec![back, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    if keys.flag("add_space_prefix", true) {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "version": "1.0",
        "added_tokens": added(tokens, kinds, &[UNKNOWN, CONTROL]),
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "ignore_merges": false, "byte_fallback": true, "fuse_unk": true, "unk_token": unknown,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// What plain pieces are put together of, the highest score first.
fn pairs<'t>(keys: &Keys<'_>, tokens: &[&'t str], kinds: &[Value]) -> Result<Vec<Pair<'t>>> {
    let scores = keys.list("scores").unwrap_or_default();
    if scores.len() < tokens.len() {
        return Err(broken(&format!("{} scores for {} tokens", scores.len(), tokens.len())));
    }
    let plain = |id: usize| kinds.is_empty() || kinds.get(id) == Some(&PLAIN);
    let mut pieces: HashMap<&str, f64> = HashMap::new();
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate().filter(|(id, _)| plain(*id)) {
        match score {
            Value::Float(score) if !score.is_nan() => _ = pieces.insert(token, *score),
            other => return Err(broken(&format!("the score {other:?} of token {id}"))),
        }
    }
    let mut pairs = Vec::new();
    for (id, piece) in tokens.iter().enumerate().filter(|(id, _)| plain(*id)) {
        if piece.len() > MOST_BYTES {
            return Err(broken(&format!(
                "the piece {id} of {} bytes, and {MOST_BYTES} at most are read",
                piece.len()
            )));
        }
        let cuts = piece.char_indices().map(|(at, _)| at).skip(1);
        let cuts = cuts.filter(|at| pieces.contains_key(&piece[..*at]) && pieces.contains_key(&piece[*at..]));
        pairs.extend(cuts.map(|at| Pair { score: pieces[piece], piece, at }));
        if pairs.len() > MOST_PAIRS * tokens.len() {
            return Err(broken(&format!("more than {MOST_PAIRS} ways for each piece to be put together")));
        }
    }
    pairs.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(pairs)
}
