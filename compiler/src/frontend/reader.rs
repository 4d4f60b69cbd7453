//! A typed reader over a spanned TOML table that notes every fault and goes on.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::keys::{MAX_SIZE, SectionKeys};
use super::names;

/// Faults that are kept; of a file with more the first ones found are shown, and the others counted.
const MOST_KEPT: usize = 1000;

/// The faults found so far.
#[derive(Default)]
pub struct Faults {
    list: RefCell<Vec<Diagnostic>>,
    more: Cell<usize>,
}

impl Faults {
    /// Whether so many faults are known that the next one would only be counted; then it is.
    pub fn full(&self) -> bool {
        let full = self.list.borrow().len() >= MOST_KEPT;
        self.more.set(self.more.get() + usize::from(full));
        full
    }

    /// Whether none is known.
    pub fn none(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// Notes a fault.
    pub fn add(&self, span: Range<usize>, message: impl Into<String>, label: impl Into<String>, help: &str) {
        if self.full() {
            return;
        }
        self.list.borrow_mut().push(Diagnostic {
            message: message.into(),
            span,
            label: label.into(),
            help: (!help.is_empty()).then(|| help.to_string()),
        });
    }

    /// The faults by place, and how many were not kept.
    pub fn finish(self) -> (Vec<Diagnostic>, usize) {
        let mut list = self.list.into_inner();
        list.sort_by_key(|d| d.span.start);
        (list, self.more.get())
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its bytes in the text.
    pub span: Range<usize>,
}

/// One table being read.
pub struct Section<'a, 'i> {
    name: &'static str,
    table: Option<&'a DeTable<'i>>,
    span: Range<usize>,
    faults: &'a Faults,
}

impl<'a, 'i> Section<'a, 'i> {
    /// The table `table`, all of whose keys must be among `keys`.
    pub fn new(
        keys: &'static SectionKeys,
        table: Option<&'a Spanned<DeValue<'i>>>,
        faults: &'a Faults,
    ) -> Section<'a, 'i> {
        let (name, span) = (keys.name, table.map_or(0..0, |t| t.span()));
        let inner = table.and_then(|t| t.get_ref().as_table());
        if table.is_some() && inner.is_none() {
            faults.add(
                span.clone(),
                format!("`{name}` must be a table"),
                "not a table",
                &format!("write `[{name}]`"),
            );
        }
        let section = Section { name, table: inner, span, faults };
        section.check_keys(keys);
        section
    }

    fn check_keys(&self, keys: &SectionKeys) {
        for (key, _) in self.table.into_iter().flatten() {
            let word: &str = key.get_ref();
            if keys.key(word).is_none() && !self.faults.full() {
                let message = format!("unknown key `{word}` in [{}]", self.name);
                self.faults.add(key.span(), message, "unknown key", &names::help(word, Some(keys)));
            }
        }
    }

    /// Whether the section is there.
    pub fn present(&self) -> bool {
        self.table.is_some()
    }

    /// Where the section stands, for faults of what is missing.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The raw value of a key.
    pub fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.table.and_then(|t| t.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v))
    }

