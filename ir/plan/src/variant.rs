//! The ways in which one kernel can compute its steps, and the choice among them by the number of rows.
//!
//! A back end answers a [`KernelSpec`] with its variants; [`choose`] gives each number of rows one of them: the one that
//! was measured fastest on the card, and where nothing was measured the one that the back end's author has found usual.

use serde::{Deserialize, Serialize};

use crate::spec::KernelSpec;
use crate::target::NvidiaArch;
use crate::work::work;

/// By how much another variant must have been faster than the usual one to take its place: less is noise.
const MARGIN_PERCENT: u64 = 3;

/// Numbers of rows of a step: of its tokens, or of its wanted logits where the kernel's rows are those.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowRange {
    /// The fewest.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl RowRange {
    /// `least` to `most`.
    pub const fn new(least: u64, most: u64) -> RowRange {
        RowRange { least, most }
    }

    /// Whether it has this number of rows.
    pub const fn contains(&self, rows: u64) -> bool {
        self.least <= rows && rows <= self.most
    }

    /// Whether it has all of `other`.
    pub const fn covers(&self, other: RowRange) -> bool {
        self.least <= other.least && other.most <= self.most
    }

    /// The rows that both have; `None`: none.
    pub fn overlap(self, other: RowRange) -> Option<RowRange> {
        let both = RowRange { least: self.least.max(other.least), most: self.most.min(other.most) };
        (both.least <= both.most).then_some(both)
    }

    /// What it has of `1..=most`; `None` where that is nothing.
    pub fn up_to(self, most: u64) -> Option<RowRange> {
        self.overlap(RowRange::new(1, most))
    }
}

impl std::fmt::Display for RowRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.least == self.most { self.least.fmt(f) } else { write!(f, "{}..{}", self.least, self.most) }
    }
}

/// A time that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Rows of the step.
    pub rows: u64,
    /// Nanoseconds that the kernel took, all of its launches.
    pub ns: u64,
}

/// One way to compute a kernel's steps: an answer of a back end to a [`KernelSpec`], whose layouts and orders it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name, unique in the kernel: `m8`, `wgmma`, `split_kv`.
    pub name: String,
    /// Steps that it can compute.
    pub rows: RowRange,
    /// Steps that it is taken for where nothing was measured; `None`: for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual: Option<RowRange>,
    /// Rows that share one reading of the weights, or of the keys and values of a context; more rows read them again.
    pub pass_rows: u64,
    /// Functions that are launched for a step.
    pub launches: u32,
    /// Whether tensor cores multiply.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tensor_cores: bool,
    /// SHA-256 of its code before optimisation, in hexadecimal digits; empty in a plan without code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// Whether something was measured of other code under this name, which says nothing of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Tokens that each sequence had when it was measured; 0 where it was not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub context: u64,
    /// What was measured of this very code on the card that the plan is made for, by ascending rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Timing>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Variant {
    /// One that takes steps of all sizes, as the only one of its kernel.
    pub fn only(name: &str, spec: &KernelSpec, pass_rows: u64) -> Variant {
        let rows = RowRange::new(1, spec.max_rows);
        Variant {
            name: name.to_string(),
            rows,
            usual: Some(rows),
            pass_rows,
            launches: 1,
            tensor_cores: false,
            code: String::new(),
            stale: false,
            context: 0,
            measured: vec![],
        }
    }

    /// What was measured for a step of so many rows, in nanoseconds.
    pub fn ns(&self, rows: u64) -> Option<u64> {
        self.measured.iter().find(|timing| timing.rows == rows).map(|timing| timing.ns)
    }

    /// The least time that a step of `rows` rows at `context` tokens can take on the usual card of `arch`, in
    /// nanoseconds: its launches, and the longer of its bytes over the card's bandwidth and its operations over its rate.
    pub fn predicted_ns(&self, spec: &KernelSpec, arch: NvidiaArch, rows: u64, context: u64) -> u64 {
        let work = work(spec, rows, context, self.pass_rows);
        let fp8 = spec.op.fp8_rows().is_some_and(|least| rows >= least);
        let rate = match self.tensor_cores {
            true if fp8 => arch.fp8_flop_per_s(),
            true => arch.tensor_flop_per_s(),
            false => arch.flop_per_s(),
        };
        let seconds = (work.bytes / arch.bytes_per_s()).max(work.flop / rate);
        (arch.launch_ns() * u64::from(self.launches)).saturating_add((seconds * 1e9) as u64)
    }
}

