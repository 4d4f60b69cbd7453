//! Why a pass gave up.

use std::fmt;

use hyc_ir::{Graph, OpId};

/// A graph that a pass cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassError {
    /// The pass.
    pub pass: &'static str,
    /// The op with its results, its layer and its line, where the fault is one op's.
    pub place: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl PassError {
    /// A fault of the graph as a whole.
    pub fn new(pass: &'static str, message: impl Into<String>) -> PassError {
        PassError { pass, place: None, message: message.into(), help: None }
    }

    /// A fault at an op.
    pub fn at(pass: &'static str, graph: &Graph, id: OpId, message: impl Into<String>) -> PassError {
        let data = graph.op(id);
        let results: Vec<String> = data.results.iter().map(|v| format!("%{}", graph.name(*v))).collect();
        let mut place = format!("{} ({})", data.op.name(), results.join(", "));
        if let Some(layer) = data.layer {
            place.push_str(&format!(" of layer {layer}"));
        }
        if let Some(line) = data.line {
            place.push_str(&format!(", line {line}"));
        }
        PassError { place: Some(place), ..PassError::new(pass, message) }
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
        self.place.iter().try_for_each(|place| write!(f, "{place}: "))?;
        f.write_str(&self.message)
    }
}

impl std::error::Error for PassError {}
