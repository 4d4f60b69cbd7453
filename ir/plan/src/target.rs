//! What code is made for.

use serde::{Deserialize, Serialize};

/// What the code was made for; checked when an artefact is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// `cpu` or `sm_90a`.
    pub kind: String,
    /// Host architecture of CPU code, as Rust names it (`x86_64`); empty for a plan without code.
    pub arch: String,
    /// CPU features that the code uses, as Rust names them (`avx2`, `fma`, ...).
    pub features: Vec<String>,
}
