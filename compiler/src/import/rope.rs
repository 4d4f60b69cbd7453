//! Rotary embedding, as configurations of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) say it.

use hyc_plan::RopeScaling;
use serde_json::Value;

use super::config::Config;
use crate::error::Result;

/// What it says.
pub struct Rope {
    /// Base.
    pub theta: f64,
    /// Change for longer contexts.
    pub scaling: Option<RopeScaling>,
    /// Most tokens for which this is the model, where it is not for all.
    pub most: Option<u64>,
}

/// Reads it. `theta`: the family's, where nothing is said.
pub fn read(config: &Config, theta: f64) -> Result<Rope> {
    let outer = config.positive("rope_theta")?;
    let old = config.table("rope_scaling")?;
    let new = config.table("rope_parameters")?;
    let table = if new.is_empty() { old } else { new };
    let theta = table.positive("rope_theta")?.or(outer).unwrap_or(theta);
    table.must_be("partial_rotary_factor", &[Value::from(1), Value::from(1.0)], "a part of a head turns")?;
    let kind = match table.word("rope_type")? {
        Some(kind) => Some(kind),
        None => table.word("type")?,
    };
    // Both names are known, whichever is there.
    table.get("type");
    let trained = config.size("max_position_embeddings")?;
    let original = || -> Result<f64> {
        let here = table.positive("original_max_position_embeddings")?;
        let here = here.or(config.positive("original_max_position_embeddings")?);
        here.or(trained.map(|n| n as f64)).ok_or_else(|| table.missing("original_max_position_embeddings"))
    };
    let mut most = None;
    let scaling = match kind {
        None | Some("default") => None,
        Some("linear") => Some(RopeScaling::Linear { factor: table.needs_positive("factor")? }),
        Some("llama3") => Some(RopeScaling::Llama3 {
            factor: table.needs_positive("factor")?,
            low: table.needs_positive("low_freq_factor")?,
            high: table.needs_positive("high_freq_factor")?,
            original: original()?,
        }),
        Some("yarn") => {
            table.must_be("truncate", &[Value::Bool(true)], "the ramp of YaRN has ends between pairs")?;
            let factor = table.needs_positive("factor")?;
            Some(RopeScaling::Yarn {
                factor,
                fast: table.positive("beta_fast")?.unwrap_or(32.0),
                slow: table.positive("beta_slow")?.unwrap_or(1.0),
                original: original()?,
                magnitude: magnitude(&table, factor)?,
            })
        }
        // Frequencies follow the length of a sequence once it is longer than those of training: up to there none do.
        Some("dynamic") => {
            table.get("factor");
            most = Some(original()? as u64);
            None
        }
        Some(other) => {
            let why = "no such scaling of RoPE is known here";
            return Err(table.refused("rope_type", &Value::from(other), why));
        }
    };
    table.all_asked()?;
    Ok(Rope { theta, scaling, most })
}

/// YaRN's factor of queries and keys (2309.00071, eq. 22, and DeepSeek's two factors of it).
fn magnitude(table: &Config, factor: f64) -> Result<f64> {
    let of = |by: f64| if factor > 1.0 { 0.1 * by * factor.ln() + 1.0 } else { 1.0 };
    let (one, all) = (table.positive("mscale")?, table.positive("mscale_all_dim")?);
    let said = table.positive("attention_factor")?;
    Ok(said.unwrap_or(match (one, all) {
        (Some(one), Some(all)) => of(one) / of(all),
        _ => of(1.0),
    }))
}
