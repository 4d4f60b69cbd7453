//! What was measured of kernels' variants on cards: written by `hyc tune`, read where a model is compiled.

use hyc_plan::artefact::hex;
use hyc_plan::{CachePolicy, CacheSpec, KernelSpec, OperandSpec, Timing, Variant};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The format that this build writes and reads.
const VERSION: u32 = 1;
/// Most entries of a table, and times of an entry.
const MAX_ENTRIES: usize = 1 << 16;
const MAX_TIMES: usize = 64;
/// No number of tokens is above this.
const MAX_COUNT: u64 = i32::MAX as u64;
/// Chunk and context of a standard spec.
const STANDARD_ROWS: u64 = 2048;
const STANDARD_CONTEXT: u64 = 32768;

/// A table of measurements, of any number of models and cards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// One for each variant of a kernel that was measured.
    pub entries: Vec<Entry>,
}

/// What was measured of one variant of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The card, as its driver names it.
    pub card: String,
    /// The kernel's name, for people: two models may have one kernel under two names.
    pub kernel: String,
    /// Which kernel it is: [`key`] of its spec.
    pub spec: String,
    /// The variant's name.
    pub variant: String,
    /// [`Variant::code`]: of other code it says nothing.
    pub code: String,
    /// Tokens that each sequence had.
    pub context: u64,
    /// The times, by ascending rows.
    pub times: Vec<Timing>,
}

impl Entry {
    /// Whether another was measured of the same code of the same kernel's variant on the same card.
    fn is_of(&self, other: &Entry) -> bool {
        self.spec == other.spec
            && self.card == other.card
            && self.variant == other.variant
            && self.code == other.code
    }
}

/// What a table has of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'t> {
    /// Measurements of its very code.
    Fresh(&'t Entry),
    /// Measurements of other code alone.
    Stale,
    /// None.
    Nothing,
}

/// The spec of the same kernel in a model of a usual chunk and context. These move where scratch lies and how much of it
/// there is, and not how long a step of so many rows takes: what was measured at one chunk holds at another.
pub fn standard(spec: &KernelSpec) -> KernelSpec {
    let operand = |operand: &OperandSpec| match *operand {
        OperandSpec::Cache(cache) => OperandSpec::Cache(CacheSpec {
            policy: match cache.policy {
                CachePolicy::Growing => CachePolicy::Growing,
                CachePolicy::Ring { window, .. } => CachePolicy::ring(window, STANDARD_ROWS, cache.page),
            },
            ..cache
        }),
        OperandSpec::Tensor { .. } | OperandSpec::Weight(_) => *operand,
    };
    KernelSpec {
        operands: spec.operands.iter().map(operand).collect(),
        max_rows: STANDARD_ROWS,
        max_context: STANDARD_CONTEXT,
        ..spec.clone()
    }
}

/// The SHA-256 of plain data's JSON, in hexadecimal digits: what tables go by.
pub fn hex_digest(value: &impl Serialize) -> String {
    let mut sha = Sha256::new();
    // Neither a hash nor plain data without maps has a way to fail.
    serde_json::to_writer(&mut sha, value).expect("plain data is JSON");
    hex(&sha.finalize())
}

/// What identifies a kernel in a table: the digest of its [`standard`] spec.
pub fn key(spec: &KernelSpec) -> String {
    hex_digest(&("hyc spec", standard(spec)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "version")]
    _version: u32,
    entries: Vec<Entry>,
}

impl Table {
    /// Reads a table's JSON. Errors: what is wrong with it.
    pub fn parse(text: &str) -> Result<Table, String> {
        let head: Head =
            serde_json::from_str(text).map_err(|e| format!("not a table of measurements: {e}"))?;
        if head.version != VERSION {
            return Err(format!(
                "version {}, this build reads {VERSION}: run `hyc tune` again",
                head.version
            ));
        }
        let File { entries, .. } = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if entries.len() > MAX_ENTRIES {
            return Err(format!("{} entries: there may be {MAX_ENTRIES}", entries.len()));
        }
        for entry in &entries {
            let ascends = entry.times.windows(2).all(|pair| pair[0].rows < pair[1].rows);
            let sound = entry.times.iter().all(|time| time.rows > 0 && time.ns > 0);
            let Entry { kernel, variant, context, times, .. } = entry;
            if times.len() > MAX_TIMES {
                return Err(format!(
                    "{} times of `{variant}` of {kernel}: there may be {MAX_TIMES}",
                    times.len()
                ));
            }
            if *context > MAX_COUNT || times.iter().any(|time| time.rows > MAX_COUNT) {
                return Err(format!("`{variant}` of {kernel} has a context or rows beyond {MAX_COUNT}"));
            }
            if !ascends || !sound {
                return Err(format!(
                    "the times of `{variant}` of {kernel} are not by ascending rows, each above 0"
                ));
            }
        }
        Ok(Table { entries })
    }

