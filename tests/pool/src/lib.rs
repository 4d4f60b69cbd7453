//! The runtime's pool, its own source on loom's atomics and threads: `cargo test -p hyc-pool-tests` runs the tests of
//! `runtime/src/pool/tests.rs` that are marked for it in every order of events that has at most three switches of a thread that could run on (one with most threads).

#[path = "../../../runtime/src/pool/mod.rs"]
pub mod pool;
