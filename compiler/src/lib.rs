//! The compiler as a library. The feature `cli` adds the `hyc` command, whose parts are in [`commands`], and all that
//! prints; a build script needs neither.

mod activations;
#[cfg(feature = "cli")]
pub mod assembler;
#[cfg(feature = "cli")]
mod bandwidth;
pub mod by_tasks;
#[cfg(feature = "cli")]
mod chosen;
#[cfg(feature = "cli")]
pub mod commands;
pub mod compile;
pub mod complete;
#[cfg(feature = "cli")]
pub mod contents;
#[cfg(feature = "cli")]
pub mod cost;
pub mod diff;
#[cfg(feature = "cli")]
pub mod doctor;
#[cfg(feature = "cli")]
mod dot;
pub mod driver;
pub mod dump;
#[cfg(feature = "cli")]
mod dumps;
#[cfg(all(feature = "llvm", feature = "cli"))]
mod emit_gpu;
pub mod error;
#[cfg(feature = "cli")]
mod eval;
pub mod frontend;
mod gguf;
#[cfg(feature = "cli")]
pub mod import;
pub mod input;
pub mod interp;
#[cfg(feature = "cli")]
mod made_up;
#[cfg(feature = "cli")]
mod measure;
pub mod object;
#[cfg(feature = "cli")]
mod oracles;
pub mod output;
mod packing;
#[cfg(feature = "cli")]
mod provenance;
#[cfg(feature = "cli")]
pub mod report;
#[cfg(feature = "cli")]
mod selections;
#[cfg(feature = "cli")]
mod signal;
pub mod source;
#[cfg(feature = "cli")]
pub mod summary;
mod targets;
#[cfg(feature = "cli")]
pub mod terminal;
pub mod text;
#[cfg(feature = "cli")]
mod timeline;
mod tree;
#[cfg(feature = "cli")]
mod tuning;
#[cfg(feature = "cli")]
mod variants;
#[cfg(feature = "cli")]
mod view;
mod words;
#[cfg(feature = "cli")]
mod workload;
pub mod write;
