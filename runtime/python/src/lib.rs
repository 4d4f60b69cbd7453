//! The Python package: what its types do is in `python/hyc/_hyc.pyi`.

mod error;
mod events;
mod floats;
mod generation;
mod model;
mod options;
mod session;

use std::path::PathBuf;

use hyc_kernels::cpu::{CpuTarget, Level};
use pyo3::prelude::*;

use crate::error::{compiled, wrong};

/// Compiles a description with its weights into one file.
#[pyfunction]
#[pyo3(signature = (model, output, *, cpu = "native"))]
fn compile(py: Python<'_>, model: PathBuf, output: PathBuf, cpu: &str) -> PyResult<u64> {
    let level = match cpu {
        "native" => CpuTarget::host().level,
        "v3" => Level::V3,
        "baseline" => Level::Baseline,
        _ => return Err(wrong(format!("there is no cpu `{cpu}`"), "give native, v3 or baseline")),
    };
    // Ctrl-C ends it between two kernels, and between two pieces of the weights.
    let check = || {
        Python::attach(|py| py.check_signals())
            .map_err(|_| hyc::error::Error::new(hyc::error::ErrorKind::Cancelled, "interrupted"))
    };
    let done = py.detach(|| {
        let compiled = hyc::compile::compile(&model, level, &check)?;
        let mut kept = hyc::output::Kept::of_process();
        kept.add("the description", &model);
        let target = hyc::output::Target::new(&output, &kept)?;
        compiled.write(&target, &mut |_| check())
    });
    done.map_err(
        |error| if error.kind == hyc::error::ErrorKind::Cancelled { interrupted() } else { compiled(error) },
    )
}

fn interrupted() -> PyErr {
    pyo3::exceptions::PyKeyboardInterrupt::new_err(())
}

/// The module `hyc._hyc`.
#[pymodule]
fn _hyc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("Error", module.py().get_type::<error::Error>())?;
    module.add_class::<events::Event>()?;
    module.add_class::<floats::Floats>()?;
    module.add_class::<model::Model>()?;
    module.add_class::<session::Session>()?;
    module.add_class::<generation::Generation>()?;
    module.add_class::<generation::Batch>()?;
    module.add_function(wrap_pyfunction!(compile, module)?)?;
    module.add_function(wrap_pyfunction!(model::load, module)?)
}
