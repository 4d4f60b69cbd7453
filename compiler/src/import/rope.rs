//! Rotary embedding, as configurations of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) say it.

use hyc_plan::{MOST_PAIRS, RopeFactors, RopeScaling, RopeSpec};
use serde_json::Value;

use super::config::Config;
use super::family::Family;
use crate::error::Result;

/// What it says.
pub struct Rope {
    /// Base.
    pub theta: f64,
    /// Elements of a head that turn, where not all do.
    pub dims: Option<u64>,
    /// Change for longer contexts.
    pub scaling: Option<RopeScaling>,
    /// Most tokens for which this is the model, where it is not for all.
    pub most: Option<u64>,
    /// What its reader should know of it.
    pub note: Option<String>,
}

/// Whose it is, where layers with a window have one of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Layers that see all tokens; of most families all layers.
    Full,
    /// Layers with a window.
    Windows,
}

/// Of GGUF files: how many elements of a head turn, in the place of a part of it.
pub const TURNING: &str = "rope.dimension_count";

/// Base of layers with a window, where nothing is said.
const WINDOWS_THETA: f64 = 10_000.0;

/// Reads it for heads of `head_dim` elements. `context`: most tokens of a sequence, where that is asked for.
pub fn read(config: &Config, family: Family, of: Of, head_dim: u64, context: Option<u64>) -> Result<Rope> {
    let (outer, inner, usual) = match of {
        Of::Full => ("rope_theta", "full_attention", family.theta),
        Of::Windows => ("swa_rope_theta", "sliding_attention", WINDOWS_THETA),
    };
    let outer = config.positive(outer)?;
    let old = config.table("rope_scaling")?;
    let new = config.table("rope_parameters")?;
    let table = if family.by_kind {
        ["full_attention", "sliding_attention"].iter().for_each(|kind| _ = new.get(kind));
        new.all_asked()?;
        old.all_asked()?;
        new.table(inner)?
    } else if new.is_empty() {
        old
    } else {
        new
    };
    let theta = table.positive("rope_theta")?.or(outer).unwrap_or(usual);
    let turning = turning(config, &table, family, head_dim)?;
    let kind = match table.word("rope_type")? {
        Some(kind) => Some(kind),
        None => table.word("type")?,
    };
    // Both names are known, whichever is there, and where nothing is scaled a length of training says nothing.
    table.get("type");
    config.get("original_max_position_embeddings");
    table.get("original_max_position_embeddings");
    let trained = config.size("max_position_embeddings")?;
    let original = || -> Result<f64> {
        let here = table.positive("original_max_position_embeddings")?;
        let here = here.or(config.positive("original_max_position_embeddings")?);
        here.or(trained.map(|n| n as f64)).ok_or_else(|| table.missing("original_max_position_embeddings"))
    };
    let mut rope =
        Rope { theta, dims: Some(turning).filter(|n| *n < head_dim), scaling: None, most: None, note: None };
    match kind {
        None | Some("default") => {}
        Some("linear") => {
            rope.scaling = Some(RopeScaling::Linear { factor: table.needs_positive("factor")? })
        }
        Some("llama3") => {
            rope.scaling = Some(RopeScaling::Llama3 {
                factor: table.needs_positive("factor")?,
                low: table.needs_positive("low_freq_factor")?,
                high: table.needs_positive("high_freq_factor")?,
                original: original()?,
            });
        }
        Some("yarn") if !family.long_yarn => {
            let factor = table.needs_positive("factor")?;
            let (fast, slow) =
                (table.positive("beta_fast")?.unwrap_or(32.0), table.positive("beta_slow")?.unwrap_or(1.0));
            let (original, magnitude) = (original()?, magnitude(&table, factor)?);
            let yarn = RopeScaling::Yarn { factor, fast, slow, original, magnitude };
            rope.scaling = Some(match table.flag("truncate")? {
                Some(false) => untruncated(&table, theta, turning, yarn)?,
                _ => yarn,
            });
        }
        // Frequencies follow the length of a sequence once it is longer than those of training: up to there none do.
        Some("dynamic") => {
            table.get("factor");
            let most = original()? as u64;
            rope.most = Some(most);
            if trained.is_some_and(|trained| most < trained) {
                rope.note = Some(format!(
                    "RoPE is scaled by the length of a sequence beyond {most} tokens, which is not imported: that is \
                     the context"
                ));
            }
        }
        Some("longrope" | "su" | "yarn") => {
            by_lists(&mut rope, &table, turning, (trained, original()?), context)?
        }
        Some(other) => {
            let why = "no such scaling of RoPE is known here";
            return Err(table.refused("rope_type", &Value::from(other), why));
        }
    }
    table.all_asked()?;
    Ok(rope)
}

