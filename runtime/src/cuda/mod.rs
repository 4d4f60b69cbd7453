//! Executes GPU artefacts through the CUDA driver, whose library is looked for when one is opened.
//!
//! Everything runs on one stream: a kernel sees what those before it wrote. Nothing waits until results are
//! read; an error of a kernel surfaces there.

mod device;
mod executor;

pub use executor::CudaExecutor;
