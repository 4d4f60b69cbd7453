//! Continuations as iterators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyc_runtime::{CancelToken, Continuation, Continuations, Generated, Tokenizer};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::error::{failed, wrong};
use crate::events::{Event, finish};
use crate::floats::Floats;
use crate::session::Cell;

/// A continuation: an iterator over its events.
#[pyclass(frozen, module = "hyc")]
pub struct Generation {
    cell: Arc<Cell>,
    continuation: Mutex<Continuation<Arc<Tokenizer>>>,
    cancel: CancelToken,
    /// Whether its sequence leaves the session with it.
    own: bool,
}

impl Generation {
    /// A continuation that has begun.
    pub fn new(cell: Arc<Cell>, continuation: Continuation<Arc<Tokenizer>>, own: bool) -> Generation {
        let cancel = continuation.cancel_token().clone();
        Generation { cell, continuation: Mutex::new(continuation), cancel, own }
    }

    fn continuation(&self) -> MutexGuard<'_, Continuation<Arc<Tokenizer>>> {
        self.continuation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has made so far. The interpreter goes on while another thread's step is waited for.
    fn done(&self, py: Python<'_>) -> Generated {
        py.detach(|| self.continuation().so_far().clone())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.own {
            let id = self.continuation().sequence();
            // Nobody else has its id to remove it.
            self.cell.leave(Box::new(move |session| _ = session.remove_sequence(id)));
        }
    }
}

#[pymethods]
impl Generation {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// The next event; between two of a prompt's chunks Ctrl-C is looked for.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Event>> {
        py.check_signals()?;
        let next = py.detach(|| {
            let mut inside = self.cell.enter()?;
            self.continuation().next(&mut inside.session).map_err(failed)
        });
        Ok(next?.map(Event))
    }

    /// Asks it to stop, from any thread.
    fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Runs to the end, and gives the text.
    fn run(&self, py: Python<'_>) -> PyResult<String> {
        while self.__next__(py)?.is_some() {}
        Ok(self.done(py).text)
    }

    /// The new tokens so far.
    #[getter]
    fn tokens(&self, py: Python<'_>) -> Vec<u32> {
        self.done(py).tokens
    }

    /// The text so far.
    #[getter]
    fn text(&self, py: Python<'_>) -> String {
        self.done(py).text
    }

    /// Why it ended.
    #[getter]
    fn finish(&self, py: Python<'_>) -> &'static str {
        finish(self.done(py).finish)
    }

    /// The seed that repeats it.
    #[getter]
    fn seed(&self, py: Python<'_>) -> u64 {
        self.done(py).seed
    }

    /// `logits` or `hidden` of the last step.
    fn output(&self, py: Python<'_>, name: &str) -> PyResult<Floats> {
        let row = py.detach(|| {
            let inside = self.cell.enter()?;
            let id = self.continuation().sequence();
            inside.session.output(id, name).map_err(failed)
        });
        row.map(Floats::new)
    }
}

/// Continuations of several prompts: an iterator over whose event it is, and the event or what went wrong.
#[pyclass(frozen, module = "hyc")]
pub struct Batch {
    cell: Arc<Cell>,
    all: Arc<Mutex<Continuations<Arc<Tokenizer>>>>,
    /// By the prompts' indices.
    cancel: Vec<CancelToken>,
}

impl Batch {
    /// A batch that has not begun.
    pub fn new(cell: Arc<Cell>, all: Continuations<Arc<Tokenizer>>) -> Batch {
        let cancel = (0..).map_while(|index| all.cancel_token(index).cloned()).collect();
        Batch { cell, all: Arc::new(Mutex::new(all)), cancel }
    }

    fn all(&self) -> MutexGuard<'_, Continuations<Arc<Tokenizer>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let all = self.all.clone();
        self.cell
            .leave(Box::new(move |session| all.lock().unwrap_or_else(PoisonError::into_inner).end(session)));
    }
}

/// An error as an object.
fn object(py: Python<'_>, error: hyc_runtime::Error) -> Py<PyAny> {
    failed(error).into_value(py).into_any()
}

#[pymethods]
impl Batch {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<(usize, Py<PyAny>)>> {
        py.check_signals()?;
        let next = py.detach(|| {
            let mut inside = self.cell.enter()?;
            PyResult::Ok(self.all().next(&mut inside.session))
        });
        match next? {
            None => Ok(None),
            Some((index, Ok(event))) => Ok(Some((index, Event(event).into_py_any(py)?))),
            Some((index, Err(error))) => Ok(Some((index, object(py, error)))),
        }
    }

    /// Asks the prompt of an index to stop.
    fn cancel(&self, index: usize) -> PyResult<()> {
        let token = self.cancel.get(index);
        token.ok_or_else(|| wrong(format!("the batch has no prompt {index}"), "count them from 0"))?.cancel();
        Ok(())
    }

    /// Runs to the end: of each prompt its text, or what went wrong.
    fn run(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        while self.__next__(py)?.is_some() {}
        let results = py.detach(|| self.all().results().to_vec());
        let of = |done: &hyc_runtime::Result<Generated>| match done {
            Ok(done) => done.text.clone().into_py_any(py),
            Err(error) => Ok(object(py, error.clone())),
        };
        results.iter().map(of).collect()
    }
}
