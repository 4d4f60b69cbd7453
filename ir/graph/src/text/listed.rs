//! Weights by pattern: a line for all weights of a kind, in place of an op each.
//!
//! ```text
//! weights "model.layers.{i}.self_attn.q_proj.weight" layer 0-8 : weight<256 x 256 x bf16>
//! ```
//! `{i}` is the layer that the weight belongs to. The op of a weight that is named so stands before the first op that
//! reads it; several before the same op stand in the order of its operands. Behind `layer 0-8` may stand
//! `before "PATTERN"`: then it stands before the weight of that name. A graph that is printed this way and read again
//! leads to the same plan: the weights keep their order, by which the artefact stores them.

use std::collections::HashMap;

use super::cursor::{Cursor, Fail};
use super::fault::MAX_OPS;
use super::layers::Layers;
use super::lex::Kind;
use super::types::parse_type;
use crate::graph::{Graph, OpId, ValueId};
use crate::op::{self, Op};
use crate::types::Type;

/// A weight that a line of the list names.
pub struct Listed {
    pub ty: Type,
    pub layer: Option<u32>,
    /// The weight that it stands before, where its first reader does not say it.
    pub before: Option<String>,
    /// The line.
    pub line: usize,
}

/// Reads a line into the weights that it names. `None`: the line is no list's.
pub fn parse_list<'t>(c: &mut Cursor<'t>, line: usize) -> Result<Option<Vec<(String, Listed)>>, Fail> {
    if !c.at_string_behind("weights") {
        return Ok(None);
    }
    c.keyword("weights")?;
    let at = c.column();
    let pattern = c.next(Kind::Str, "a pattern in quotes")?;
    let layers_at = c.column();
    let layers = if c.eat_word("layer") { Some(c.layers()?) } else { None };
    let before_at = c.column();
    let before = if c.eat_word("before") { Some(c.next(Kind::Str, "a pattern in quotes")?) } else { None };
    c.punct(":")?;
    let type_at = c.column();
    let ty = parse_type(c)?;
    c.finish()?;
    if !matches!(ty, Type::Weight { .. }) {
        return Err(Fail::new(type_at, format!("a weight has the type weight<..>, not {ty}")));
    }
    check_pattern(pattern, layers.as_ref(), at)?;
    if let Some(before) = before {
        check_pattern(before, layers.as_ref(), before_at)?;
    }
    if layers.as_ref().is_some_and(|layers| layers.count() > MAX_OPS as u64) {
        return Err(Fail::new(layers_at, format!("more than {MAX_OPS} layers")));
    }
    let one = |layer: Option<u32>| {
        let of = |pattern: &str| match layer {
            Some(layer) => pattern.replacen("{i}", &layer.to_string(), 1),
            None => pattern.to_string(),
        };
        (of(pattern), Listed { ty: ty.clone(), layer, before: before.map(of), line })
    };
    Ok(Some(match layers {
        None => vec![one(None)],
        Some(layers) => layers.iter().map(|layer| one(Some(layer))).collect(),
    }))
}

/// Errors: no name; one of several layers without their number, or the other way round.
fn check_pattern(pattern: &str, layers: Option<&Layers>, at: usize) -> Result<(), Fail> {
    let (plain, numbered) = (pattern.replacen("{i}", "0", 1), pattern.contains("{i}"));
    if plain.is_empty() || !plain.chars().all(super::lex::is_name) {
        let message = "a weight's name is of letters, digits, `.`, `_` and `-`, with one `{i}` for its layer";
        return Err(Fail::new(at, message));
    }
    match layers {
        None if numbered => Err(Fail::new(at, "`{i}` needs the layers: `layer 0-8` behind the pattern")),
        Some(layers) if layers.count() > 1 && !numbered => {
            Err(Fail::new(at, "weights of several layers need an `{i}` in their name"))
        }
        _ => Ok(()),
    }
}

