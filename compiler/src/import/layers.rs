//! Which layers of a checkpoint see a window, and which see all tokens.

use serde_json::Value;

use super::config::Config;
use super::family::{Family, Windows};
use super::rope;
use crate::error::Result;

/// What its layers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// All tokens, each of them.
    Full,
    /// A window in all layers but these, which see all tokens.
    Windows {
        /// Its tokens, the query's own among them.
        window: u64,
        /// Layers without, ascending.
        full: Vec<u64>,
    },
}

const TYPES: &str = "layer_types";

/// Reads them. Errors: kinds of layers that there are not; layers of two kinds, in a class whose layers are alike.
pub fn read(config: &Config, family: Family) -> Result<Layers> {
    let layers = config.layers()?;
    let window = window(config, family)?;
    let list = listed(config, family, layers)?;
    if let Some(list) = &list {
        let odd = match window {
            None => list.full.len() as u64 != layers,
            Some(_) => family.windows == Windows::Alike && !list.full.is_empty(),
        };
        let why = match family.windows {
            Windows::Alike => "layers of several kinds",
            _ => "some layers see a window, and nothing says of how many tokens",
        };
        if odd {
            return Err(config.refused(list.key, &list.value, why));
        }
    }
    let Some(window) = window else { return Ok(Layers::Full) };
    let full = match (list, family.windows) {
        (Some(list), _) => list.full,
        (None, Windows::Listed) => return Err(config.missing(TYPES)),
        (None, Windows::After(first)) => {
            let first = config.number("max_window_layers")?.map_or(first, |n| n as u64);
            (0..first.min(layers)).collect()
        }
        (None, Windows::Still) => {
            let still = rope::layers_without(config, family)?;
            (0..layers).filter(|layer| still.binary_search(layer).is_err()).collect()
        }
        (None, Windows::Alike | Windows::All) => Vec::new(),
    };
    // One that holds every context hides nothing.
    let trained = config.size("max_position_embeddings")?;
    let hides = trained.is_none_or(|trained| window < trained) || family.by_kind;
    let any = hides && (full.len() as u64) < layers;
    Ok(if any { Layers::Windows { window, full } } else { Layers::Full })
}

/// Tokens of a window; `None`: no layer has one.
fn window(config: &Config, family: Family) -> Result<Option<u64>> {
    let window = config.size("sliding_window")?;
    let window = match config.size("sliding_window_size")? {
        // Of MiMo: what transformers makes of it.
        Some(before) if family.by_kind => Some(before + 1),
        _ => window,
    };
    let used = config.flag("use_sliding_window")?.unwrap_or(family.windows_unasked);
    Ok(window.filter(|_| used))
}

/// A list of layers' kinds.
struct List {
    key: &'static str,
    value: Value,
    /// Layers without a window, ascending.
    full: Vec<u64>,
}

fn listed(config: &Config, family: Family, layers: u64) -> Result<Option<List>> {
    const PATTERN: &str = "hybrid_layer_pattern";
    if family.by_kind
        && let Some(windows) = config.flags(PATTERN, layers)?
    {
        let full = (0..).zip(windows).filter(|(_, window)| !window).map(|(layer, _)| layer).collect();
        let value = config.get(PATTERN).cloned().unwrap_or_default();
        return Ok(Some(List { key: PATTERN, value, full }));
    }
    let Some(kinds) = config.words(TYPES)? else { return Ok(None) };
    let value = Value::from(kinds.clone());
    if kinds.len() as u64 != layers {
        return Err(config.refused(TYPES, &value, &format!("the model has {layers} layers")));
    }
    let mut full = Vec::new();
    for (layer, kind) in (0..).zip(&kinds) {
        match *kind {
            "full_attention" => full.push(layer),
            "sliding_attention" => {}
            other => {
                let why = format!("no layers of the kind \"{other}\" are known here");
                return Err(config.refused(TYPES, &value, &why));
            }
        }
    }
    Ok(Some(List { key: TYPES, value, full }))
}
