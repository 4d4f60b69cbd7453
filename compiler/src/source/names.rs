//! `[weights] rename`, `stack`, `split` and `ignore`: from the names in the files to those of the model.
//!
//! All of them see names as they are in the files. A pattern that matches nothing is an error, as is everything that would
//! leave open which tensor is meant.

use std::collections::BTreeMap;

use super::pattern::{Part, Pattern};
use super::rename::Rename;
use super::split::Split;
use crate::error::{Error, Result};
use crate::words::{listed, shortened};

/// A pattern of names in the files whose tensors are the rows of one of the model's, in the order of an integer that its name
/// does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    rename: Rename,
    /// The integer's name.
    over: String,
}

/// What `[weights]` says of the files' tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    /// `rename`.
    pub rename: Vec<Rename>,
    /// `stack`.
    pub stack: Vec<Stack>,
    /// `split`.
    pub split: Vec<Split>,
    /// `ignore`.
    pub ignore: Vec<Pattern>,
    /// `interleaved`.
    pub interleaved: Vec<Pattern>,
    /// Rows of a head of those.
    pub head: u64,
    /// `scale`: tensors whose numbers are multiplied, and by what.
    pub scale: Vec<(Pattern, f64)>,
}

impl Stack {
    /// Reads both patterns. Errors: those of [`Rename::parse`]; `to` lacks none or several of the integers of `from`.
    pub fn parse(from: &str, to: &str) -> Result<Stack, String> {
        let rename = Rename::parse(from, to)?;
        let lacks = |part: &&Part| matches!(part, Part::Number(_)) && !rename.to.parts.contains(part);
        let over: Vec<&Part> = rename.from.wildcards().filter(lacks).collect();
        let [Part::Number(over)] = over[..] else {
            return Err(format!(
                "`{from}` has {} integers that `{to}` has not: it must be one, in whose order tensors are stacked",
                over.len()
            ));
        };
        let over = over.clone();
        Ok(Stack { rename, over })
    }

    /// The tensor that `name` is a part of, and which; `None` where the pattern does not match.
    fn apply(&self, name: &str) -> Option<(String, &'_ str, u64)> {
        let found = self.rename.from.matches(name)?;
        let to = self.rename.fill(&found);
        let is = |part: &Part| matches!(part, Part::Number(name) if *name == self.over);
        let number = self.rename.from.wildcards().zip(found).find(|(part, _)| is(part))?.1;
        Some((to, &self.rename.from.text, number.parse().ok()?))
    }
}

/// What the names in the files become.
#[derive(Debug, Default)]
pub struct Resolved {
    /// The model's name to the tensors of the files that are stacked under it, in order.
    pub stacked: BTreeMap<String, Vec<String>>,
    /// Name in the files to the model's tensors that it holds, and how many rows each of them has.
    pub split: BTreeMap<String, Vec<(String, u64)>>,
    /// Name in the files to the model's name.
    pub names: BTreeMap<String, String>,
    /// What an ignored tensor would have been called, to the pattern that ignores it.
    pub ignored: BTreeMap<String, String>,
}

