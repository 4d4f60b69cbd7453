//! Why a pass gave up.

use std::fmt;

use hyc_ir::{Graph, OpId};

/// A graph that a pass cannot take, or that a pass has broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassError {
    /// The pass.
    pub pass: &'static str,
    /// The op with its results, where the fault is one op's.
    pub op: Option<String>,
    /// The op's layer.
    pub layer: Option<u32>,
    /// The line of the text that the op was parsed from.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl PassError {
    /// A fault of the graph as a whole.
    pub fn new(pass: &'static str, message: impl Into<String>) -> PassError {
        PassError { pass, op: None, layer: None, line: None, message: message.into(), help: None }
    }

    /// A fault at an op.
    pub fn at(pass: &'static str, graph: &Graph, id: OpId, message: impl Into<String>) -> PassError {
        let data = graph.op(id);
        let results: Vec<String> = data.results.iter().map(|v| format!("%{}", graph.name(*v))).collect();
        let op = match results.is_empty() {
            true => data.op.name().to_string(),
            false => format!("{} = {}", results.join(", "), data.op.name()),
        };
        PassError { op: Some(op), layer: data.layer, line: data.line, ..PassError::new(pass, message) }
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> PassError {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for PassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.pass)?;
        self.line.iter().try_for_each(|line| write!(f, "line {line}: "))?;
        self.layer.iter().try_for_each(|layer| write!(f, "layer {layer}: "))?;
        self.op.iter().try_for_each(|op| write!(f, "{op}: "))?;
        f.write_str(&self.message)
    }
}

impl std::error::Error for PassError {}

/// The first of many faults, and how many more there are.
pub fn listed<T: fmt::Display>(faults: &[T]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = faults.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = faults.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    shown.join("; ") + &more
}
