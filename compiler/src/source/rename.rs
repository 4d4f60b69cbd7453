//! A name in the files, and the one of the model that it becomes.

use std::collections::HashSet;

use super::pattern::{Part, Pattern};

/// A pattern of names in the files, and of the model's names that they become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    pub(super) from: Pattern,
    pub(super) to: Pattern,
}

impl Rename {
    /// Reads both patterns. Errors: a faulty one; a wildcard of `to` that `from` does not give.
    pub fn parse(from: &str, to: &str) -> Result<Rename, String> {
        let (from, to) = (Pattern::parse(from)?, Pattern::parse(to)?);
        let mut seen = HashSet::new();
        for part in from.wildcards() {
            if let Part::Number(name) = part
                && !seen.insert(name)
            {
                return Err(format!(
                    "`{{{name}}}` stands twice in `{}`: name the second one `{{j}}`",
                    from.text
                ));
            }
        }
        for part in to.wildcards() {
            if let Part::Number(name) = part
                && !seen.contains(name)
            {
                return Err(format!("`{{{name}}}` is not in `{}`", from.text));
            }
        }
        if from.count_any() != to.count_any() {
            return Err(format!("`{}` and `{}` must have the same number of `*`", from.text, to.text));
        }
        Ok(Rename { from, to })
    }

    /// What `name` becomes; `None` where the pattern does not match.
    pub(super) fn apply(&self, name: &str) -> Option<String> {
        Some(self.fill(&self.from.matches(name)?))
    }

    /// The name that `to` is with what the wildcards of `from` stand for.
    pub(super) fn fill(&self, found: &[&str]) -> String {
        let pairs: Vec<(&Part, &str)> = self.from.wildcards().zip(found.iter().copied()).collect();
        let mut texts = pairs.iter().filter(|(part, _)| **part == Part::Any).map(|(_, text)| *text);
        let mut out = String::new();
        for part in &self.to.parts {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Any => texts.next().unwrap_or(""),
                number => pairs.iter().find(|(part, _)| *part == number).map_or("", |(_, text)| text),
            });
        }
        out
    }
}
