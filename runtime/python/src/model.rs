//! Models.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use hyc_runtime::{LoadOptions, MemoryPlan, Model as Of, SessionOptions, Storage, Tokenizer, Verify};
use pyo3::prelude::*;

use crate::error::{failed, wrong};
use crate::interrupted;
use crate::session::Session;

/// A loaded model; threads share it.
#[pyclass(frozen, module = "hyc")]
pub struct Model {
    pub model: Arc<Of>,
    tokenizer: OnceLock<Result<Arc<Tokenizer>, hyc_runtime::Error>>,
}

impl Model {
    /// Errors: the model has no tokenizer.
    pub fn tokenizer(&self) -> PyResult<Arc<Tokenizer>> {
        let tokenizer = self.tokenizer.get_or_init(|| Tokenizer::of(&self.model).map(Arc::new));
        tokenizer.clone().map_err(failed)
    }
}

/// Loads a compiled model.
#[pyfunction]
#[pyo3(signature = (path, *, verify = "on-read", copied = false, random_weights = None))]
pub fn load(
    py: Python<'_>,
    path: PathBuf,
    verify: &str,
    copied: bool,
    random_weights: Option<u64>,
) -> PyResult<Model> {
    let verify = match verify {
        "on-read" => Verify::OnRead,
        "full" => Verify::Full,
        "never" => Verify::Header,
        _ => {
            return Err(wrong(
                format!("there is no way `{verify}` to verify"),
                "give on-read, full or never",
            ));
        }
    };
    let storage = if copied { Storage::Copied } else { Storage::Mapped };
    let options = LoadOptions { verify, storage, random_weights, ..LoadOptions::default() };
    let mut going_on = |_, _| Python::attach(|py| py.check_signals()).is_ok();
    // SAFETY: the documentation of `load` hands the promise on: an artefact is a program, and is not written to.
    let model = py.detach(|| unsafe { Of::load_observed(path, &options, &mut going_on) });
    match model {
        Ok(model) => Ok(Model { model: Arc::new(model), tokenizer: OnceLock::new() }),
        Err(error) if error.kind == hyc_runtime::ErrorKind::Cancelled => Err(interrupted()),
        Err(error) => Err(failed(error)),
    }
}

fn options(threads: Option<usize>, max_sequences: Option<u64>, max_tokens: Option<u64>) -> SessionOptions {
    SessionOptions { threads, max_sequences, max_tokens, ..SessionOptions::default() }
}

#[pymethods]
impl Model {
    #[getter]
    fn name(&self) -> &str {
        &self.model.plan().model.name
    }

    #[getter]
    fn vocab(&self) -> u64 {
        self.model.plan().model.vocab
    }

    #[getter]
    fn layers(&self) -> u32 {
        self.model.plan().model.layers
    }

    #[getter]
    fn block(&self) -> u64 {
        self.model.plan().model.page
    }

    #[getter]
    fn max_context(&self) -> u64 {
        self.model.plan().model.max_context
    }

    #[getter]
    fn max_batch(&self) -> u64 {
        self.model.plan().model.max_batch
    }

    /// The plan, as `hyc inspect MODEL plan --json` has it.
    #[getter]
    fn plan<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = serde_json::to_string(self.model.plan())
            .map_err(|e| wrong(e.to_string(), "report this bug of hyc"))?;
        py.import("json")?.call_method1("loads", (json,))
    }

    /// The scheduled graph's text.
    #[getter]
    fn graph(&self) -> Option<&str> {
        self.model.graph_text()
    }

    /// Tokens of a prompt, or of a bare text.
    #[pyo3(signature = (text, *, bare = false))]
    fn encode(&self, text: &str, bare: bool) -> PyResult<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        if bare { tokenizer.encode_bare(text) } else { tokenizer.encode(text) }.map_err(failed)
    }

    /// Text of tokens, without the special ones.
    fn decode(&self, tokens: Vec<u32>) -> PyResult<String> {
        self.tokenizer()?.decode(&tokens).map_err(failed)
    }

    /// Bytes that such a session would take.
    #[pyo3(signature = (*, threads = None, max_sequences = None, max_tokens = None))]
    fn session_bytes(
        &self,
        threads: Option<usize>,
        max_sequences: Option<u64>,
        max_tokens: Option<u64>,
    ) -> PyResult<u64> {
        let options = options(threads, max_sequences, max_tokens);
        MemoryPlan::of(&self.model, &options).map(|plan| plan.total()).map_err(failed)
    }

    /// Sets up a session.
    #[pyo3(signature = (*, threads = None, max_sequences = None, max_tokens = None))]
    fn session(
        slf: Bound<'_, Self>,
        threads: Option<usize>,
        max_sequences: Option<u64>,
        max_tokens: Option<u64>,
    ) -> PyResult<Session> {
        let (options, model) = (options(threads, max_sequences, max_tokens), slf.get().model.clone());
        let mut going_on = |_, _| Python::attach(|py| py.check_signals()).is_ok();
        let made = slf.py().detach(|| hyc_runtime::Session::new_observed(model, &options, &mut going_on));
        match made {
            Ok(session) => Ok(Session::new(session, slf.unbind())),
            Err(error) if error.kind == hyc_runtime::ErrorKind::Cancelled => Err(interrupted()),
            Err(error) => Err(failed(error)),
        }
    }
}
