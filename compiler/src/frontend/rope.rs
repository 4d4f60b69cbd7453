//! `rope` of `[model]`, and what has its form.

use hyc_plan::{MOST_PAIRS, RopeFactors, RopeScaling};
use toml::Spanned;
use toml::de::DeValue;

use super::desc::Rope;
use super::keys::ROPE;
use super::reader::{Faults, Section};

/// Reads `key`, which must be there, of heads of `qk_dim` elements.
pub fn read(section: &Section, key: &str, qk_dim: Option<usize>, faults: &Faults) -> Option<Rope> {
    let Some(value) = section.get(key) else {
        section.missing(key, "{ theta = 640000.0 }");
        return None;
    };
    if !value.get_ref().is_table() {
        return not_a_rope(key, value, faults);
    }
    let rope = Section::new(&ROPE, Some(value), faults);
    if rope.present() && rope.get("theta").is_none() {
        rope.missing("theta", "640000.0");
    }
    let theta = rope.positive("theta", "640000.0")?.value;
    let dims = rope.size("dims", "64");
    let whole = qk_dim?;
    let (dims, span) = dims.map_or((whole, rope.span()), |at| (at.value, at.span));
    if dims % 2 != 0 || dims > whole {
        faults.add(
            span,
            format!("rope rotates pairs of the {whole} dims of a head, not {dims}"),
            "must be even and at most the head's dims",
            &format!("write `dims = {}`", whole - whole % 2),
        );
        return None;
    }
    let scaling = read_scaling(&rope, (theta, dims), faults)?;
    Some(Rope { theta, dims, scaling })
}

/// A number in the place of the table is its base.
fn not_a_rope(key: &str, value: &Spanned<DeValue<'_>>, faults: &Faults) -> Option<Rope> {
    let number = match value.get_ref() {
        DeValue::Integer(i) if i.radix() == 10 => Some(i.as_str()),
        DeValue::Float(f) => Some(f.as_str()),
        _ => None,
    };
    let good = |text: &&str| text.replace('_', "").parse::<f64>().is_ok_and(hyc_plan::is_positive_f32);
    let theta = number.filter(good).unwrap_or("640000.0");
    let help = format!("write `{key} = {{ theta = {theta} }}`");
    let message = format!("`{key}` must be a table with its base `theta`");
    faults.add(value.span(), message, "not a table", &help);
    None
}

/// The ways to change frequencies.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    None,
    Linear,
    Llama3,
    Yarn,
    Factors,
}

/// `None`: there is a fault.
fn read_scaling(rope: &Section, (theta, dims): (f64, usize), faults: &Faults) -> Option<Option<RopeScaling>> {
    const WAYS: &[(&str, Way)] = &[
        ("none", Way::None),
        ("linear", Way::Linear),
        ("llama3", Way::Llama3),
        ("yarn", Way::Yarn),
        ("factors", Way::Factors),
    ];
    let way = rope.word("scaling", WAYS, Way::None);
    let of: &[(&str, &[Way])] = &[
        ("factor", &[Way::Linear, Way::Llama3, Way::Yarn]),
        ("original_context", &[Way::Llama3, Way::Yarn]),
        ("low_freq_factor", &[Way::Llama3]),
        ("high_freq_factor", &[Way::Llama3]),
        ("beta_fast", &[Way::Yarn]),
        ("beta_slow", &[Way::Yarn]),
        ("attention_factor", &[Way::Yarn, Way::Factors]),
        ("factors", &[Way::Factors]),
    ];
    // What an unknown word would take is not said.
    let known = rope.get("scaling").is_none()
        || WAYS
            .iter()
            .any(|(word, _)| Some(*word) == rope.get("scaling").and_then(|value| value.get_ref().as_str()));
    for (key, _) in of.iter().filter(|(_, ways)| known && !ways.contains(&way)) {
        rope.refuse(key, "it is about another `scaling`");
    }
    let need = |key: &str, example: &str| {
        if rope.get(key).is_none() {
            rope.missing(key, example);
        }
        rope.positive(key, example).map(|at| at.value)
    };
    let or = |key: &str, default: f64| match rope.get(key) {
        None => Some(default),
        Some(_) => rope.positive(key, &format!("{default:?}")).map(|at| at.value),
    };
    let scaling = match way {
        Way::None => return Some(None),
        Way::Linear => RopeScaling::Linear { factor: need("factor", "4.0")? },
        Way::Llama3 => {
            let (factor, original) = (need("factor", "8.0"), need("original_context", "8192"));
            let (low, high) = (or("low_freq_factor", 1.0)?, or("high_freq_factor", 4.0)?);
            RopeScaling::Llama3 { factor: factor?, low, high, original: original? }
        }
        Way::Yarn => {
            let (factor, original) = (need("factor", "4.0"), need("original_context", "4096"));
            let (fast, slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
            let (factor, original) = (factor?, original?);
            let magnitude = or("attention_factor", 1.0 + 0.1 * factor.max(1.0).ln())?;
            RopeScaling::Yarn { factor, fast, slow, original, magnitude }
        }
        Way::Factors => {
            if rope.get("factors").is_none() {
                rope.missing("factors", "[1.0, 1.5]");
            }
            let (factors, magnitude) = (read_factors(rope, dims, faults), or("attention_factor", 1.0)?);
            RopeScaling::Factors { factors: factors?, magnitude }
        }
    };
    let counts = way != Way::Yarn || theta > 1.0;
    if !scaling.is_possible(dims as u64) || !counts {
        let fault = match way {
            Way::Llama3 => "`low_freq_factor` must be below `high_freq_factor`",
            _ if !counts => "\"yarn\" needs a `theta` above 1",
            _ => "`beta_slow` must be below `beta_fast`",
        };
        faults.add(rope.span(), fault, "no such scaling", "exchange them, or leave them out");
        return None;
    }
    Some(Some(scaling))
}

/// A number for each pair of `dims`.
fn read_factors(rope: &Section, dims: usize, faults: &Faults) -> Option<RopeFactors> {
    let list = rope.positives("factors", "[1.0, 1.5]")?;
    let pairs = dims / 2;
    if list.value.len() != pairs || pairs > MOST_PAIRS {
        let message = match pairs > MOST_PAIRS {
            true => format!("`factors` are at most {MOST_PAIRS}, and {dims} dims of a head turn"),
            false => format!("`factors` has {} numbers for {pairs} pairs that turn", list.value.len()),
        };
        let help = "give one for each pair: half as many as elements of a head turn";
        faults.add(list.span, message, "another number of them", help);
        return None;
    }
    RopeFactors::new(&list.value)
}
