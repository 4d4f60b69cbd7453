//! Names with wildcards: `{i}` (or any word in braces) stands for an integer, `*` for any text.

/// Bytes of a pattern.
const MOST_BYTES: usize = 300;

/// A name with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    pub(super) text: String,
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    /// An integer, by its name.
    Number(String),
    /// Any text, the empty one included; of several each takes as little as it can.
    Any,
}

impl Pattern {
    /// Reads a pattern. Errors: one that is empty, too long, or whose wildcards leave open what they stand for.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        if text.is_empty() || text.len() > MOST_BYTES {
            return Err(format!("a name has from 1 to {MOST_BYTES} bytes"));
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (part, len) = match first {
                '*' => (Part::Any, 1),
                '{' => {
                    let end = rest.find('}').ok_or("`{` is not closed")?;
                    let name = &rest[1..end];
                    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                        return Err(format!("`{{{name}}}` is no placeholder: write `{{i}}` for an integer"));
                    }
                    (Part::Number(name.to_string()), end + 1)
                }
                '}' => return Err("`}` closes nothing".to_string()),
                _ => {
                    let len = rest.find(['*', '{', '}']).unwrap_or(rest.len());
                    (Part::Text(rest[..len].to_string()), len)
                }
            };
            let wild = |part: &Part| !matches!(part, Part::Text(_));
            if parts.last().is_some_and(wild) && wild(&part) {
                return Err("two wildcards side by side: put text between them".to_string());
            }
            parts.push(part);
            rest = &rest[len..];
        }
        Ok(Pattern { text: text.to_string(), parts })
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a name is one of it.
    pub fn is_of(&self, name: &str) -> bool {
        self.matches(name).is_some()
    }

    /// What its wildcards stand for in `name`, in their order; `None` where it does not match.
    ///
    /// What stands between two `*` begins as early as it can: it ends the earlier for it (an integer is all the digits
    /// that stand there), so that whatever matches at all matches so, and nothing is tried twice.
    pub(super) fn matches<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let digits = digits(name);
        let mut pieces = self.parts.split(|part| *part == Part::Any).peekable();
        let (mut at, mut found) = fits(pieces.next()?, name, 0, &digits)?;
        if pieces.peek().is_none() {
            return (at == name.len()).then_some(found);
        }
        while let Some(piece) = pieces.next() {
            let is_last = pieces.peek().is_none();
            let places = (at..=name.len()).filter(|start| name.is_char_boundary(*start));
            let good = |start| fits(piece, name, start, &digits).map(|(end, inner)| (start, end, inner));
            let (start, end, inner) =
                places.filter_map(good).find(|(_, end, _)| !is_last || *end == name.len())?;
            found.push(&name[at..start]);
            found.extend(inner);
            at = end;
        }
        Some(found)
    }

    pub(super) fn wildcards(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| !matches!(part, Part::Text(_)))
    }

    pub(super) fn count_any(&self) -> usize {
        self.parts.iter().filter(|part| **part == Part::Any).count()
    }
}

/// Where the digits end that begin at each byte of a name.
fn digits(name: &str) -> Vec<usize> {
    let mut ends = vec![name.len(); name.len() + 1];
    for (at, byte) in name.bytes().enumerate().rev() {
        ends[at] = if byte.is_ascii_digit() { ends[at + 1] } else { at };
    }
    ends
}

/// Where parts without `*` end in a name from `at` on, and their integers; `None` where they do not stand there.
fn fits<'n>(parts: &[Part], name: &'n str, mut at: usize, digits: &[usize]) -> Option<(usize, Vec<&'n str>)> {
    let mut found = Vec::new();
    for part in parts {
        match part {
            Part::Text(text) => {
                at = name[at..].starts_with(text.as_str()).then_some(at + text.len())?;
            }
            Part::Number(_) => {
                let end = digits.get(at).copied().filter(|end| *end > at)?;
                found.push(&name[at..end]);
                at = end;
            }
            Part::Any => return None,
        }
    }
    Some((at, found))
}
