//! What a report of another command says it is of.

use hyc_plan::Plan;
use serde::Deserialize;

use crate::words::shortened;

/// The keys that each report begins with.
#[derive(Deserialize)]
pub struct Head {
    schema: u64,
    model: String,
    target: String,
}

impl Head {
    /// Whether it is of that schema and of the model that is shown. Errors: a sentence; `did` is what the report did to its
    /// model.
    pub fn check(&self, schema: u64, plan: &Plan, did: &str) -> Result<(), String> {
        if self.schema != schema {
            return Err(format!("its schema is {}, this hyc reads {schema}", self.schema));
        }
        let (name, target) = (&plan.model.name, plan.target.kind().name());
        if self.model != *name || self.target != target {
            let (model, on) = (shortened(&self.model), shortened(&self.target));
            return Err(format!("it {did} `{model}` on {on}, shown is `{name}` for {target}"));
        }
        Ok(())
    }
}
