//! A graph dump that is given in place of a description: read, checked, and its faults shown where they stand.

use std::ops::Range;
use std::path::PathBuf;

use hyc_ir::text::{self, ParseError};
use hyc_ir::verify::{self, Violation};
use hyc_ir::{Graph, Header};
use hyc_passes::PassError;

use crate::error::{Error, Result};
use crate::frontend::{Diagnostic, Diagnostics};
use crate::targets::check_target;

/// The text of a dump.
pub struct Dump {
    /// Where it was read.
    pub path: PathBuf,
    /// What stands there.
    pub text: String,
}

impl Dump {
    /// Whether a text is a dump: its first word is `graph`.
    pub fn is_one(text: &str) -> bool {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(';'));
        first.is_some_and(|line| line.starts_with("graph ") || line.starts_with("graph\""))
    }

    /// The graph, for a target that this build has. Errors: those of [`Dump::any_graph`]; another target.
    pub fn graph(&self) -> Result<Graph> {
        let graph = self.any_graph()?;
        check_target(graph.header.target)?;
        Ok(graph)
    }

    /// The graph, whatever its target. Errors: every fault of the text, or of the graph that it is, with carets.
    pub fn any_graph(&self) -> Result<Graph> {
        let places = Places::of(&self.text);
        let graph = text::parse(&self.text).map_err(|errors| {
            self.faults(errors.into_iter().map(|error| unreadable(&places, &self.text, error)))
        })?;
        verify::verify(&graph).map_err(|violations| {
            let header = &graph.header;
            self.faults(violations.into_iter().map(|v| invalid(&places, &self.text, header, v)))
        })?;
        Ok(graph)
    }

    /// What a pass says of a line of this dump.
    pub fn at(&self, error: &PassError) -> Option<Error> {
        let line = error.line?;
        let message = PassError { line: None, ..error.clone() }.to_string();
        let span = Places::of(&self.text).line(&self.text, line as usize);
        let label = format!("{} gives up here", error.pass);
        Some(self.faults([Diagnostic { message, span, label, help: error.help.clone() }]))
    }

    fn faults(&self, list: impl IntoIterator<Item = Diagnostic>) -> Error {
        Diagnostics::new(self.path.display().to_string(), self.text.clone(), list).into()
    }
}

fn unreadable(places: &Places, text: &str, error: ParseError) -> Diagnostic {
    let span = places.word(text, error.line, error.column);
    Diagnostic { message: error.message, span, label: String::new(), help: error.help }
}

fn invalid(places: &Places, text: &str, header: &Header, violation: Violation) -> Diagnostic {
    let Violation { rule, op, line, message } = violation;
    // Only an empty graph has no line.
    let span = line.map_or(0..0, |line| places.line(text, line as usize));
    let message = match op.as_str() {
        "graph" => format!("{}: {message}", header.name),
        op => format!("{op}: {message}"),
    };
    Diagnostic { message, span, label: format!("breaks {rule}"), help: None }
}

/// Where the lines of a text begin.
struct Places(Vec<usize>);

impl Places {
    fn of(text: &str) -> Places {
        Places(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn whole(&self, text: &str, line: usize) -> Range<usize> {
        let start = self.0.get(line.saturating_sub(1)).copied().unwrap_or(text.len());
        let end = self.0.get(line).map_or(text.len(), |next| next.saturating_sub(1));
        start..end.max(start)
    }

    /// A line without its comment and the space around it.
    fn line(&self, text: &str, line: usize) -> Range<usize> {
        let whole = self.whole(text, line);
        let code = text[whole.clone()].split(';').next().unwrap_or_default();
        let start = whole.start + code.len() - code.trim_start().len();
        start..start + code.trim().len()
    }

    /// The word that begins at a column, from 1; at a line's end nothing.
    fn word(&self, text: &str, line: usize, column: usize) -> Range<usize> {
        let whole = self.whole(text, line);
        let start = text.floor_char_boundary((whole.start + column.saturating_sub(1)).min(whole.end));
        let rest = &text[start..whole.end];
        let name = |text: &str| {
            text.find(|c: char| !c.is_alphanumeric() && !"_.-".contains(c)).unwrap_or(text.len())
        };
        let length = match rest.chars().next() {
            None => 0,
            Some('"') => rest[1..].find('"').map_or(1, |end| end + 2),
            Some('%' | '@') => 1 + name(&rest[1..]),
            Some(c) => name(rest).max(c.len_utf8()),
        };
        start..start + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let dump = Dump { path: "g.hyir".into(), text: text.to_string() };
        dump.graph().expect_err("a fault").to_string()
    }

    #[test]
    fn faults_have_carets() {
        let found = said("graph \"t\" {\n  layers = 1\n}\n");
        assert!(found.contains("--> g.hyir:1:11") && found.contains("the header needs `"), "{found}");
    }

    /// Whatever the text, a fault lies in it.
    #[test]
    fn places_are_within_the_text() {
        for text in ["", "\n", "é\né", "graph \"é", "graph \"a\" {\r\n}\r\n%x = é", "graph \"t\" { é = 1 }"]
        {
            let places = Places::of(text);
            for line in 0..6 {
                assert!(places.line(text, line).end <= text.len());
                for column in 0..20 {
                    let word = places.word(text, line, column);
                    assert!(text.get(word).is_some(), "{text:?} {line}:{column}");
                }
            }
        }
    }
}