    /// The lines of a key that is a table, in the order in which they are written; none where it is something else.
    pub fn table(&self, key: &str) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
        let table = self.get(key).and_then(|value| value.get_ref().as_table());
        let mut lines: Vec<_> = table.into_iter().flatten().collect();
        lines.sort_by_key(|(name, _)| name.span().start);
        lines
    }

    /// The fault of a value that is not what its key wants.
    pub fn wrong(&self, key: &str, value: &Spanned<DeValue<'i>>, want: &str, example: &str) {
        let found = value.get_ref().type_str();
        self.faults.add(
            value.span(),
            format!("`{key}` must be {want}"),
            format!("this is {} {found}", if found.starts_with(['a', 'i']) { "an" } else { "a" }),
            &format!("write `{key} = {example}`"),
        );
    }

    /// A required key's fault.
    pub fn missing(&self, key: &str, example: &str) {
        // What stands there under another name has its fault already.
        if self.table.into_iter().flatten().any(|(word, _)| names::means(word.get_ref(), self.name, key)) {
            return;
        }
        let at = self.span.start..self.span.start + 1;
        self.faults.add(
            at,
            format!("[{}] needs `{key}`", self.name),
            "this section",
            &format!("add `{key} = {example}`"),
        );
    }

    /// A size from 1 to [`MAX_SIZE`]; `None` where absent or faulty.
    pub fn size(&self, key: &str, example: &str) -> Option<At<usize>> {
        self.integer(key, 1, example)
    }

    /// An integer from `least` to [`MAX_SIZE`].
    pub fn integer(&self, key: &str, least: i64, example: &str) -> Option<At<usize>> {
        let value = self.get(key)?;
        let Some(raw) = value.get_ref().as_integer() else {
            self.wrong(key, value, "an integer", example);
            return None;
        };
        match i64::from_str_radix(raw.as_str(), raw.radix()) {
            Ok(n) if (least..=MAX_SIZE).contains(&n) => Some(At { value: n as usize, span: value.span() }),
            _ => {
                self.faults.add(
                    value.span(),
                    format!("`{key}` must be between {least} and {MAX_SIZE}"),
                    "out of range",
                    &format!("write for example `{key} = {example}`"),
                );
                None
            }
        }
    }

    /// A required size.
    pub fn need_size(&self, key: &str, example: &str) -> Option<At<usize>> {
        if self.get(key).is_none() {
            self.missing(key, example);
        }
        self.size(key, example)
    }

    /// A number that is finite and above zero as the f32 that kernels compute with, too.
    pub fn positive(&self, key: &str, example: &str) -> Option<At<f64>> {
        self.number(key, "a number above 0 and finite as an f32", &hyc_plan::is_positive_f32, example)
    }

    /// A list, not empty, of numbers that are finite and above zero as f32.
    pub fn positives(&self, key: &str, example: &str) -> Option<At<Vec<f32>>> {
        let value = self.get(key)?;
        let good = |x: &f64| hyc_plan::is_positive_f32(*x);
        let number = |item: &Spanned<DeValue<'i>>| as_number(item.get_ref()).filter(good).map(|x| x as f32);
        let list: Option<Vec<f32>> =
            value.get_ref().as_array().and_then(|items| items.iter().map(number).collect());
        let list = list.filter(|list| !list.is_empty());
        if list.is_none() {
            self.wrong(key, value, "a list of numbers above 0 and finite as f32", example);
        }
        list.map(|value_of| At { value: value_of, span: value.span() })
    }

    /// A number that is `good`; `wanted` says which are.
    pub fn number(
        &self,
        key: &str,
        wanted: &str,
        good: &dyn Fn(f64) -> bool,
        example: &str,
    ) -> Option<At<f64>> {
        let value = self.get(key)?;
        if !matches!(value.get_ref(), DeValue::Float(_) | DeValue::Integer(_)) {
            self.wrong(key, value, "a number", example);
            return None;
        }
        match as_number(value.get_ref()) {
            Some(x) if good(x) => Some(At { value: x, span: value.span() }),
            _ => {
                self.out_of_range(key, value, wanted, example);
                None
            }
        }
    }

    fn out_of_range(&self, key: &str, value: &Spanned<DeValue<'i>>, wanted: &str, example: &str) {
        self.faults.add(
            value.span(),
            format!("`{key}` must be {wanted}"),
            "out of range",
            &format!("write for example `{key} = {example}`"),
        );
    }

    /// An integer from 0 to the largest that TOML has.
    pub fn seed(&self, key: &str, example: &str) -> Option<u64> {
        let value = self.get(key)?;
        let Some(raw) = value.get_ref().as_integer() else {
            self.wrong(key, value, "an integer", example);
            return None;
        };
        let seed = i64::from_str_radix(raw.as_str(), raw.radix()).ok().and_then(|n| u64::try_from(n).ok());
        if seed.is_none() {
            self.out_of_range(key, value, &format!("an integer from 0 to {}", i64::MAX), example);
        }
        seed
    }

    /// A flag with its default.
    pub fn flag(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.get(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong(key, value, "true or false", if default { "false" } else { "true" });
            default
        })
    }

    /// A string.
    pub fn string(&self, key: &str, example: &str) -> Option<At<String>> {
        let value = self.get(key)?;
        match value.get_ref().as_str() {
            Some(s) => Some(At { value: s.to_string(), span: value.span() }),
            None => {
                self.wrong(key, value, "a string", &format!("\"{example}\""));
                None
            }
        }
    }

    /// One of a few words; the default where absent or faulty.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], default: T) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let Some(given) = self.string(key, names[0]) else { return default };
        match words.iter().find(|(name, _)| *name == given.value) {
            Some((_, value)) => *value,
            None => {
                let list: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                self.faults.add(
                    given.span,
                    format!("`{key}` cannot be \"{}\"", given.value),
                    "unknown value",
                    &format!("write one of {}", list.join(", ")),
                );
                default
            }
        }
    }

    /// A fault where a key is given that means nothing here.
    pub fn refuse(&self, key: &str, why: &str) {
        if let Some(value) = self.get(key) {
            self.faults.add(
                value.span(),
                format!("`{key}` has no meaning here: {why}"),
                "would be ignored",
                &format!("remove `{key}`"),
            );
        }
    }
}

/// A number of either kind.
pub fn as_number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(f) => f.as_str().replace('_', "").parse().ok(),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix()).ok().map(|n| n as f64),
        _ => None,
    }
}
