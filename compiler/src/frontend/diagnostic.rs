//! Errors that point at a place in a text.
//!
//! However long the text, its lines and its list of faults: what is shown is bounded, and laid out in one pass
//! over the text and one look at each fault.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};

use crate::words::{place, shortened};

/// Faults that are shown, and kept; the others are counted.
pub const MOST: usize = 100;
/// Bytes of a line that is shown whole; of a longer one a piece of that length.
const LONG_LINE: usize = 200;
/// Of that piece, bytes before the fault.
const LEAD: usize = 60;
/// Lines of a fault that spans several; a longer one points at its first line.
const MOST_LINES: usize = 8;

/// One fault of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// Byte range in the text.
    pub span: Range<usize>,
    /// What stands at the caret.
    pub label: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// The faults of one file, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// Path as given.
    pub path: String,
    /// The file's text.
    pub text: String,
    /// The faults, at most `MOST`.
    pub list: Vec<Diagnostic>,
    /// Faults beyond these.
    pub more: usize,
}

impl Diagnostics {
    /// The first faults of a file, at most `MOST`.
    pub fn new(path: String, text: String, faults: impl IntoIterator<Item = Diagnostic>) -> Diagnostics {
        let mut faults = faults.into_iter();
        let list = faults.by_ref().take(MOST).collect();
        Diagnostics { path, text, list, more: faults.count() }
    }

    /// Everything laid out with the lines and carets.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let (lines, path) = (Lines::of(&self.text), place(Path::new(&self.path)));
        let mut out = String::new();
        for d in &self.list {
            let piece = lines.piece(&self.text, &d.span);
            let (message, label) = (shortened(&d.message), shortened(&d.label));
            let snippet = Snippet::source(piece.text)
                .line_start(piece.line)
                .annotation(AnnotationKind::Primary.span(piece.span).label(&*label));
            let title = Level::ERROR.primary_title(&*message);
            let mut group = match piece.column {
                None => title.element(snippet.path(&path)),
                Some(column) => title.element(origin(&path, piece.line, column)).element(snippet),
            };
            let help = d.help.as_deref().map(shortened);
            if let Some(help) = &help {
                group = group.element(Level::HELP.message(&**help));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        if self.more > 0 {
            out.push_str(&format!("\nand {} more\n", self.more));
        }
        out
    }

    /// `[{path, line, message, label, help}]`.
    pub fn to_json(&self) -> serde_json::Value {
        let lines = Lines::of(&self.text);
        let list = self.list.iter().map(|d| {
            serde_json::json!({
                "path": self.path, "line": 1 + lines.index(d.span.start), "message": shortened(&d.message),
                "label": shortened(&d.label), "help": d.help.as_deref().map(shortened),
            })
        });
        list.collect()
    }
}

fn origin(path: &str, line: usize, column: usize) -> Origin<'_> {
    Origin::path(path).line(line).char_column(column)
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

/// What is shown of a text.
struct Piece<'t> {
    text: Cow<'t, str>,
    /// Number of its first line, from 1.
    line: usize,
    /// The fault in it.
    span: Range<usize>,
    /// Column of the fault in its whole line, from 1, where the piece is not the whole line.
    column: Option<usize>,
}

impl Lines {
    fn of(text: &str) -> Lines {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Lines(std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect())
    }

