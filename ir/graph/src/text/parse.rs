//! Text to a graph; every faulty line is reported.

use std::collections::HashMap;

use super::cursor::{Cursor, Fail, Operand};
use super::fault::{MAX_OPS, MOST_ERRORS, ParseError, error_at};
use super::header;
use super::lex::Kind;
use super::listed::{Listed, parse_list};
use super::nearest::nearest;
use super::types::parse_type;
use crate::graph::{Graph, OpData, ValueId};
use crate::op::{self, Op};
use crate::types::Type;

/// Reads a graph; of several in one text the last one. Errors: all faulty lines, up to a hundred.
pub fn parse(text: &str) -> Result<Graph, Vec<ParseError>> {
    let mut errors: Vec<ParseError> = Vec::new();
    let all = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let begin = all.clone().filter(|(_, line)| header::begins(line)).map(|(number, _)| number).last();
    let mut lines = all.skip_while(|(number, _)| Some(*number) < begin);
    let mut graph = match header::header(&mut lines) {
        Ok(header) => Graph::new(header),
        Err(error) => return Err(vec![error]),
    };
    let mut read = Lines::default();
    for (number, line) in lines {
        if errors.len() >= MOST_ERRORS {
            break;
        }
        match read.line(number, line) {
            Ok(()) if read.ops.len() + read.weights.listed.len() > MAX_OPS => {
                errors.push(error_at(number, Fail::new(1, format!("more than {MAX_OPS} ops"))));
                break;
            }
            Ok(()) => {}
            Err(fail) => errors.push(error_at(number, fail)),
        }
    }
    if errors.is_empty() {
        errors = build(&mut graph, read);
    }
    if errors.is_empty() { Ok(graph) } else { Err(errors) }
}

/// What the lines behind a header say.
#[derive(Default)]
struct Lines<'t> {
    ops: Vec<(usize, OpLine<'t>)>,
    weights: Weights,
}

impl<'t> Lines<'t> {
    fn line(&mut self, number: usize, line: &'t str) -> Result<(), Fail> {
        let mut c = Cursor::new(line)?;
        if let Some(weights) = parse_list(&mut c, number)? {
            for (name, weight) in weights {
                if let Some(next) = weight.before.clone()
                    && let Some(other) = self.weights.before.insert(next.clone(), name.clone())
                {
                    return Err(Fail::new(1, format!("both `{other}` and `{name}` stand before `{next}`")));
                }
                if let Some(before) = self.weights.listed.insert(name.clone(), weight) {
                    return Err(Fail::new(1, format!("`{name}` is in the list of line {} too", before.line)));
                }
            }
        } else if c.peek_kind().is_some() {
            self.ops.push((number, op_line(c)?));
        }
        Ok(())
    }
}

struct OpLine<'t> {
    results: Vec<&'t str>,
    types: Vec<Type>,
    op: Op,
    operands: Vec<&'t str>,
    layer: Option<u32>,
    chain: Option<u32>,
}

