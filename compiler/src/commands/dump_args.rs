//! What `hyc compile` shows of its passes: which, how much of each graph, and where.

use std::path::PathBuf;

use hyc_ir::Graph;
use hyc_ir::text::{Layers, Style};
use hyc_passes::PASSES;

use crate::dumps::{Dumps, Printed};
use crate::error::{Error, ErrorKind, Result};

#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// Print the graph after this pass (may be repeated)
    #[arg(long, value_name = "PASS", conflicts_with = "emit")]
    print_ir_after: Vec<String>,
    /// Print the graph after every pass
    #[arg(long, conflicts_with = "emit")]
    print_ir_after_all: bool,
    /// Print the graph after each pass that changed it
    #[arg(long, conflicts_with = "emit")]
    print_ir_after_change: bool,
    /// Write 00-input.hyir, the graph after each pass, and what the last passes decided into this folder
    #[arg(long, value_name = "DIR")]
    pub dump_dir: Option<PathBuf>,
    /// Only the ops of these layers, in what is printed and in `--emit graph` and `dot`: 5, 12-13 or 0-2,7
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,
    /// Each weight as an op of its own, in place of a line for all weights of a kind
    #[arg(long)]
    weights_in_ir: bool,
}

impl DumpArgs {
    /// Whether anything is printed.
    pub fn prints(&self) -> bool {
        self.printed().any()
    }

    fn printed(&self) -> Printed {
        Printed {
            after: self.print_ir_after.clone(),
            all: self.print_ir_after_all,
            changed: self.print_ir_after_change,
        }
    }

    /// Errors: a pass that there is not; a flag without effect, where `graph` says whether the graph is emitted, and
    /// `dot` whether it is drawn.
    pub fn check(&self, graph: bool, dot: bool) -> Result<()> {
        if let Some(name) = self.print_ir_after.iter().find(|name| !PASSES.contains(&name.as_str())) {
            return Err(Error::new(ErrorKind::Usage, format!("no pass is named `{name}`"))
                .help(format!("the passes are: {}", PASSES.join(", "))));
        }
        let text = graph || self.prints() || self.dump_dir.is_some();
        let idle = match (self.layers.is_some() && !text && !dot, self.weights_in_ir && !text) {
            (true, _) => "--layers",
            (_, true) => "--weights-in-ir",
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::Usage, format!("`{idle}` has no meaning here: no graph is shown"))
            .help("it goes with `--print-ir-after`, `--dump-dir` and `--emit graph`"))
    }

    /// How graphs of this model are printed. Errors: layers that are badly written, or that it does not have.
    pub fn style(&self, graph: &Graph) -> Result<Style> {
        let usage = |message: String| {
            let help = "write layers as 5, 12-13 or 0-2,7";
            Error::new(ErrorKind::Usage, format!("`--layers`: {message}")).help(help)
        };
        let layers: Option<Layers> = self.layers.as_deref().map(str::parse).transpose().map_err(usage)?;
        let count = graph.header.layers;
        if let Some(last) = layers.as_ref().map(Layers::last).filter(|last| u64::from(*last) >= count) {
            let all = count.saturating_sub(1);
            return Err(usage(format!("there is no layer {last}: the model's are 0 to {all}")));
        }
        Ok(Style { weights: self.weights_in_ir, notes: true, layers })
    }

    /// What collects the passes' text.
    pub fn dumps(&self, style: Style, input: &Graph) -> Dumps {
        Dumps::new(style, self.printed(), self.dump_dir.is_some(), input)
    }
}