/// Layers without it.
pub fn layers_without(config: &Config, family: Family) -> Result<Vec<u64>> {
    const KEY: &str = "no_rope_layers";
    let Some(every) = family.no_rope_every else { return Ok(Vec::new()) };
    let every = config.size("no_rope_layer_interval")?.unwrap_or(every);
    let layers = config.layers()?;
    let Some(list) = config.flags(KEY, layers)? else {
        return Ok((0..layers).filter(|layer| (layer + 1) % every == 0).collect());
    };
    // A 1 for each layer that has it.
    Ok((0..).zip(list).filter(|(_, turns)| !turns).map(|(layer, _)| layer).collect())
}

/// Elements of a head that turn.
fn turning(config: &Config, table: &Config, family: Family, head_dim: u64) -> Result<u64> {
    const KEY: &str = "partial_rotary_factor";
    let Some(usual) = family.partial else {
        let whole = [Value::from(1), Value::from(1.0)];
        for config in [config, table] {
            config.must_be(KEY, &whole, "a part of a head turns, in a class whose heads turn as a whole");
        }
        return Ok(head_dim);
    };
    let (inner, outer) = (table.positive(KEY)?, config.positive(KEY)?);
    let part = inner.or(outer).unwrap_or(usual);
    let turning = config.size(TURNING)?.unwrap_or((head_dim as f64 * part) as u64);
    if turning % 2 != 0 || !(2..=head_dim).contains(&turning) {
        let of = if inner.is_some() { table } else { config };
        let why = format!("{turning} elements of {head_dim} cannot turn in pairs");
        return Err(of.refused(KEY, &Value::from(part), &why));
    }
    Ok(turning)
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

/// YaRN whose ramp ends between pairs, as what it divides each pair's frequency by.
fn untruncated(table: &Config, theta: f64, dims: u64, yarn: RopeScaling) -> Result<RopeScaling> {
    let RopeScaling::Yarn { factor, fast, slow, original, magnitude } = yarn else { return Ok(yarn) };
    let refused = |why: &str| Err(table.refused("truncate", &Value::Bool(false), why));
    let spec = RopeSpec { theta, dims, scaling: Some(yarn) };
    if !spec.is_possible(dims) {
        return refused("its ramp has no ends");
    }
    let pair =
        |turns: f64| dims as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let (first, last) = (pair(fast).max(0.0), pair(slow).min(dims as f64 - 1.0));
    let width = if first == last { 0.001 } else { last - first };
    let factors = (0..dims / 2).map(|i| {
        let slowed = ((i as f64 - first) / width).clamp(0.0, 1.0);
        (1.0 / (1.0 - slowed + slowed / factor)) as f32
    });
    match RopeFactors::new(&factors.take(MOST_PAIRS + 1).collect::<Vec<f32>>()) {
        Some(factors) => Ok(RopeScaling::Factors { factors, magnitude }),
        None => refused(&format!("{} pairs of a head turn, of which {MOST_PAIRS} can be listed", dims / 2)),
    }
}

/// LongRoPE (2402.13753): one list for sequences as long as those of training, and one for longer ones.
///
/// transformers takes the one or the other by the length that a sequence has come to, with keys of both in its cache. Here a
/// model has one: `short_factor` in a context of `original` tokens, which is the model to the end; where a longer one is asked
/// for `long_factor`, as llama.cpp does.
fn by_lists(
    rope: &mut Rope,
    table: &Config,
    turning: u64,
    (trained, original): (Option<u64>, f64),
    context: Option<u64>,
) -> Result<()> {
    let short = table.needs_positives("short_factor")?;
    let long = table.needs_positives("long_factor")?;
    let ratio = trained.map_or(1.0, |trained| trained as f64 / original);
    let factor = table.positive("factor")?.unwrap_or(ratio);
    let magnitude = match table.positive("attention_factor")? {
        Some(said) => said,
        None if factor <= 1.0 => 1.0,
        None if original > 1.0 => (1.0 + factor.ln() / original.ln()).sqrt(),
        None => return Err(table.missing("attention_factor")),
    };
    let most = original as u64;
    let is_longer = context.is_some_and(|context| context > most);
    let (key, list) = if is_longer { ("long_factor", &long) } else { ("short_factor", &short) };
    let Some(factors) = RopeFactors::new(list) else {
        let why = format!("it has {} numbers, of which {MOST_PAIRS} can be listed", list.len());
        return Err(table.refused(key, &Value::from(list.len()), &why));
    };
    if 2 * list.len() as u64 != turning {
        let why = format!("it must have {} numbers", turning / 2);
        return Err(table.refused(key, &Value::from(list.len()), &why));
    }
    rope.scaling = Some(RopeScaling::Factors { factors, magnitude });
    if short == long || trained.is_some_and(|trained| trained <= most) {
        return Ok(());
    }
    rope.note = Some(match is_longer {
        true => format!(
            "RoPE has the checkpoint's `long_factor` at every length, which transformers takes beyond {most} tokens: a \
             context of {most} has `short_factor`"
        ),
        false => format!(
            "RoPE has the checkpoint's `short_factor`, for a context of {most} tokens: a longer one (`--context N`) has \
             `long_factor`"
        ),
    });
    rope.most = Some(most).filter(|_| !is_longer);
    Ok(())
}
