//! `[weights] split`: a tensor of the files whose rows are several of the model's, one after the other.

use super::pattern::Pattern;
use super::rename::Rename;

/// Most of the model's tensors that one of the files holds.
const MOST: usize = 16;

/// A pattern of names in the files, and what their rows are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    from: Pattern,
    /// The model's names, and how many rows each of them has.
    parts: Vec<(Rename, u64)>,
}

impl Split {
    /// Reads all patterns. Errors: those of [`Rename::parse`]; no parts or too many, one without rows.
    pub fn parse(from: &str, parts: &[(&str, u64)]) -> Result<Split, String> {
        if parts.is_empty() || parts.len() > MOST {
            return Err(format!("`{from}` becomes {} tensors, from 1 to {MOST} are possible", parts.len()));
        }
        if let Some((to, _)) = parts.iter().find(|(_, rows)| *rows == 0) {
            return Err(format!("`{to}` has no rows"));
        }
        let parts = parts.iter().map(|(to, rows)| Ok((Rename::parse(from, to)?, *rows)));
        Ok(Split { from: Pattern::parse(from)?, parts: parts.collect::<Result<_, String>>()? })
    }

    /// The pattern of names in the files.
    pub fn from(&self) -> &str {
        self.from.text()
    }

    /// What the tensor `name` becomes: names and rows. `None`: the pattern does not match.
    pub fn apply(&self, name: &str) -> Option<Vec<(String, u64)>> {
        self.parts.iter().map(|(rename, rows)| Some((rename.apply(name)?, *rows))).collect()
    }
}

/// The rows that each part has of all `rows`, by the first and their number. `None`: they are not as many.
pub fn rows(parts: &[(String, u64)], rows: u64) -> Option<Vec<(u64, u64)>> {
    let mut first: u64 = 0;
    let mut found = Vec::new();
    for (_, count) in parts {
        found.push((first, *count));
        first = first.checked_add(*count)?;
    }
    (first == rows).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Names;

    #[test]
    fn parts_follow_each_other() {
        let split = Split::parse("l.{i}.qkv.w", &[("l.{i}.q.w", 4), ("l.{i}.k.w", 2)]).unwrap();
        let parts = split.apply("l.7.qkv.w").unwrap();
        assert_eq!(parts, [("l.7.q.w".to_string(), 4), ("l.7.k.w".to_string(), 2)]);
        assert_eq!(split.apply("l.7.q.w"), None);
        assert_eq!(rows(&parts, 6), Some(vec![(0, 4), (4, 2)]));
        assert_eq!(
            [rows(&parts, 5), rows(&[(String::new(), u64::MAX), (String::new(), 2)], 1)],
            [None, None]
        );
    }

    #[test]
    fn what_names_leave_open_is_an_error() {
        let split = |from: &str, to: &str| Split::parse(from, &[(to, 4)]).unwrap();
        let fault = |split: Vec<Split>, given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            Names { split, ..Names::default() }.resolve(given.iter()).map_err(|e| e.message).unwrap_err()
        };
        let one = || split("l.{i}.qkv", "l.{i}.q");
        assert!(fault(vec![one()], &["x"]).contains("`split`: no tensor is called `l.{i}.qkv`"));
        assert!(fault(vec![one()], &["l.0.qkv", "l.0.q"]).contains("two tensors are called `l.0.q`"));
        let said = fault(vec![one(), split("l.*", "m.*")], &["l.0.qkv"]);
        assert!(said.contains("`l.0.qkv` matches both `l.{i}.qkv` and `l.*` of `split`"), "{said}");
    }

    #[test]
    fn faults_are_named() {
        for (parts, word) in [
            (&[][..], "becomes 0 tensors"),
            (&[("b", 0)], "`b` has no rows"),
            (&[("b.{j}", 1)], "`{j}` is not in"),
            (&[("b", 1); 17], "becomes 17 tensors"),
        ] {
            let fault = Split::parse("a", parts).unwrap_err();
            assert!(fault.contains(word), "{fault}");
        }
    }
}
