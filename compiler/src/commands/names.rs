//! `--rename` and `--ignore`: a description's keys of that name, for a dump.

use crate::error::{Error, ErrorKind, Result};
use crate::frontend::ModelDesc;
use crate::source::{Names, Pattern, Rename};

/// From the names in the weight files to the model's.
#[derive(Debug, Clone, clap::Args)]
pub struct NameArgs {
    /// For a dump: what tensors are called in the files and in the model, as `h.{i}.w=model.layers.{i}.w`; a
    /// model.toml says it under [weights] (may be repeated)
    #[arg(long, value_name = "FROM=TO")]
    rename: Vec<String>,
    /// For a dump: tensors of the files to leave out, as `*.inv_freq` (may be repeated)
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
}

impl NameArgs {
    /// What the description says, or the arguments for a dump. Errors: both; faulty patterns.
    pub fn or_of(&self, desc: Option<&ModelDesc>) -> Result<Names> {
        let given = !self.rename.is_empty() || !self.ignore.is_empty();
        match desc {
            Some(desc) if !given => return Ok(desc.weights.names.clone()),
            Some(_) => {
                let message = "`--rename` and `--ignore` are for dumps";
                return Err(Error::new(ErrorKind::Usage, message)
                    .help("write `rename` and `ignore` under [weights] in the model.toml"));
            }
            None => {}
        }
        let fault = |flag: &str, text: &str, fault: String| {
            Error::new(ErrorKind::Usage, format!("{flag} {text}: {fault}"))
        };
        let mut names = Names::default();
        for text in &self.rename {
            let pair = text.split_once('=').ok_or("write FROM=TO".to_string());
            let rename = pair.and_then(|(from, to)| Rename::parse(from, to));
            names.rename.push(rename.map_err(|e| fault("--rename", text, e))?);
        }
        for text in &self.ignore {
            names.ignore.push(Pattern::parse(text).map_err(|e| fault("--ignore", text, e))?);
        }
        Ok(names)
    }
}
