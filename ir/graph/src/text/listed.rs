//! Weights by pattern: a line for all weights of a kind, in place of an op each.
//!
//! ```text
//! weights "model.layers.{i}.self_attn.q_proj.weight" layer 0-8 : weight<256 x 256 x bf16>
//! ```
//! `{i}` is the layer that the weight belongs to. The op of a weight that is named so stands before the first op that
//! reads it; several before the same op stand in the order of its operands. A graph that is printed this way and read
//! again leads to the same plan: the weights keep their order, by which the artefact stores them.

use std::collections::{HashMap, HashSet};

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
    c.punct(":")?;
    let type_at = c.column();
    let ty = parse_type(c)?;
    c.finish()?;
    if !matches!(ty, Type::Weight { .. }) {
        return Err(Fail::new(type_at, format!("a weight has the type weight<..>, not {ty}")));
    }
    let plain = |name: &str| !name.is_empty() && name.chars().all(super::lex::is_name);
    if !plain(&pattern.replacen("{i}", "0", 1)) {
        return Err(Fail::new(
            at,
            "a weight's name is of letters, digits, `.`, `_` and `-`, with one `{i}` for its layer",
        ));
    }
    let Some(layers) = layers else {
        if pattern.contains("{i}") {
            return Err(Fail::new(at, "`{i}` needs the layers: `layer 0-8` behind the pattern"));
        }
        return Ok(Some(vec![(pattern.to_string(), Listed { ty, layer: None, line })]));
    };
    if layers.count() > 1 && !pattern.contains("{i}") {
        return Err(Fail::new(at, "weights of several layers need an `{i}` in their name"));
    }
    if layers.count() > MAX_OPS as u64 {
        return Err(Fail::new(layers_at, format!("more than {MAX_OPS} layers")));
    }
    let one = |layer: u32| {
        let name = pattern.replacen("{i}", &layer.to_string(), 1);
        (name, Listed { ty: ty.clone(), layer: Some(layer), line })
    };
    Ok(Some(layers.iter().map(one).collect()))
}

/// The weights whose ops a list stands for: those that keep their place among all weights when they move to their
/// first reader.
pub fn hidden(graph: &Graph) -> HashSet<OpId> {
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
    let mut hidden = HashSet::new();
    let mut next = (usize::MAX, 0);
    for (place, id) in weights.into_iter().rev() {
        let data = graph.op(id);
        let alone = match data.results[..] {
            [value] if graph.defs(value).len() == 1 && data.chain.is_none() => first.get(&value).copied(),
            _ => None,
        };
        match alone.filter(|at| *at < next && at.0 > place) {
            Some(at) if matches!(graph.ty(data.results[0]), Type::Weight { .. }) => {
                hidden.insert(id);
                next = at;
            }
            _ => next = (place, 0),
        }
    }
    hidden
}

/// The lines for these weights, in the order of each pattern's first.
pub fn print_list(graph: &Graph, weights: impl Iterator<Item = OpId>) -> String {
    let mut order: Vec<(String, &Type, Vec<u32>)> = Vec::new();
    let mut known: HashMap<(String, &Type), usize> = HashMap::new();
    for id in weights {
        let data = graph.op(id);
        let value = data.results[0];
        let (pattern, ty) = (pattern(graph.name(value), data.layer), graph.ty(value));
        let several = pattern.contains("{i}");
        let at = match known.get(&(pattern.clone(), ty)) {
            Some(at) if several => *at,
            _ => {
                known.insert((pattern.clone(), ty), order.len());
                order.push((pattern, ty, Vec::new()));
                order.len() - 1
            }
        };
        order[at].2.extend(data.layer);
    }
    let line = |(pattern, ty, layers): (String, &Type, Vec<u32>)| {
        let layers = Layers::of(layers).map(|layers| format!(" layer {layers}")).unwrap_or_default();
        format!("weights \"{pattern}\"{layers} : {ty}\n")
    };
    order.into_iter().map(line).collect()
}

/// The name with its layer's number, where it stands between other characters than digits, as `{i}`.
fn pattern(name: &str, layer: Option<u32>) -> String {
    let Some(number) = layer.map(|layer| layer.to_string()) else { return name.to_string() };
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let apart = |at: &usize| {
        !digit(name[..*at].chars().next_back()) && !digit(name[at + number.len()..].chars().next())
    };
    match name.match_indices(&number).map(|(at, _)| at).find(apart) {
        Some(at) => format!("{}{{i}}{}", &name[..at], &name[at + number.len()..]),
        None => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_number_is_found() {
        for (name, layer, want) in [
            ("model.layers.1.q.weight", Some(1), "model.layers.{i}.q.weight"),
            ("model.layers.11.e1.weight", Some(1), "model.layers.11.e{i}.weight"),
            ("model.11.weight", Some(1), "model.11.weight"),
            ("L12.wq", Some(12), "L{i}.wq"),
            ("model.0", None, "model.0"),
        ] {
            assert_eq!(pattern(name, layer), want);
        }
    }
}
