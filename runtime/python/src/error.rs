//! Errors as exceptions with `kind` and `help`.

use hyc_runtime::ErrorKind;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    hyc,
    Error,
    PyException,
    "What went wrong: `kind` says whose fault it is, `help` what to do."
);

/// The exception of an error.
fn exception(kind: &str, message: &str, help: Option<&str>) -> PyErr {
    Python::attach(|py| {
        let text = help.map_or_else(|| message.to_string(), |help| format!("{message}\n  help: {help}"));
        let error = Error::new_err(text);
        let value = error.value(py);
        match value.setattr("kind", kind).and_then(|()| value.setattr("help", help)) {
            Ok(()) => error,
            Err(other) => other,
        }
    })
}

/// What a caller gave is wrong.
pub fn wrong(message: impl AsRef<str>, help: &str) -> PyErr {
    exception("bad-input", message.as_ref(), Some(help))
}

/// Another thread is inside.
pub fn busy() -> PyErr {
    let help = "call again when it is through, or give each thread its own session";
    exception("busy", "another thread is inside a call with this session", Some(help))
}

/// The compiler's.
pub fn compiled(error: hyc::error::Error) -> PyErr {
    let text = error.to_string();
    exception("bad-input", text.trim_end(), error.help.as_deref())
}

/// The runtime's.
pub fn failed(error: hyc_runtime::Error) -> PyErr {
    let kind = match error.kind {
        ErrorKind::BadInput => "bad-input",
        ErrorKind::BadArtefact => "bad-artefact",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Resource => "resource",
        ErrorKind::Device => "device",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::BadNumbers => "bad-numbers",
    };
    exception(kind, &error.message, error.help.as_deref())
}
