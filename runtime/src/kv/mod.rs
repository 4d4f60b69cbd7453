//! KV caches: how many pages of them there are, whose they are, what a ring still holds, and stored prefixes. Counts and
//! numbers alone: the bytes are the engine's.

mod pages;
mod prefix;
mod ring;
mod room;

pub(crate) use self::pages::PagePool;
pub(crate) use self::prefix::PrefixStore;
pub(crate) use self::ring::{Held, Ring};
pub use self::room::KvRoom;
