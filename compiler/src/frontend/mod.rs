//! Front ends: each ends in one [`ModelDesc`].

mod attention;
mod build;
mod desc;
mod diagnostic;
mod eval;
pub mod explain;
mod ffn;
mod formats;
pub mod keys;
mod model;
mod model_toml;
mod names;
mod quantise;
mod reader;
mod rope;
mod sampling;
mod sparse;
mod target;
mod tokenizer;
mod weights;

#[cfg(test)]
mod tests;

pub use build::build_graph;
pub use desc::{
    AddSpecial, AttentionDesc, AttentionKind, Ffn, Gate, LayerDesc, ModelDesc, Rope, SparseKv, TargetDesc,
    TemplateSource, TokenName, TokenizerDesc, WeightDtype, WeightsDesc,
};
pub use diagnostic::{Diagnostic, Diagnostics};
pub use model_toml::parse_model;
pub use quantise::{Formats, MatrixFormat};