/// What computes steps of these rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chosen {
    /// Name of one of the kernel's variants.
    pub variant: String,
    /// The steps.
    pub rows: RowRange,
}

/// The variant for each number of rows from 1 to `most`, in ranges by ascending rows. Errors: a number of rows that no variant
/// is usual for, or can compute.
pub fn choose(variants: &[Variant], most: u64) -> Result<Vec<Chosen>, String> {
    let mut chosen: Vec<Chosen> = Vec::new();
    for segment in segments(variants, most) {
        let best = best(variants, segment)
            .ok_or_else(|| format!("none of its variants is for steps of {segment} rows"))?;
        match chosen.last_mut().filter(|last| last.variant == best.name) {
            Some(last) => last.rows.most = segment.most,
            None => chosen.push(Chosen { variant: best.name.clone(), rows: segment }),
        }
    }
    Ok(chosen)
}

/// `1..=most` in pieces within which nothing changes that a choice goes by.
fn segments(variants: &[Variant], most: u64) -> Vec<RowRange> {
    let ends = |range: RowRange| [range.least.saturating_sub(1), range.most];
    let mut ends: Vec<u64> = variants
        .iter()
        .flat_map(|v| v.usual.into_iter().chain([v.rows]).flat_map(ends))
        .chain(variants.iter().flat_map(|v| v.measured.iter().map(|timing| timing.rows)))
        .filter(|end| (1..most).contains(end))
        .chain([most])
        .collect();
    ends.sort_unstable();
    ends.dedup();
    let begins = std::iter::once(1).chain(ends.iter().map(|end| end + 1));
    begins.zip(&ends).map(|(least, most)| RowRange::new(least, *most)).collect()
}

/// The rows whose measurements speak for a segment: the fewest that are no fewer than its own. Beyond the last measurement
/// none do.
fn measured_at(variants: &[Variant], segment: RowRange) -> Option<u64> {
    let all = variants.iter().flat_map(|v| v.measured.iter().map(|timing| timing.rows));
    all.filter(|rows| *rows >= segment.most).min()
}

fn best(variants: &[Variant], segment: RowRange) -> Option<&Variant> {
    let usual =
        variants.iter().find(|v| v.rows.covers(segment) && v.usual.is_some_and(|u| u.covers(segment)))?;
    let Some(rows) = measured_at(variants, segment) else { return Some(usual) };
    let time = |v: &Variant| v.ns(rows);
    let able = variants.iter().filter(|v| v.rows.covers(segment) && time(v).is_some());
    let (Some(fastest), Some(own)) = (able.min_by_key(|v| time(v)), time(usual)) else { return Some(usual) };
    let faster = time(fastest)
        .is_some_and(|ns| u128::from(ns) * 100 < u128::from(own) * u128::from(100 - MARGIN_PERCENT));
    Some(if faster { fastest } else { usual })
}

/// Why a range of rows has its variant, in words.
pub fn why(variants: &[Variant], chosen: &Chosen) -> String {
    let Chosen { variant, rows } = chosen;
    let Some(own) = variants.iter().find(|v| v.name == *variant) else { return String::new() };
    if variants.iter().filter(|v| v.rows.overlap(*rows).is_some()).count() == 1 {
        return "the only one for these rows".to_string();
    }
    let measured = own.measured.iter().any(|timing| timing.rows >= rows.least);
    match own.usual.and_then(|usual| usual.overlap(*rows)) {
        Some(usual) if usual != *rows => {
            format!("usual for {usual}, and measured faster than the usual ones for the others")
        }
        Some(_) if measured => format!("usual, and none was measured faster by more than {MARGIN_PERCENT} %"),
        Some(_) => "usual for these rows; not measured".to_string(),
        None => "measured faster than the usual one".to_string(),
    }
}

#[cfg(test)]
mod tests;