    /// The line that holds a byte, from 0.
    fn index(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// The bytes of a line, without its end.
    fn range(&self, text: &str, index: usize) -> Range<usize> {
        let start = self.0[index];
        let end = self.0.get(index + 1).map_or(text.len(), |next| next - 1);
        start..end.max(start)
    }

    /// The lines around a fault.
    fn piece<'t>(&self, text: &'t str, span: &Range<usize>) -> Piece<'t> {
        let start = text.floor_char_boundary(span.start.min(text.len()));
        let end = text.floor_char_boundary(span.end.min(text.len())).max(start);
        let (first, last) = (self.index(start), self.index(end));
        let whole = self.range(text, first).start..self.range(text, last).end;
        if last - first < MOST_LINES && (first..=last).all(|i| self.range(text, i).len() <= LONG_LINE) {
            let span = start - whole.start..end - whole.start;
            return Piece { text: text[whole].into(), line: first + 1, span, column: None };
        }
        let line = self.range(text, first);
        let start = start.min(line.end);
        let from = text.ceil_char_boundary(start.saturating_sub(LEAD).max(line.start));
        let to = text.floor_char_boundary((from + LONG_LINE).min(line.end)).max(start);
        let lead = if from > line.start { "... " } else { "" };
        let tail = if to < line.end { " ..." } else { "" };
        let shift = |at: usize| at.clamp(start, to) - from + lead.len();
        Piece {
            text: format!("{lead}{}{tail}", &text[from..to]).into(),
            line: first + 1,
            span: shift(start)..shift(end),
            column: Some(1 + text[line.start..start].chars().count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::parse_model;
    use std::time::{Duration, Instant};

    fn faults(text: String) -> String {
        let found = parse_model(Path::new("model.toml"), &text).expect_err("a fault");
        assert!(found.list.len() <= MOST);
        assert_eq!(found.to_json().as_array().map(Vec::len), Some(found.list.len()));
        found.render(false)
    }

    /// A megabyte of faults takes no time and gives no flood.
    #[test]
    fn output_is_bounded_whatever_the_text() {
        let mega = 1 << 20;
        let texts = [
            "= =\n".repeat(mega / 4),
            "= = ".repeat(mega / 4),
            "\"\n".repeat(mega / 2),
            "é=[".repeat(mega / 4),
            format!("[model]\n{} = 3\n", "a".repeat(mega)),
            format!("[model]\nlayers = \"{}\"\n", "é".repeat(mega / 2)),
            format!("[model]\nlayers = 4\n[attention]\nfull = [{}0]\n", "9, ".repeat(mega / 3)),
            format!("[model]\nlayers = 4\n[attention]\nfull = [\n{}0]\n", "9,\n".repeat(mega / 3)),
            (0..mega / 10).map(|i| format!("k{i} = 1\n")).collect(),
            format!("[model]\n{}", (0..mega / 10).map(|i| format!("k{i} = 1\n")).collect::<String>()),
        ];
        for text in texts {
            let (begin, start) = (text[..20].to_string(), Instant::now());
            let out = faults(text);
            assert!(out.len() < 100_000, "{begin:?}: {} bytes", out.len());
            // A fiftieth of it on a quiet machine; what this is to see took minutes.
            assert!(start.elapsed() < Duration::from_secs(20), "{begin:?}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn a_long_line_is_shown_in_part() {
        let text = format!("[model]\nlayers = \"{}\" # {}\n", "x".repeat(10), "y".repeat(5000));
        let out = faults(text);
        assert!(out.contains("--> model.toml:2:10"), "{out}");
        assert!(out.contains("layers = \"xxxxxxxxxx\"") && out.contains("...\n"), "{out}");
        let text = format!("[model] # \nlayers = [{}] # z\n", "[], ".repeat(3000));
        assert!(faults(text).lines().all(|line| line.len() < 1000));
    }

    /// A path cannot act on a terminal, nor look like a message of its own.
    #[test]
    fn a_path_is_spelt_out() {
        let path = Path::new("a\x1b]0;title\x07\nerror: b.toml");
        let text = |text: &str| parse_model(path, text).expect_err("a fault").render(false);
        for out in [text("[model]\n"), text(&format!("[model] # {}\nx", "y".repeat(5000)))] {
            assert!(out.contains("--> a\\u{1b}]0;title\\u{7}\\u{a}error: b.toml:"), "{out}");
            assert!(!out.contains(['\x1b', '\x07']) && !out.contains("\nerror: b.toml"), "{out}");
        }
        let long = parse_model(Path::new(&"p".repeat(1 << 20)), "[model]\n").expect_err("a fault");
        assert!(long.render(false).len() < 50_000);
    }

    #[test]
    fn the_rest_is_counted() {
        let out = faults((0..250).map(|i| format!("k{i} = 1\n")).collect());
        assert!(out.ends_with("and 152 more\n"), "{out}");
    }
}