/// The weights whose ops a list can stand for, each with the weight that it must stand before where its first reader
/// would give it another place among the weights.
pub fn hidden(graph: &Graph) -> HashMap<OpId, Option<ValueId>> {
    let mut first: HashMap<ValueId, (usize, usize)> = HashMap::new();
    let mut weights = Vec::new();
    for (place, id) in graph.ops().enumerate() {
        let data = graph.op(id);
        for (i, value) in data.operands.iter().enumerate() {
            first.entry(*value).or_insert((place, i));
        }
        if data.op == Op::Weight(op::Weight {}) {
            weights.push((place, id));
        }
    }
    let mut hidden = HashMap::new();
    // The place of the weight behind, and that weight where it is hidden, too.
    let (mut next, mut behind): ((usize, usize), Option<ValueId>) = ((usize::MAX, 0), None);
    for (place, id) in weights.into_iter().rev() {
        let data = graph.op(id);
        let first = match data.results[..] {
            [value] if graph.defs(value).len() == 1 && data.chain.is_none() && data.operands.is_empty() => {
                first.get(&value).filter(|at| at.0 > place).map(|at| (value, *at))
            }
            _ => None,
        };
        match first.filter(|(value, _)| matches!(graph.ty(*value), Type::Weight { .. })) {
            Some((value, at)) if at < next => {
                hidden.insert(id, None);
                (next, behind) = (at, Some(value));
            }
            Some((value, _)) if behind.is_some() => {
                hidden.insert(id, behind);
                behind = Some(value);
            }
            _ => (next, behind) = ((place, 0), None),
        }
    }
    hidden
}

/// The lines for these weights, in the order of each pattern's first.
pub fn print_list(graph: &Graph, weights: impl Iterator<Item = (OpId, Option<ValueId>)>) -> String {
    let mut order: Vec<(Key<'_>, Vec<u32>)> = Vec::new();
    let mut known: HashMap<Key<'_>, usize> = HashMap::new();
    for (id, before) in weights {
        let data = graph.op(id);
        let value = data.results[0];
        let key = Key {
            pattern: pattern(graph.name(value), data.layer),
            before: before.map(|before| pattern(graph.name(before), data.layer)),
            ty: graph.ty(value),
        };
        let several =
            [Some(&key.pattern), key.before.as_ref()].into_iter().flatten().all(|p| p.contains("{i}"));
        let at = match known.get(&key) {
            Some(at) if several => *at,
            _ => {
                known.insert(key.clone(), order.len());
                order.push((key, Vec::new()));
                order.len() - 1
            }
        };
        order[at].1.extend(data.layer);
    }
    let line = |(key, layers): (Key<'_>, Vec<u32>)| {
        let layers = Layers::of(layers).map(|layers| format!(" layer {layers}")).unwrap_or_default();
        let before = key.before.map(|before| format!(" before \"{before}\"")).unwrap_or_default();
        format!("weights \"{}\"{layers}{before} : {}\n", key.pattern, key.ty)
    };
    order.into_iter().map(line).collect()
}

/// What the weights of a line have in common.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key<'g> {
    pattern: String,
    before: Option<String>,
    ty: &'g Type,
}

/// The name with its layer's number as `{i}`, where a part of it between points is that number, perhaps behind an `L`.
pub fn pattern(name: &str, layer: Option<u32>) -> String {
    let Some(number) = layer.map(|layer| layer.to_string()) else { return name.to_string() };
    let mut start = 0;
    for part in name.split('.') {
        let digits = part.strip_prefix('L').unwrap_or(part);
        if digits == number {
            let (at, end) = (start + part.len() - digits.len(), start + part.len());
            return format!("{}{{i}}{}", &name[..at], &name[end..]);
        }
        start += part.len() + 1;
    }
    name.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_number_is_found() {
        for (name, layer, want) in [
            ("model.layers.1.q.weight", Some(1), "model.layers.{i}.q.weight"),
            ("model.layers.11.e1.weight", Some(1), "model.layers.11.e1.weight"),
            ("model.11.weight", Some(1), "model.11.weight"),
            ("L12.wq", Some(12), "L{i}.wq"),
            ("model.0", None, "model.0"),
        ] {
            assert_eq!(pattern(name, layer), want);
        }
    }
}
