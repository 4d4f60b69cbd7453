//! Text to a graph; every faulty line is reported.

use std::fmt;

use super::lex::{Kind, Token, lex};
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

/// A fault at a column of the line in hand.
pub struct Fail {
    column: usize,
    message: String,
    help: Option<String>,
}

impl Fail {
    /// A fault without a hint.
    pub fn new(column: usize, message: impl Into<String>) -> Fail {
        Fail { column, message: message.into(), help: None }
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

/// An operand as it stands in a line.
struct Operand<'t> {
    column: usize,
    name: Option<&'t str>,
    value: &'t str,
}

/// A line's words, consumed from the left.
pub struct Cursor<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    end: usize,
}

impl<'t> Cursor<'t> {
    fn new(line: &'t str) -> Result<Cursor<'t>, Fail> {
        let tokens = lex(line).map_err(|column| Fail::new(column, "this character starts no word"))?;
        Ok(Cursor { tokens, at: 0, end: line.len() + 1 })
    }

    /// Column of the next word.
    pub fn column(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |t| t.column)
    }

    /// Kind of the next word.
    pub fn peek_kind(&self) -> Option<Kind> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn next(&mut self, kind: Kind, want: &str) -> Result<&'t str, Fail> {
        match self.tokens.get(self.at) {
            Some(token) if token.kind == kind => {
                self.at += 1;
                Ok(token.text)
            }
            Some(token) => Err(Fail::new(token.column, format!("{want} belongs here, not `{}`", token.text))),
            None => Err(Fail::new(self.end, format!("{want} belongs here, the line ends"))),
        }
    }

    /// A bare word.
    pub fn word(&mut self, want: &str) -> Result<&'t str, Fail> {
        self.next(Kind::Word, want)
    }

    /// That bare word.
    pub fn keyword(&mut self, word: &str) -> Result<(), Fail> {
        let at = self.column();
        match self.word(&format!("`{word}`"))? {
            found if found == word => Ok(()),
            found => Err(Fail::new(at, format!("`{word}` belongs here, not `{found}`"))),
        }
    }

    /// That punctuation.
    pub fn punct(&mut self, mark: &str) -> Result<(), Fail> {
        if self.eat(mark) {
            return Ok(());
        }
        match self.tokens.get(self.at) {
            Some(token) => {
                Err(Fail::new(token.column, format!("`{mark}` belongs here, not `{}`", token.text)))
            }
            None => Err(Fail::new(self.end, format!("`{mark}` belongs here, the line ends"))),
        }
    }

    /// That punctuation, where it stands next.
    pub fn eat(&mut self, mark: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| t.kind == Kind::Punct && t.text == mark);
        self.at += usize::from(found);
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| t.kind == Kind::Word && t.text == word);
        self.at += usize::from(found);
        found
    }

    /// An integer.
    pub fn int(&mut self) -> Result<u64, Fail> {
        let at = self.column();
        let text = self.next(Kind::Number, "an integer")?;
        text.parse().map_err(|_| Fail::new(at, format!("`{text}` is no integer of 64 bits")))
    }

    fn attr(&mut self) -> Result<Attr, Fail> {
        let at = self.column();
        match self.peek_kind() {
            Some(Kind::Number) => {
                let text = self.next(Kind::Number, "a number")?;
                if let Ok(n) = text.parse() {
                    return Ok(Attr::Int(n));
                }
                text.parse().map(Attr::Float).map_err(|_| Fail::new(at, format!("`{text}` is no number")))
            }
            _ => match self.word("a value")? {
                "true" => Ok(Attr::Bool(true)),
                "false" => Ok(Attr::Bool(false)),
                "inf" => Ok(Attr::Float(f64::INFINITY)),
                "NaN" => Ok(Attr::Float(f64::NAN)),
                word => Ok(Attr::Word(word.to_string())),
            },
        }
    }

    /// `key = value, ...` up to the closing brace.
    fn attrs(&mut self) -> Result<Vec<(String, Attr)>, Fail> {
        let mut attrs = Vec::new();
        while !self.eat("}") {
            if !attrs.is_empty() {
                self.punct(",")?;
            }
            let key = self.word("an attribute")?.to_string();
            self.punct("=")?;
            attrs.push((key, self.attr()?));
        }
        Ok(attrs)
    }

    fn values(&mut self) -> Result<Vec<&'t str>, Fail> {
        let mut values = vec![self.next(Kind::Value, "a value")?];
        while self.eat(",") {
            values.push(self.next(Kind::Value, "a value")?);
        }
        Ok(values)
    }

    /// Values, each behind its operand's name and `=` where it has one.
    fn operands(&mut self) -> Result<Vec<Operand<'t>>, Fail> {
        let mut operands = Vec::new();
        while operands.is_empty() || self.eat(",") {
            let at = self.column();
            let name = if self.peek_kind() == Some(Kind::Word) {
                let name = self.word("an operand's name")?;
                self.punct("=")?;
                Some(name)
            } else {
                None
            };
            operands.push(Operand { column: at, name, value: self.next(Kind::Value, "a value")? });
        }
        Ok(operands)
    }

    fn finish(&self) -> Result<(), Fail> {
        match self.tokens.get(self.at) {
            None => Ok(()),
            Some(token) => {
                Err(Fail::new(token.column, format!("nothing belongs here, found `{}`", token.text)))
            }
        }
    }
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
        Some((_, Attr::Word(word))) => word.clone(),
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
            let unknown = Type::Tensor { elem: crate::plan::Elem::F32, dims: Vec::new() };
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