fn op_line(mut c: Cursor<'_>) -> Result<OpLine<'_>, Fail> {
    let mut results = Vec::new();
    if c.peek_kind() == Some(Kind::Value) {
        results = c.values()?;
        c.punct("=")?;
    }
    let at = c.column();
    let name = c.word("an op")?;
    c.punct("(")?;
    let operands = if c.eat(")") {
        Vec::new()
    } else {
        let operands = c.operands()?;
        c.punct(")")?;
        operands
    };
    let attrs = if c.eat("{") { c.attrs()? } else { Vec::new() };
    let op = Op::from_attrs(name, &attrs).map_err(|message| {
        let near = (!Op::NAMES.contains(&name)).then(|| nearest(name, Op::NAMES)).flatten();
        Fail { column: at, message, help: near.map(|near| format!("did you mean `{near}`?")) }
    })?;
    let operands = named(&op, operands)?;
    let layer = if c.eat_word("layer") { Some(c.layer()?) } else { None };
    let chain = if c.eat_word("chain") { Some(c.layer()?) } else { None };
    let mut types = Vec::new();
    if !results.is_empty() {
        c.punct(":")?;
        types.push(parse_type(&mut c)?);
        while c.eat(",") {
            types.push(parse_type(&mut c)?);
        }
    }
    c.finish()?;
    if types.len() != results.len() {
        return Err(Fail::new(at, format!("{} results have {} types", results.len(), types.len())));
    }
    Ok(OpLine { results, types, op, operands, layer, chain })
}

/// The operands, where those that are named are those of that name. How many there are is the verifier's.
fn named<'t>(op: &Op, operands: Vec<Operand<'t>>) -> Result<Vec<&'t str>, Fail> {
    let takes = op.roles().takes;
    for (i, operand) in operands.iter().enumerate() {
        let Some(name) = operand.name else { continue };
        let want = takes.get(i).map(|role| role.name);
        if want != Some(name) {
            let all: Vec<&str> = takes.iter().map(|role| role.name).collect();
            let message = format!("operand {i} of `{}` is not `{name}`", op.name());
            let help = Some(format!("it takes ({})", all.join(", ")));
            return Err(Fail { column: operand.column, message, help });
        }
    }
    Ok(operands.into_iter().map(|operand| operand.value).collect())
}

/// Types are known at definitions alone, so those are read first; a value that is never defined gets the
/// type of an empty tensor, and the verifier names it. A listed weight gets its op before its first reader.
fn build(graph: &mut Graph, lines: Lines<'_>) -> Vec<ParseError> {
    let mut errors = Vec::new();
    let mut fault =
        |line: usize, message: String| errors.push(ParseError { line, column: 1, message, help: None });
    for (number, line) in &lines.ops {
        for (name, ty) in line.results.iter().zip(&line.types) {
            if let Some(listed) = lines.weights.listed.get(*name) {
                fault(*number, format!("`{name}` is in the list of weights of line {} too", listed.line));
            }
            match graph.value(name) {
                None => {
                    graph.new_value(name, ty.clone());
                }
                Some(value) if graph.ty(value) != ty => {
                    fault(*number, format!("`{name}` is defined before with type {}", graph.ty(value)));
                }
                Some(_) => {}
            }
        }
    }
    let mut weights = lines.weights;
    for (number, line) in lines.ops {
        line.operands.iter().for_each(|name| weights.push(graph, name));
        let find = |graph: &mut Graph, name: &str| -> ValueId {
            let unknown = Type::Tensor { elem: hyc_plan::Elem::F32, dims: Vec::new() };
            graph.value(name).unwrap_or_else(|| graph.new_value(name, unknown))
        };
        let operands = line.operands.iter().map(|name| find(graph, name)).collect();
        let results = line.results.iter().map(|name| find(graph, name)).collect();
        graph.push(OpData {
            op: line.op,
            operands,
            results,
            layer: line.layer,
            chain: line.chain,
            line: u32::try_from(number).ok(),
        });
    }
    errors.truncate(MOST_ERRORS);
    errors
}

/// The listed weights that have no op yet, by name.
#[derive(Default)]
struct Weights {
    listed: HashMap<String, Listed>,
    /// Which of them stands before a weight.
    before: HashMap<String, String>,
}

impl Weights {
    /// Gives a listed weight its op, behind those that stand before it.
    fn push(&mut self, graph: &mut Graph, name: &str) {
        let mut row: Vec<(String, Listed)> = Vec::new();
        let mut next = Some(name.to_string());
        while let Some((name, weight)) = next.and_then(|name| self.listed.remove_entry(&name)) {
            next = self.before.remove(&name);
            row.push((name, weight));
        }
        for (name, weight) in row.into_iter().rev() {
            let value = graph.new_value(&name, weight.ty);
            graph.push(OpData {
                op: Op::Weight(op::Weight {}),
                operands: vec![],
                results: vec![value],
                layer: weight.layer,
                chain: None,
                line: u32::try_from(weight.line).ok(),
            });
        }
    }
}
