//! Memory that kernels work on, and how much of it there is.

mod block;
mod machine;

pub(crate) use self::block::Aligned;
pub use self::block::Block;
#[cfg(feature = "cuda")]
pub(crate) use self::block::inside;
pub use self::machine::{Free, Machine};
