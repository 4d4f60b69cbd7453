//! Errors that point at a place in a text.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

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

/// All faults of one file, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// Path as given.
    pub path: String,
    /// The file's text.
    pub text: String,
    /// The faults.
    pub list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Everything laid out with the lines and carets.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for d in &self.list {
            let snippet = Snippet::source(&self.text)
                .path(&self.path)
                .annotation(AnnotationKind::Primary.span(self.clip(&d.span)).label(&d.label));
            let mut group = Level::ERROR.primary_title(&d.message).element(snippet);
            if let Some(help) = &d.help {
                group = group.element(Level::HELP.message(help));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    /// The span moved onto character boundaries of the text.
    fn clip(&self, span: &Range<usize>) -> Range<usize> {
        let floor = |at: usize| {
            let at = at.min(self.text.len());
            (0..=at).rev().find(|i| self.text.is_char_boundary(*i)).unwrap_or(0)
        };
        let start = floor(span.start);
        start..floor(span.end).max(start)
    }

    /// The 1-based line of a byte offset.
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count()
    }

    /// `[{path, line, message, label, help}]`.
    pub fn to_json(&self) -> serde_json::Value {
        let list = self.list.iter().map(|d| {
            serde_json::json!({
                "path": self.path, "line": self.line(d.span.start),
                "message": d.message, "label": d.label, "help": d.help,
            })
        });
        list.collect()
    }
}
