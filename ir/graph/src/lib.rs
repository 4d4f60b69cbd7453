//! The graph IR of `hyc`: types, ops with their roles, text form, verifier. What it becomes is [`hyc_plan`]'s.

mod attr;
mod described;
pub mod graph;
pub mod op;
mod order;
pub mod reference;
pub mod roles;
pub mod text;
pub mod types;
pub mod verify;

pub use graph::{Graph, Header, OpData, OpId, Place, ValueId};
pub use op::{Attr, Op};
pub use types::{CacheType, Dim, ListsType, SelectionType, Sym, Type};
