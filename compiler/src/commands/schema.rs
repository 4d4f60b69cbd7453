//! `hyc schema`.

use crate::error::Result;
use crate::frontend::keys;

/// Print the JSON schema of model.toml, for editors
///
/// Examples:
///   hyc schema > model-toml.schema.json
///
/// Editors with Taplo use it for a model.toml whose first line is `#:schema ./model-toml.schema.json`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {}

pub fn run(_: Args) -> Result<()> {
    crate::terminal::print(&format!("{:#}\n", keys::schema()))
}
