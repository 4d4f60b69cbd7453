//! The graph IR of `hyc` and the Plan it becomes.

pub mod abi;
pub mod plan;
