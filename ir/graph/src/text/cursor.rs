//! A line's words, read from the left.

use super::layers::Layers;
use super::lex::{Kind, Token, lex};
use crate::op::Attr;

/// A fault at a column of the line in hand.
pub struct Fail {
    /// From 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What may be meant.
    pub help: Option<String>,
}

impl Fail {
    /// A fault without a hint.
    pub fn new(column: usize, message: impl Into<String>) -> Fail {
        Fail { column, message: message.into(), help: None }
    }
}

/// An operand as it stands in a line.
pub struct Operand<'t> {
    /// Where it begins.
    pub column: usize,
    /// The operand's name, where it is said.
    pub name: Option<&'t str>,
    /// The value's name.
    pub value: &'t str,
}

/// A line's words, consumed from the left.
pub struct Cursor<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    end: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(line: &'t str) -> Result<Cursor<'t>, Fail> {
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

    /// Whether a string stands next, behind that word.
    pub fn at_string_behind(&self, word: &str) -> bool {
        let kind = |at: usize| self.tokens.get(self.at + at).map(|t| t.kind);
        let first = self.tokens.get(self.at).is_some_and(|t| t.kind == Kind::Word && t.text == word);
        first && kind(1) == Some(Kind::Str)
    }

    pub fn next(&mut self, kind: Kind, want: &str) -> Result<&'t str, Fail> {
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

    pub fn eat_word(&mut self, word: &str) -> bool {
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

    /// Layers, as in `0-2, 7`.
    pub fn layers(&mut self) -> Result<Layers, Fail> {
        let at = self.column();
        let mut runs = Vec::new();
        while runs.is_empty() || self.eat(",") {
            let first = self.layer()?;
            let last = if self.eat("-") { self.layer()? } else { first };
            if last < first {
                return Err(Fail::new(at, format!("{first} stands before {last}, and is larger")));
            }
            runs.push((first, last));
        }
        Layers::joined(runs).ok_or_else(|| Fail::new(at, "layers belong here"))
    }

    /// A layer's or a chain's number.
    pub fn layer(&mut self) -> Result<u32, Fail> {
        let at = self.column();
        u32::try_from(self.int()?).map_err(|_| Fail::new(at, "out of range"))
    }

    pub fn attr(&mut self) -> Result<Attr, Fail> {
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
                word if self.eat("(") => Ok(Attr::Call(word.to_string(), self.numbers()?)),
                word => Ok(Attr::Word(word.to_string())),
            },
        }
    }

    /// Numbers up to the closing parenthesis.
    fn numbers(&mut self) -> Result<Vec<f64>, Fail> {
        let mut numbers = Vec::new();
        while !self.eat(")") {
            if !numbers.is_empty() {
                self.punct(",")?;
            }
            // What stands here is no value of another attribute: none has another in it, so that nothing is nested.
            let at = self.column();
            let number = match self.next(Kind::Number, "a number") {
                Ok(text) => text.parse().ok(),
                Err(_) => match self.word("a number")? {
                    "inf" => Some(f64::INFINITY),
                    "NaN" => Some(f64::NAN),
                    _ => None,
                },
            };
            numbers.push(number.ok_or_else(|| Fail::new(at, "a number belongs here"))?);
        }
        Ok(numbers)
    }

    /// `key = value, ...` up to the closing brace.
    pub fn attrs(&mut self) -> Result<Vec<(String, Attr)>, Fail> {
        let mut attrs = Vec::new();
        while !self.eat("}") {
            if !attrs.is_empty() {
                self.punct(",")?;
            }
            attrs.push(self.key_value()?);
        }
        Ok(attrs)
    }

    pub fn key_value(&mut self) -> Result<(String, Attr), Fail> {
        let key = self.word("an attribute")?.to_string();
        self.punct("=")?;
        Ok((key, self.attr()?))
    }

    pub fn values(&mut self) -> Result<Vec<&'t str>, Fail> {
        let mut values = vec![self.next(Kind::Value, "a value")?];
        while self.eat(",") {
            values.push(self.next(Kind::Value, "a value")?);
        }
        Ok(values)
    }

    /// Values, each behind its operand's name and `=` where it has one.
    pub fn operands(&mut self) -> Result<Vec<Operand<'t>>, Fail> {
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

    pub fn finish(&self) -> Result<(), Fail> {
        match self.tokens.get(self.at) {
            None => Ok(()),
            Some(token) => {
                Err(Fail::new(token.column, format!("nothing belongs here, found `{}`", token.text)))
            }
        }
    }
}