impl Names {
    /// The names of `given`, the tensors in the files. Errors, all of them at once: a pattern that matches nothing;
    /// two patterns that rename one tensor differently; two tensors of one name.
    pub fn resolve<'n>(&self, given: impl Iterator<Item = &'n String>) -> Result<Resolved> {
        let mut faults = Vec::new();
        let mut used = (vec![false; self.rename.len()], vec![false; self.ignore.len()]);
        let mut resolved = Resolved::default();
        let mut taken: BTreeMap<String, String> = BTreeMap::new();
        let mut parts: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
        let mut stacks = vec![false; self.stack.len()];
        let mut splits = vec![false; self.split.len()];
        for name in given {
            let ignored = self.ignore.iter().zip(&mut used.1).filter(|(p, _)| p.matches(name).is_some());
            let mut ignored: Vec<_> = ignored.collect();
            ignored.iter_mut().for_each(|(_, used)| **used = true);
            let ignored = ignored.first().map(|(pattern, _)| pattern.text.clone());
            let stacked = self.stack.iter().zip(&mut stacks).filter_map(|(stack, used)| {
                let found = stack.apply(name)?;
                *used = true;
                Some((found, &stack.rename.from.text))
            });
            let stacked: Vec<_> = stacked.collect();
            if let [(_, one), (_, other), ..] = stacked[..] {
                faults.push(format!("`{}` matches both `{one}` and `{other}` of `stack`", shortened(name)));
            }
            if let Some(((to, pattern, number), _)) = stacked.into_iter().next() {
                if let Some(pattern) = ignored {
                    resolved.ignored.insert(to, pattern);
                    continue;
                }
                if let Some(other) = parts.entry(to).or_default().insert(number, name.clone()) {
                    let [other, name] = [&other, name].map(|name| shortened(name));
                    faults.push(format!(
                        "`stack`: `{other}` and `{name}` are both part {number} of `{pattern}`"
                    ));
                }
                continue;
            }
            let found = self.split.iter().zip(&mut splits).filter_map(|(split, used)| {
                let parts = split.apply(name)?;
                *used = true;
                Some((parts, split.from()))
            });
            let found: Vec<_> = found.collect();
            if let [(_, one), (_, other), ..] = found[..] {
                faults.push(format!("`{}` matches both `{one}` and `{other}` of `split`", shortened(name)));
            }
            if let Some((parts, _)) = found.into_iter().next() {
                if let Some(pattern) = ignored {
                    let parts = parts.into_iter().map(|(to, _)| (to, pattern.clone()));
                    resolved.ignored.extend(parts);
                    continue;
                }
                for (to, _) in &parts {
                    if let Some(other) = taken.insert(to.clone(), name.clone()) {
                        let [to, name, other] = [to, name, &other].map(|name| shortened(name));
                        faults.push(format!(
                            "two tensors are called `{to}`: a part of `{name}`, and `{other}`"
                        ));
                    }
                }
                resolved.split.insert(name.clone(), parts);
                continue;
            }
            let mut new: Option<(String, &Rename)> = None;
            for (rename, used) in self.rename.iter().zip(&mut used.0) {
                let Some(to) = rename.apply(name) else { continue };
                *used = true;
                match &new {
                    Some((other, by)) if *other != to => faults.push(format!(
                        "`{}` matches both `{}` and `{}` of `rename`",
                        shortened(name),
                        by.from.text,
                        rename.from.text
                    )),
                    _ => new = Some((to, rename)),
                }
            }
            let new = new.map_or_else(|| name.clone(), |(to, _)| to);
            if let Some(pattern) = ignored {
                resolved.ignored.insert(new, pattern);
                continue;
            }
            if let Some(other) = taken.insert(new.clone(), name.clone()) {
                let says = |old: &str| {
                    if old == new {
                        "has that name".to_string()
                    } else {
                        format!("`{}` becomes it", shortened(old))
                    }
                };
                faults.push(format!(
                    "two tensors are called `{}`: {} and {}",
                    shortened(&new),
                    says(&other),
                    says(name)
                ));
            }
            resolved.names.insert(name.clone(), new);
        }
        for (to, parts) in parts {
            let hole = (0..).zip(parts.keys()).find(|(at, number)| at != *number);
            if let Some((at, _)) = hole {
                faults.push(format!("`stack`: part {at} of `{}` is missing", shortened(&to)));
            }
            if let Some(other) = taken.insert(to.clone(), to.clone()) {
                faults.push(format!(
                    "two tensors are called `{}`: a stack and `{}`",
                    shortened(&to),
                    shortened(&other)
                ));
            }
            resolved.stacked.insert(to, parts.into_values().collect());
        }
        let unused =
            |list: &[bool]| list.iter().enumerate().filter(|(_, u)| !**u).map(|(i, _)| i).collect::<Vec<_>>();
        for i in unused(&used.0) {
            faults.push(format!("`rename`: no tensor is called `{}`", self.rename[i].from.text));
        }
        for i in unused(&stacks) {
            faults.push(format!("`stack`: no tensor is called `{}`", self.stack[i].rename.from.text));
        }
        for i in unused(&splits) {
            faults.push(format!("`split`: no tensor is called `{}`", self.split[i].from()));
        }
        for i in unused(&used.1) {
            faults.push(format!("`ignore`: no tensor is called `{}`", self.ignore[i].text));
        }
        if faults.is_empty() {
            return Ok(resolved);
        }
        let message = format!(
            "`rename`, `stack`, `split` and `ignore` do not fit the weight files:\n  {}",
            listed(&faults, "\n  ")
        );
        Err(Error::input(message)
            .help("patterns match names as they are in the files; `{i}` is an integer, `*` any text"))
    }
}

