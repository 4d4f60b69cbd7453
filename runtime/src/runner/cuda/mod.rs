//! Executes GPU artefacts through the CUDA driver, whose library is looked for when one is opened.
//!
//! Everything runs on one stream: a kernel sees what those before it wrote. Nothing waits until results are
//! read; an error of a kernel surfaces there. A pass in which every sequence has one row is captured once as a
//! graph (`graph.rs`) and replayed from then on.

mod device;
mod graph;
mod hang;
mod launcher;
mod limits;
mod lists;
mod module;
mod runner;
mod slices;
mod times;
mod weights;

pub use self::runner::CudaRunner;
