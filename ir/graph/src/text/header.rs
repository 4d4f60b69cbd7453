//! The lines in front of a graph: the model's name, sizes and limits.

use super::cursor::{Cursor, Fail};
use super::fault::{ParseError, error_at};
use super::lex::Kind;
use crate::graph::Header;
use crate::op::Attr;

/// More bytes than any header has.
const MOST_BYTES: usize = 4096;

const KEYS: [&str; 9] =
    ["layers", "hidden", "vocab", "named", "max_context", "max_batch", "chunk", "max_outputs", "target"];

/// Whether a line begins a graph.
pub fn begins(line: &str) -> bool {
    line.trim_start().strip_prefix("graph").is_some_and(|rest| rest.starts_with([' ', '\t', '"']))
}

/// The lines up to the closing brace, comments left out, read as one.
pub fn header<'t>(lines: &mut impl Iterator<Item = (usize, &'t str)>) -> Result<Header, ParseError> {
    let mut text = String::new();
    // Where each line stands: its place in `text`, its number, and how much of its beginning is left out.
    let mut parts: Vec<(usize, usize, usize)> = Vec::new();
    for (number, whole) in lines.by_ref() {
        let line = whole.split(';').next().unwrap_or("").trim();
        if !line.is_empty() {
            parts.push((text.len(), number, whole.len() - whole.trim_start().len()));
            text.push_str(line);
            text.push(' ');
        }
        if line.contains('}') || text.len() > MOST_BYTES {
            break;
        }
    }
    parse(&text).map_err(|fail| {
        let at = parts.partition_point(|(start, ..)| *start < fail.column).saturating_sub(1);
        let (start, number, indent) = parts.get(at).copied().unwrap_or((0, 1, 0));
        error_at(number, Fail { column: fail.column - start + indent, ..fail })
    })
}

fn parse(text: &str) -> Result<Header, Fail> {
    let mut c = Cursor::new(text)?;
    c.keyword("graph")?;
    let name_at = c.column();
    let name = c.next(Kind::Str, "the model's name in quotes")?.to_string();
    if !super::is_model_name(&name) {
        return Err(Fail::new(name_at, "the name becomes a file's: letters, digits, `.`, `_` and `-` only"));
    }
    let part_at = c.column();
    if c.eat_word("layers") {
        let layers = c.layers()?;
        let message = format!("this is a part of a graph, its {}: nothing can be made of it", layers.named());
        let help = Some("make the dump again without `--layers`".to_string());
        return Err(Fail { column: part_at, message, help });
    }
    let at = c.column();
    c.punct("{")?;
    let mut attrs: Vec<(String, Attr)> = Vec::new();
    while !c.eat("}") {
        if !attrs.is_empty() {
            c.punct(",")?;
        }
        let at = c.column();
        let (key, value) = c.key_value()?;
        if !KEYS.contains(&key.as_str()) {
            return Err(Fail::new(at, format!("the header has no `{key}`; it takes {}", KEYS.join(", "))));
        }
        attrs.push((key, value));
    }
    c.finish()?;
    let int = |key: &str| match attrs.iter().find(|(k, _)| k == key) {
        Some((_, Attr::Int(n))) => Ok(*n),
        _ => Err(Fail::new(at, format!("the header needs `{key} = ` an integer"))),
    };
    let target = match attrs.iter().find(|(k, _)| k == "target") {
        Some((_, Attr::Word(word))) => word.parse().map_err(|message: String| Fail::new(at, message))?,
        _ => return Err(Fail::new(at, "the header needs `target = ` a target kind")),
    };
    Ok(Header {
        name,
        layers: int("layers")?,
        hidden: int("hidden")?,
        vocab: int("vocab")?,
        named: attrs.iter().any(|(key, _)| key == "named").then(|| int("named")).transpose()?,
        max_context: int("max_context")?,
        max_batch: int("max_batch")?,
        chunk: int("chunk")?,
        max_outputs: int("max_outputs")?,
        target,
    })
}
