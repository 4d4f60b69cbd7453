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
#[pyclass(frozen)]
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

    fn done(&self) -> Generated {
        self.continuation().so_far().clone()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.own {
            let id = self.continuation().sequence();
            // Nobody else has its id to remove it.
            let _ = self.cell.wait().session.remove_sequence(id);
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
        Ok(self.done().text)
    }

    /// The new tokens so far.
    #[getter]
    fn tokens(&self) -> Vec<u32> {
        self.done().tokens
    }

    /// The text so far.
    #[getter]
    fn text(&self) -> String {
        self.done().text
    }

    /// Why it ended.
    #[getter]
    fn finish(&self) -> &'static str {
        finish(self.done().finish)
    }

    /// The seed that repeats it.
    #[getter]
    fn seed(&self) -> u64 {
        self.done().seed
    }

    /// `logits` or `hidden` of the last step.
    fn output(&self, py: Python<'_>, name: &str) -> PyResult<Floats> {
        let id = self.continuation().sequence();
        let row = py.detach(|| self.cell.enter()?.session.output(id, name).map_err(failed));
        row.map(Floats::new)
    }
}

/// Continuations of several prompts: an iterator over whose event it is, and the event or what went wrong.
#[pyclass(frozen)]
pub struct Batch {
    cell: Arc<Cell>,
    all: Mutex<Continuations<Arc<Tokenizer>>>,
}

impl Batch {
    /// A batch that has not begun.
    pub fn new(cell: Arc<Cell>, all: Continuations<Arc<Tokenizer>>) -> Batch {
        Batch { cell, all: Mutex::new(all) }
    }

    fn all(&self) -> MutexGuard<'_, Continuations<Arc<Tokenizer>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut inside = self.cell.wait();
        self.all().end(&mut inside.session);
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
        let all = self.all();
        let token = all.cancel_token(index);
        token.ok_or_else(|| wrong(format!("the batch has no prompt {index}"), "count them from 0"))?.cancel();
        Ok(())
    }

    /// Runs to the end: of each prompt its text, or what went wrong.
    fn run(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        while self.__next__(py)?.is_some() {}
        let all = self.all();
        let of = |done: &hyc_runtime::Result<Generated>| match done {
            Ok(done) => done.text.clone().into_py_any(py),
            Err(error) => Ok(object(py, error.clone())),
        };
        all.results().iter().map(of).collect()
    }
}
