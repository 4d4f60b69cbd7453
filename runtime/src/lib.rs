//! Loads a `hyc` artefact and runs it; contains no compiler.
//!
//! ```
//! use hyc_runtime::{Event, Model, Session, Tokenizer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = hyc_handmade::Parts::new().with_code().with_tokenizer().save(folder.path());
//! // SAFETY: our own `hyc compile` wrote it, and nobody writes to it while it is in use.
//! let model = unsafe { Model::load(path, &Default::default()) }?;
//! let tokenizer = Tokenizer::of(&model)?;
//! let mut session = Session::new(model, &Default::default())?;
//! for event in session.generate(&tokenizer, &tokenizer.encode("a")?, &Default::default())? {
//!     if let Event::Text(text) = event? {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Whatever runs a model keeps it alive: sessions of one model share it as an `Arc<Model>` and go where they are sent, to
//! other threads too. A model may be a file, bytes in memory ([`Model::from_static`], [`Model::from_owner`]), or a part of
//! the program ([`linked_model!`]).
//!
//! A [`Session`] holds several sequences at once: [`Session::add_sequence`], [`Session::feed`], [`Session::step`], and on
//! top of these [`Session::generate`], [`Session::generate_in`] for a second turn, and [`Session::generate_batch`].
//! Sequences that begin alike share that part: [`Session::fork`], [`Session::truncate`], [`Session::save_prefix`]. Logits
//! and hidden states are read by name ([`Session::output`]). What a session takes of memory is known before anything is
//! allocated ([`MemoryPlan::of`]). The types of a plan are in [`plan`].

#[cfg(feature = "chat")]
mod chat;
mod engine;
mod error;
mod file;
#[cfg(feature = "text")]
mod generate;
mod history;
mod kv;
mod memory;
mod memory_plan;
mod model;
mod options;
mod pool;
mod random_weights;
mod runner;
mod sampling;
mod session;
mod step_input;
#[cfg(feature = "text")]
mod text_stream;
#[cfg(feature = "text")]
mod tokenizer;

#[cfg(feature = "chat")]
pub use chat::{ChatTemplate, Message};
pub use engine::{Engine, Values};
pub use error::{Error, ErrorKind, Result};
pub use file::open_file;
#[cfg(feature = "stream")]
pub use generate::EventStream;
#[cfg(feature = "text")]
pub use generate::{
    Batch, CancelToken, Continuation, Continuations, Event, Finish, GenerateOptions, Generated, Generation,
    Prompt, generate, generate_in,
};
/// The plan, and all that its types lead to: who uses this crate needs no other to name them.
pub use hyc_plan as plan;
pub use hyc_plan::abi::StepContext;
pub use hyc_plan::sample::{SampleParams, Seen};
pub use hyc_plan::sampling::OutOfRange;
pub use hyc_plan::text_settings::TextSettings;
pub use hyc_plan::{BufferId, Cache, CacheId, KernelSpec, Layout, ModelInfo, Plan, Step, WeightId};
pub use kv::KvRoom;
pub use memory::{Block, Free, Machine};
pub use memory_plan::MemoryPlan;
pub use model::{Linked, LoadOptions, Model, ModelId, Storage, Verify};
pub use options::{GpuOptions, SessionOptions};
pub use runner::{
    Clock, DeviceMemory, HostMemory, HostRunner, Kernels, LaunchTimes, Memory, NativeKernels, Runner,
    StepCall, open_runner,
};
pub use sampling::{Sampler, Sampling, SamplingDefaults, random_seed};
pub use session::{SampledOutput, SequenceId, Session, StepOutput};
pub use step_input::StepInput;
#[cfg(feature = "text")]
pub use text_stream::TextStream;
#[cfg(feature = "text")]
pub use tokenizer::Tokenizer;
