//! Events.

use hyc_runtime::{Event as Of, Finish};
use pyo3::prelude::*;

/// What happens in a continuation.
#[pyclass(frozen, module = "hyc")]
pub struct Event(pub Of);

/// Why a continuation ended.
pub fn finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Length => "length",
        Finish::Stop => "stop",
        Finish::Context => "context",
    }
}

#[pymethods]
impl Event {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            Of::Prefill { .. } => "prefill",
            Of::Token(_) => "token",
            Of::Text(_) => "text",
            Of::End(_) => "end",
        }
    }

    #[getter]
    fn token(&self) -> Option<u32> {
        if let Of::Token(token) = self.0 { Some(token) } else { None }
    }

    #[getter]
    fn text(&self) -> Option<&str> {
        if let Of::Text(text) = &self.0 { Some(text) } else { None }
    }

    #[getter]
    fn done(&self) -> Option<u64> {
        if let Of::Prefill { done, .. } = self.0 { Some(done) } else { None }
    }

    #[getter]
    fn total(&self) -> Option<u64> {
        if let Of::Prefill { total, .. } = self.0 { Some(total) } else { None }
    }

    #[getter]
    fn finish(&self) -> Option<&'static str> {
        if let Of::End(of) = self.0 { Some(finish(of)) } else { None }
    }

    fn __repr__(&self) -> String {
        format!("Event({:?})", self.0)
    }
}
