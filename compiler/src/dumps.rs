//! What `hyc compile` shows of the passes: the graph after each, and what the last ones decided.

use hyc_ir::Graph;
use hyc_ir::text::{Style, print_as};
use hyc_passes::{Decided, PASSES, PassReport};

/// Which passes are printed.
#[derive(Debug, Clone, Default)]
pub struct Printed {
    /// These.
    pub after: Vec<String>,
    /// All of them.
    pub all: bool,
    /// Those that changed the graph.
    pub changed: bool,
}

impl Printed {
    /// Whether there is anything to print.
    pub fn any(&self) -> bool {
        self.all || self.changed || !self.after.is_empty()
    }

    fn has(&self, report: &PassReport<'_>) -> bool {
        let changed = report.changes > 0 && report.decided.is_none();
        self.all || (self.changed && changed) || self.after.iter().any(|after| after == report.name)
    }
}

/// Collects the text of the passes as they run.
pub struct Dumps {
    /// How graphs are printed.
    style: Style,
    printed: Printed,
    text: String,
    /// The pass whose graph stands last in `text`, if no pass has changed the graph since.
    shown: Option<&'static str>,
    /// A file's content for each pass, the input first, where they are wanted.
    files: Option<Vec<String>>,
}

impl Dumps {
    /// Collects what is printed, and with `files` the text of every file of a folder.
    pub fn new(style: Style, printed: Printed, files: bool, input: &Graph) -> Dumps {
        let files = files.then(|| vec![print_as(input, &style)]);
        Dumps { style, printed, text: String::new(), shown: None, files }
    }

    /// Takes what a pass did.
    pub fn take(&mut self, report: &PassReport<'_>) {
        if report.decided.is_none() && report.changes > 0 {
            self.shown = None;
        }
        if self.printed.has(report) {
            let section = self.section(report);
            self.text.push_str(&section);
        }
        if let Some(files) = &mut self.files {
            files.push(match report.decided {
                None => print_as(report.graph, &self.style),
                Some(decided) => decided.text(report.graph, self.style.layers.as_ref()),
            });
        }
    }

    /// A pass that decides leaves the graph as it was: what it decided stands in comments before the graph, which
    /// is not repeated.
    fn section(&mut self, report: &PassReport<'_>) -> String {
        let PassReport { name, graph, decided, changes, .. } = report;
        let Some(decided) = decided else {
            self.shown = Some(name);
            let what = if *changes == 1 { "change" } else { "changes" };
            return format!("; after {name}: {changes} {what}\n{}\n", print_as(graph, &self.style));
        };
        let mut out = format!("; after {name}: {changes} {}\n", of(decided));
        for line in decided.text(graph, self.style.layers.as_ref()).lines() {
            out.push_str(format!(";   {line}").trim_end());
            out.push('\n');
        }
        match self.shown {
            Some(before) => out.push_str(&format!("; the graph is that after {before}\n\n")),
            None => out.push_str(&format!("{}\n", print_as(graph, &self.style))),
        }
        self.shown = self.shown.or(Some(name));
        out
    }

    /// What is printed, and the content of each of [`names`].
    pub fn done(self) -> (String, Option<Vec<String>>) {
        (self.text, self.files)
    }
}

/// What a pass's changes are.
fn of(decided: &Decided<'_>) -> &'static str {
    match decided {
        Decided::Memory(_) => "buffers",
        Decided::Kernels(_) => "kernels",
        Decided::Plan(_) => "steps",
    }
}

/// Passes that decide and rewrite nothing; the last one's result is the plan.
const DECIDING: [(&str, &str); 3] =
    [("plan-memory", "plan-memory"), ("select-kernels", "select-kernels"), ("schedule", "plan")];

/// The files of a folder of dumps: `00-input.hyir`, one for each pass that rewrites, and what the last ones decided.
pub fn names() -> Vec<String> {
    let file = |(number, pass): (usize, &&str)| match DECIDING.iter().find(|(name, _)| name == pass) {
        Some((_, result)) => format!("{number:02}-{result}.txt"),
        None => format!("{number:02}-{pass}.hyir"),
    };
    std::iter::once("00-input.hyir".to_string()).chain((1..).zip(PASSES).map(file)).collect()
}
