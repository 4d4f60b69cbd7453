//! Text to a graph; every faulty line is reported.

use std::fmt;

use super::cursor::{Cursor, Fail, Operand};
use super::lex::Kind;
use super::types::parse_type;
use crate::graph::{Graph, Header, OpData, ValueId};
use crate::op::{Attr, Op};
use crate::types::Type;

/// A line that is not in the text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What may be meant.
    pub help: Option<String>,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

/// More ops than any model has; keeps hostile text from taking hours.
pub const MAX_OPS: usize = 100_000;

/// Reads a graph. Errors: all faulty lines, up to a hundred.
pub fn parse(text: &str) -> Result<Graph, Vec<ParseError>> {
    let mut errors: Vec<ParseError> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let mut graph = match header(&mut lines) {
        Ok(header) => Graph::new(header),
        Err(error) => return Err(vec![error]),
    };
    let mut pending: Vec<(usize, OpLine<'_>)> = Vec::new();
    for (number, line) in lines {
        if errors.len() >= 100 {
            break;
        }
        match op_line(line) {
            Ok(Some(_)) if pending.len() == MAX_OPS => {
                errors.push(error_at(number, Fail::new(1, format!("more than {MAX_OPS} ops"))));
                break;
            }
            Ok(Some(op)) => pending.push((number, op)),
            Ok(None) => {}
            Err(fail) => errors.push(error_at(number, fail)),
        }
    }
    if errors.is_empty() {
        errors = build(&mut graph, pending);
    }
    if errors.is_empty() { Ok(graph) } else { Err(errors) }
}

fn error_at(line: usize, fail: Fail) -> ParseError {
    ParseError { line, column: fail.column, message: fail.message, help: fail.help }
}

/// The lines up to the closing brace, comments left out, read as one.
fn header<'t>(lines: &mut impl Iterator<Item = (usize, &'t str)>) -> Result<Header, ParseError> {
    let mut text = String::new();
    let mut first = 1;
    for (number, line) in lines.by_ref() {
        let line = line.split(';').next().unwrap_or("").trim();
        if text.is_empty() {
            first = number;
        }
        if !line.is_empty() {
            text.push_str(line);
            text.push(' ');
        }
        if line.contains('}') || text.len() > 4096 {
            break;
        }
    }
    parse_header(&text).map_err(|fail| error_at(first, fail))
}

fn parse_header(text: &str) -> Result<Header, Fail> {
    let mut c = Cursor::new(text)?;
    c.keyword("graph")?;
    let name_at = c.column();
    let name = c.next(Kind::Str, "the model's name in quotes")?.to_string();
    if !super::is_model_name(&name) {
        return Err(Fail::new(name_at, "the name becomes a file's: letters, digits, `.`, `_` and `-` only"));
    }
    let at = c.column();
    c.punct("{")?;
    let attrs = c.attrs()?;
    c.finish()?;
    let int = |key: &str| match attrs.iter().find(|(k, _)| k == key) {
        Some((_, Attr::Int(n))) => Ok(*n),
        _ => Err(Fail::new(at, format!("the header needs `{key} = ` an integer"))),
    };
    let target = match attrs.iter().find(|(k, _)| k == "target") {
        Some((_, Attr::Word(word))) => word.parse().map_err(|message: String| Fail::new(at, message))?,
        _ => return Err(Fail::new(at, "the header needs `target = ` a target kind")),
    };
    let known = ["layers", "hidden", "vocab", "max_context", "max_batch", "chunk", "max_outputs", "target"];
    if let Some((key, _)) = attrs.iter().find(|(k, _)| !known.contains(&k.as_str())) {
        return Err(Fail::new(at, format!("the header has no `{key}`; it takes {}", known.join(", "))));
    }
    Ok(Header {
        name,
        layers: int("layers")?,
        hidden: int("hidden")?,
        vocab: int("vocab")?,
        max_context: int("max_context")?,
        max_batch: int("max_batch")?,
        chunk: int("chunk")?,
        max_outputs: int("max_outputs")?,
        target,
    })
}

struct OpLine<'t> {
    results: Vec<&'t str>,
    types: Vec<Type>,
    op: Op,
    operands: Vec<&'t str>,
    layer: Option<u32>,
    chain: Option<u32>,
}

fn op_line(line: &str) -> Result<Option<OpLine<'_>>, Fail> {
    let mut c = Cursor::new(line)?;
    if c.peek_kind().is_none() {
        return Ok(None);
    }
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
        let near = (!Op::NAMES.contains(&name)).then(|| nearest(name)).flatten();
        Fail { column: at, message, help: near.map(|near| format!("did you mean `{near}`?")) }
    })?;
    let operands = named(&op, operands)?;
    let number = |c: &mut Cursor<'_>| {
        let at = c.column();
        u32::try_from(c.int()?).map_err(|_| Fail::new(at, "out of range"))
    };
    let layer = if c.eat_word("layer") { Some(number(&mut c)?) } else { None };
    let chain = if c.eat_word("chain") { Some(number(&mut c)?) } else { None };
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
    Ok(Some(OpLine { results, types, op, operands, layer, chain }))
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

/// The op's name that shares the longest beginning, at least half of it.
fn nearest(word: &str) -> Option<&'static str> {
    let shared = |name: &str| name.chars().zip(word.chars()).take_while(|(a, b)| a == b).count();
    Op::NAMES.iter().copied().max_by_key(|name| shared(name)).filter(|name| 2 * shared(name) >= name.len())
}

/// Types are known at definitions alone, so those are read first; a value that is never defined gets the
/// type of an empty tensor, and the verifier names it.
fn build(graph: &mut Graph, lines: Vec<(usize, OpLine<'_>)>) -> Vec<ParseError> {
    let mut errors = Vec::new();
    for (number, line) in &lines {
        for (name, ty) in line.results.iter().zip(&line.types) {
            match graph.value(name) {
                None => {
                    graph.new_value(name, ty.clone());
                }
                Some(value) if graph.ty(value) != ty => errors.push(ParseError {
                    line: *number,
                    column: 1,
                    message: format!("`{name}` is defined before with type {}", graph.ty(value)),
                    help: None,
                }),
                Some(_) => {}
            }
        }
    }
    for (number, line) in lines {
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
    errors
}
