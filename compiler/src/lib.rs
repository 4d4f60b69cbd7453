//! The compiler as a library; the `hyc` command is [`commands`] over it.

pub mod assembler;
mod bandwidth;
mod chosen;
pub mod commands;
pub mod contents;
mod cost;
pub mod diff;
pub mod doctor;
pub mod driver;
#[cfg(feature = "llvm")]
mod emit_gpu;
pub mod error;
pub mod frontend;
pub mod input;
pub mod interp;
mod measure;
pub mod output;
pub mod report;
mod signal;
pub mod source;
pub mod summary;
mod targets;
pub mod terminal;
pub mod text;
mod tree;
mod tuning;
mod variants;
mod view;
mod words;
mod workload;
pub mod write;
