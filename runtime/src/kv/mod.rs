//! KV caches: how many pages of them there are, and whose they are.

mod room;

pub use self::room::KvRoom;
