//! The graph IR of `hyc` and the Plan it becomes.

pub mod abi;
pub mod artefact;
pub mod bind;
pub mod graph;
pub mod op;
mod order;
pub mod pack;
pub mod plan;
pub mod roles;
pub mod sample;
pub mod sampling;
pub mod text;
pub mod text_settings;
pub mod types;
pub mod verify;

pub use graph::{Graph, Header, MAX_LAYERS, OpData, OpId, Place, ValueId};
pub use op::{Attr, Op};
pub use types::{CacheType, Dim, SelectionType, Sym, Type};

/// Whether a number is above zero and finite as an f32, too: what an eps and RoPE's base must be.
pub fn is_positive_f32(x: f64) -> bool {
    x as f32 > 0.0 && (x as f32).is_finite()
}
