//! Words of one line.

/// A word with its column, from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Token<'t> {
    /// What it is.
    pub kind: Kind,
    /// Its text; for values and strings without the mark.
    pub text: &'t str,
    /// Column of its first character.
    pub column: usize,
}

/// Kinds of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `%x` or `@x`.
    Value,
    /// A bare word: op, attribute, keyword.
    Word,
    /// A number.
    Number,
    /// A quoted string.
    Str,
    /// One punctuation character.
    Punct,
}

/// Whether a character may stand in a value's name.
pub fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// Splits a line; a comment ends it. `Err` is the column of a character that starts nothing.
pub fn lex(line: &str) -> Result<Vec<Token<'_>>, usize> {
    let mut tokens = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        let column = line.len() - rest.len() + 1;
        let Some(first) = rest.chars().next() else { return Ok(tokens) };
        let (kind, skip, len, tail) = match first {
            ';' => return Ok(tokens),
            '%' | '@' => (Kind::Value, 1, name_len(&rest[1..]), 0),
            '"' => match rest[1..].find('"') {
                Some(len) => (Kind::Str, 1, len, 1),
                None => return Err(column),
            },
            '(' | ')' | '{' | '}' | '<' | '>' | ',' | '=' | ':' | '+' | '-' | '/' => (Kind::Punct, 0, 1, 0),
            c if c.is_ascii_digit() => (Kind::Number, 0, number_len(rest), 0),
            c if c.is_ascii_alphabetic() || c == '_' => (Kind::Word, 0, name_len(rest), 0),
            _ => return Err(column),
        };
        if len == 0 && kind == Kind::Value {
            return Err(column);
        }
        tokens.push(Token { kind, text: &rest[skip..skip + len], column });
        rest = &rest[skip + len + tail..];
    }
}

fn name_len(text: &str) -> usize {
    text.find(|c| !is_name(c)).unwrap_or(text.len())
}

/// Digits, a point, an exponent with its sign.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let c = bytes[at];
        let sign = (c == b'-' || c == b'+') && at > 0 && matches!(bytes[at - 1], b'e' | b'E');
        if !(c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E') || sign) {
            break;
        }
        at += 1;
    }
    at
}
