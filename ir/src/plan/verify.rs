//! The rules of a Plan, checked when it is made and again when an artefact is loaded.

use super::Plan;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// Where: a step's name, a buffer, ...
    pub place: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

pub(super) fn verify(_plan: &Plan) -> Result<(), Vec<PlanError>> {
    Ok(())
}
