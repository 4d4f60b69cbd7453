//! How a prompt is continued, as keywords.

use hyc_runtime::{GenerateOptions, Sampling, Session};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::error::failed;

/// A prompt: text, or tokens.
pub enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl<'py> FromPyObject<'_, 'py> for Prompt {
    type Error = PyErr;

    /// What is no text is tokens, whose errors say which of them is none.
    fn extract(prompt: Borrowed<'_, 'py, PyAny>) -> PyResult<Prompt> {
        match prompt.cast::<PyString>() {
            Ok(text) => Ok(Prompt::Text(text.to_str()?.to_string())),
            Err(_) => prompt.extract().map(Prompt::Tokens),
        }
    }
}

/// The keywords of a continuation.
#[derive(Default)]
pub struct Wish {
    pub max_new_tokens: usize,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    pub stop_tokens: Vec<u32>,
    pub ignore_eos: bool,
    pub show_special: bool,
}

impl Wish {
    /// What is not said is the model's to say. Errors: out of range.
    pub fn options(self, session: &Session) -> PyResult<GenerateOptions> {
        let own = session.model().sampling_defaults().sampling;
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            ..own
        };
        sampling
            .check()
            .map_err(|e| failed(hyc_runtime::Error::new(hyc_runtime::ErrorKind::BadInput, e.to_string())))?;
        Ok(GenerateOptions {
            max_new_tokens: self.max_new_tokens,
            sampling: Some(sampling),
            seed: self.seed,
            stop: self.stop,
            stop_tokens: self.stop_tokens,
            ignore_eos: self.ignore_eos,
            show_special: self.show_special,
        })
    }
}