    /// Its JSON: a line for each entry.
    pub fn to_json(&self) -> String {
        let line = |entry: &Entry| serde_json::to_string(entry).map(|line| format!("    {line}"));
        // Plain data without maps has no way to fail.
        let lines: Vec<String> = self.entries.iter().filter_map(|entry| line(entry).ok()).collect();
        format!("{{\n  \"version\": {VERSION},\n  \"entries\": [\n{}\n  ]\n}}\n", lines.join(",\n"))
    }

    /// Adds what was measured. Of code that it has already, on the same card and at the same context, it takes the rows that
    /// it does not have; at another context, nothing.
    pub fn add(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            match self.entries.iter_mut().find(|known| known.is_of(&entry)) {
                None => self.entries.push(entry),
                Some(known) if known.context == entry.context => {
                    let has = |rows| known.times.iter().any(|time| time.rows == rows);
                    let more: Vec<Timing> = entry.times.into_iter().filter(|time| !has(time.rows)).collect();
                    known.times.extend(more);
                    known.times.sort_by_key(|time| time.rows);
                }
                Some(_) => {}
            }
        }
    }

    /// With what another has, too, as [`add`](Self::add) says.
    pub fn and(mut self, other: Table) -> Table {
        self.add(other.entries);
        self
    }

    /// Whether it has anything of a spec on a card.
    pub fn has(&self, card: &str, spec: &str) -> bool {
        self.entries.iter().any(|entry| entry.card == card && entry.spec == spec)
    }

    /// What it has of a variant whose code is `code`.
    pub fn find(&self, card: &str, spec: &str, variant: &str, code: &str) -> Found<'_> {
        let of_it = |entry: &&Entry| entry.card == card && entry.spec == spec && entry.variant == variant;
        match self.entries.iter().filter(of_it).find(|entry| entry.code == code) {
            Some(entry) => Found::Fresh(entry),
            None if self.entries.iter().any(|entry| of_it(&entry)) => Found::Stale,
            None => Found::Nothing,
        }
    }

    /// Puts what it has of these variants of a kernel into them, all of one context: the longest that it has; `code` is the digest of a variant's code, where that can be
    /// told.
    pub fn fill(
        &self,
        card: &str,
        spec: &KernelSpec,
        variants: &mut [Variant],
        code: &dyn Fn(&str) -> Option<String>,
    ) {
        let key = key(spec);
        if variants.len() < 2 || !self.has(card, &key) {
            return;
        }
        for variant in variants.iter_mut() {
            let Some(code) = code(&variant.name) else { continue };
            match self.find(card, &key, &variant.name, &code) {
                Found::Fresh(entry) => {
                    (variant.context, variant.measured) = (entry.context, entry.times.clone());
                    variant.code = code;
                }
                Found::Stale => variant.stale = true,
                Found::Nothing => {}
            }
        }
        let longest = variants.iter().map(|variant| variant.context).max().unwrap_or(0);
        for variant in variants.iter_mut().filter(|variant| variant.context < longest) {
            (variant.context, variant.measured) = (0, vec![]);
        }
    }
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyc_plan::{Elem, KvCodec, KvOrder, Rows, StepOp, ops};

    fn spec() -> KernelSpec {
        let tensor = OperandSpec::Tensor { elem: Elem::F32, width: 8, stride: 16 };
        let op = StepOp::Add(ops::Add { width: 8 });
        KernelSpec { op, operands: vec![tensor; 3], rows: Rows::Tokens, max_rows: 64, max_context: 64 }
    }

    fn entry(card: &str, variant: &str, code: &str, ns: u64) -> Entry {
        let times = vec![Timing { rows: 1, ns }, Timing { rows: 64, ns: 2 * ns }];
        let (kernel, spec) = ("add".to_string(), key(&spec()));
        let (card, variant, code) = (card.into(), variant.into(), code.into());
        Entry { card, kernel, spec, variant, code, context: 32, times }
    }

    fn table() -> Table {
        Table {
            entries: vec![
                entry("A", "few", "11", 5),
                entry("A", "many", "22", 7),
                entry("B", "few", "11", 9),
            ],
        }
    }

    fn filled(card: &str, code: &dyn Fn(&str) -> Option<String>) -> Vec<Variant> {
        let mut variants = ["few", "many"].map(|name| Variant::only(name, &spec(), 1)).to_vec();
        table().fill(card, &spec(), &mut variants, code);
        variants
    }

    #[test]
    fn it_reads_what_it_writes() {
        assert_eq!(Table::parse(&table().to_json()), Ok(table()));
        assert_eq!(Table::parse(&Table::default().to_json()), Ok(Table::default()));
    }

    #[test]
    fn a_kernel_is_the_same_at_any_chunk() {
        let cache = |chunk: u64, window| {
            let policy = CachePolicy::ring(window, chunk, 64);
            let cache = CacheSpec {
                kv_heads: 1,
                qk_dim: 8,
                v_dim: 8,
                codec: KvCodec::F32,
                page: 64,
                policy,
                order: KvOrder::Columns,
            };
            KernelSpec {
                operands: vec![OperandSpec::Cache(cache)],
                max_rows: chunk,
                max_context: 9 * chunk,
                ..spec()
            }
        };
        assert_eq!(key(&cache(64, 128)), key(&cache(512, 128)));
        assert_ne!(key(&cache(64, 128)), key(&cache(64, 256)));
        let wide = KernelSpec { op: StepOp::Add(ops::Add { width: 16 }), ..spec() };
        assert_ne!(key(&spec()), key(&wide));
    }

    #[test]
    fn bad_tables_are_refused() {
        let refused = |from: &str, to: &str, why: &str| {
            let text = table().to_json();
            assert!(text.contains(from), "{from}");
            let error = Table::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        };
        refused("\"version\": 1", "\"version\": 2", "version 2, this build reads 1");
        refused("\"version\": 1,", "", "missing field `version`");
        refused("\"card\"", "\"machine\"", "unknown field `machine`");
        refused("\"rows\":64", "\"rows\":1", "not by ascending rows");
        refused("\"ns\":5", "\"ns\":0", "each above 0");
        refused("\"ns\":5", "\"ns\":-5", "invalid value");
        refused("{", "[", "not a table");
        refused("\"context\":32", "\"context\":18446744073709551615", "beyond 2147483647");
        let mut long = table();
        long.entries[0].times = (1..=65).map(|rows| Timing { rows, ns: 1 }).collect();
        let error = Table::parse(&long.to_json()).unwrap_err();
        assert_eq!(error, "65 times of `few` of add: there may be 64");
    }

    #[test]
    fn rows_are_added_where_the_context_is_the_same() {
        let mut sum = table();
        let other = Entry {
            times: vec![Timing { rows: 8, ns: 3 }, Timing { rows: 64, ns: 99 }],
            ..entry("A", "few", "11", 5)
        };
        sum.add(vec![Entry { context: 64, ..other.clone() }]);
        assert_eq!(sum, table());
        sum.add(vec![other]);
        let times: Vec<(u64, u64)> = sum.entries[0].times.iter().map(|time| (time.rows, time.ns)).collect();
        assert_eq!((sum.entries.len(), times), (3, vec![(1, 5), (8, 3), (64, 10)]));
        // Variants that were measured at different contexts are not compared.
        sum.entries[1].context = 64;
        let mut variants = ["few", "many"].map(|name| Variant::only(name, &spec(), 1)).to_vec();
        let code = |name: &str| Some(if name == "few" { "11" } else { "22" }.to_string());
        sum.fill("A", &spec(), &mut variants, &code);
        assert_eq!([variants[0].ns(1), variants[1].ns(1)], [None, Some(7)]);
    }

    #[test]
    fn only_what_was_measured_of_this_code_on_this_card_counts() {
        let code = |name: &str| Some(if name == "few" { "11" } else { "22" }.to_string());
        let times = |variants: &[Variant]| variants.iter().map(|v| (v.ns(1), v.stale)).collect::<Vec<_>>();
        assert_eq!(times(&filled("A", &code)), [(Some(5), false), (Some(7), false)]);
        assert_eq!(times(&filled("B", &code)), [(Some(9), false), (None, false)]);
        assert_eq!(times(&filled("C", &code)), [(None, false), (None, false)]);
        let changed = |name: &str| Some(if name == "few" { "11" } else { "33" }.to_string());
        assert_eq!(times(&filled("A", &changed)), [(Some(5), false), (None, true)]);
        assert_eq!(times(&filled("A", &|_| None)), [(None, false), (None, false)]);
    }
}
