//! `hyc explain`.

use crate::error::{Error, ErrorKind, Result};
use crate::frontend::explain;

/// Say what a key of model.toml means: type, default, formula, tensors
///
/// Examples:
///   hyc explain                    every section and key in a line
///   hyc explain attention          a section
///   hyc explain attention.gate     a key, with its formula and the tensors that it adds
///   hyc explain --json moe         the same for a program
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A section, or section.key
    topic: Option<String>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let topic = args.topic.as_deref();
    let text = match args.json {
        true => explain::explain_json(topic).map(super::json),
        false => topic.map_or_else(|| Some(explain::overview()), explain::explain),
    };
    let unknown = || {
        let topic = topic.unwrap_or_default();
        Error::new(ErrorKind::Usage, format!("model.toml has no `{topic}`"))
            .help(explain::explain_hint(topic))
    };
    crate::terminal::print(&text.ok_or_else(unknown)?)
}