/// The name with every number in it as a placeholder: `{i}`, `{j}`, ...
pub fn generalised(name: &str) -> String {
    let mut out = String::new();
    let mut letters = 'i'..='z';
    for piece in name.split_inclusive('.') {
        let (word, dot) = piece.strip_suffix('.').map_or((piece, ""), |word| (word, "."));
        match (!word.is_empty() && word.chars().all(|c| c.is_ascii_digit())).then(|| letters.next()).flatten()
        {
            Some(letter) => out.push_str(&format!("{{{letter}}}{dot}")),
            None => out.push_str(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rename: &[(&str, &str)], ignore: &[&str]) -> Names {
        Names {
            rename: rename.iter().map(|(from, to)| Rename::parse(from, to).unwrap()).collect(),
            ignore: ignore.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
            ..Names::default()
        }
    }

    fn resolve(names: &Names, given: &[&str]) -> Result<Resolved, String> {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        names.resolve(given.iter()).map_err(|e| e.message)
    }

    #[test]
    fn wildcards_are_carried_over() {
        let both = names(
            &[("h.{i}.mlp.{j}.w", "model.{i}.experts.{j}.{i}"), ("tok.*", "model.*"), ("a*b*c", "c*b*a")],
            &["*.inv_freq", "h.{i}.bias"],
        );
        let given = ["h.3.mlp.12.w", "tok.embed.w", "axbyc", "h.3.rope.inv_freq", "h.10.bias", "plain"];
        let resolved = resolve(&both, &given).unwrap();
        let new: Vec<&str> = resolved.names.values().map(String::as_str).collect();
        assert_eq!(new, ["cxbya", "model.3.experts.12.3", "plain", "model.embed.w"]);
        assert_eq!(resolved.ignored.len(), 2);
        assert_eq!(generalised("model.layers.12.experts.3.w1"), "model.layers.{i}.experts.{j}.w1");
    }

    #[test]
    fn parts_are_stacked_in_the_order_of_their_numbers() {
        let stack = |from: &str, to: &str| Stack::parse(from, to);
        let names = Names { stack: vec![stack("l.{i}.e.{e}.w", "l.{i}.w").unwrap()], ..Names::default() };
        let given: Vec<String> = (0..12)
            .rev()
            .map(|e| format!("l.3.e.{e}.w"))
            .chain(["l.4.e.0.w", "x"].map(String::from))
            .collect();
        let resolved = names.resolve(given.iter()).unwrap();
        assert_eq!(resolved.stacked["l.3.w"], (0..12).map(|e| format!("l.3.e.{e}.w")).collect::<Vec<_>>());
        assert_eq!(resolved.stacked["l.4.w"], ["l.4.e.0.w"]);
        assert_eq!(resolved.names.len(), 1);
        let fault = |given: &[&str]| resolve(&names, given).unwrap_err();
        assert!(fault(&["l.0.e.0.w", "l.0.e.2.w"]).contains("part 1 of `l.0.w` is missing"));
        assert!(fault(&["l.0.e.0.w", "l.0.e.00.w"]).contains("are both part 0"));
        assert!(fault(&["l.0.e.0.w", "l.0.w"]).contains("two tensors are called `l.0.w`"));
        assert!(fault(&["x"]).contains("`stack`: no tensor is called"));
        let two =
            vec![stack("l.{i}.e.{e}.w", "l.{i}.w").unwrap(), stack("l.{i}.*.{e}.w", "m.{i}.*").unwrap()];
        let both = Names { stack: two, ..Names::default() };
        let said = resolve(&both, &["l.0.e.0.w"]).unwrap_err();
        assert!(
            said.contains("`l.0.e.0.w` matches both `l.{i}.e.{e}.w` and `l.{i}.*.{e}.w` of `stack`"),
            "{said}"
        );
        // What is ignored is no part.
        let fewer = Names { ignore: vec![Pattern::parse("l.4.*").unwrap()], ..names };
        let resolved = fewer.resolve(given.iter()).unwrap();
        assert_eq!((resolved.stacked.len(), resolved.ignored["l.4.w"].as_str()), (1, "l.4.*"));
        assert!(stack("a.{i}", "b.{i}").unwrap_err().contains("has 0 integers"));
        assert!(stack("a.{i}.{j}", "b").unwrap_err().contains("has 2 integers"));
    }

    #[test]
    fn an_integer_is_digits() {
        let one = Pattern::parse("h.{i}.w").unwrap();
        for (name, matches) in [
            ("h.0.w", true),
            ("h.17.w", true),
            ("h.x.w", false),
            ("h..w", false),
            ("h.1.2.w", false),
            ("h.-1.w", false),
        ] {
            assert_eq!(one.matches(name).is_some(), matches, "{name}");
        }
        assert!(Pattern::parse("*a").unwrap().matches("bababa").is_some());
        assert!(Pattern::parse("*é").unwrap().matches("éé").is_some());
        for (pattern, name, stand) in [
            ("*.{i}.*", "a.b.1.c.2.d", Some(vec!["a.b", "1", "c.2.d"])),
            ("*a{i}b*a{i}", "xa1a22ba3ba4", Some(vec!["xa1", "22", "a3b", "4"])),
            ("{i}.*x{i}", "12.x345", Some(vec!["12", "", "345"])),
            ("*1{i}x", "1111x", Some(vec!["", "111"])),
            ("*ab", "abab", Some(vec!["ab"])),
            ("a*b*b", "ab", None),
            ("*", "é", Some(vec!["é"])),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), stand, "{pattern} {name}");
        }
        // Many ways to fail, each tried once.
        let long = "a".repeat(200);
        assert!(Pattern::parse(&"*a".repeat(100)).unwrap().matches(&format!("{long}b")).is_none());
    }

    /// What this is to see took minutes.
    #[test]
    fn long_names_take_no_time() {
        let start = std::time::Instant::now();
        let ones = "1".repeat(1 << 20);
        for pattern in ["*.inv_freq", "*1{i}x", "1{i}1*x", "*x*y*z", "*1*1{i}x"] {
            assert!(Pattern::parse(pattern).unwrap().matches(&ones).is_none());
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    }

    #[test]
    fn faults_are_named() {
        for (from, to, word) in [
            ("", "x", "from 1 to"),
            ("a{i", "x", "not closed"),
            ("a}", "x", "closes nothing"),
            ("a{}", "x", "no placeholder"),
            ("a**", "x", "side by side"),
            ("a{i}{j}", "x", "side by side"),
            ("a.{i}", "b.{j}", "`{j}` is not in"),
            ("a.{i}.{i}", "b.{i}", "stands twice"),
            ("a.*", "b", "same number of `*`"),
        ] {
            let fault = Rename::parse(from, to).unwrap_err();
            assert!(fault.contains(word), "{from} {to}: {fault}");
        }
        for (rename, ignore, given, word) in [
            (&[("a", "b")][..], &[][..], &["a", "b"][..], "two tensors are called `b`"),
            (&[("a.{i}", "b")], &[], &["a.0", "a.1"], "two tensors are called `b`"),
            (&[("a.{i}", "b.{i}"), ("a.*", "c.*")], &[], &["a.0"], "matches both"),
            (&[("a.{i}", "b.{i}")], &[], &["x"], "`rename`: no tensor is called `a.{i}`"),
            (&[], &["*.bias"], &["x"], "`ignore`: no tensor is called `*.bias`"),
        ] {
            let fault = resolve(&names(rename, ignore), given).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }
}
