//! MLIR: the graph as a verified dialect, and pointwise kernels on their way to LLVM.
//!
//! * `dialect.mlir` declares the `hysparse` dialect in IRDL; `graph` translates a graph into it.
//! * `pointwise` writes row-wise kernels as text in MLIR's own dialects; `lower` brings them to LLVM's
//!   dialect and from there into the LLVM module that the other kernels are built in.

mod graph;
mod lower;
mod norm;
mod pointwise;
mod rope;
mod text;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use hyc_plan::KernelSpec;
use melior::Context;
use melior::diagnostic::Diagnostic;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::ir::operation::OperationLike;
use melior::utility::{load_irdl_dialects, register_all_dialects, register_all_llvm_translations};

pub use graph::graph_text;
pub(crate) use lower::link;
pub(crate) use pointwise::function;
pub(crate) use text::THREADS;

/// The `hysparse` dialect's declaration.
const DIALECT: &str = include_str!("dialect.mlir");

/// What MLIR said of a module that it refused, one line per diagnostic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MlirError(String);

impl fmt::Display for MlirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MlirError {}

/// An MLIR context whose diagnostics are kept.
struct Mlir {
    context: Context,
    said: Rc<RefCell<Vec<String>>>,
}

impl Mlir {
    /// A context with MLIR's own dialects, loaded as they are met.
    fn new() -> Mlir {
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        let context = Context::new_with_registry(&registry, false);
        register_all_llvm_translations(&context);
        let said = Rc::new(RefCell::new(Vec::new()));
        let list = said.clone();
        context.attach_diagnostic_handler(move |diagnostic| {
            list.borrow_mut().push(describe(&diagnostic));
            true
        });
        Mlir { context, said }
    }

    /// A context with the `hysparse` dialect.
    fn with_dialect() -> Result<Mlir, MlirError> {
        let mlir = Mlir::new();
        let declaration = mlir.parse(DIALECT)?;
        if !load_irdl_dialects(&declaration) {
            return Err(mlir.error("the hysparse dialect does not load"));
        }
        drop(declaration);
        mlir.context.get_or_load_dialect("func");
        Ok(mlir)
    }

    /// An error with what MLIR said of it.
    fn error(&self, what: &str) -> MlirError {
        let said = self.said.take();
        MlirError(if said.is_empty() { what.to_string() } else { format!("{what}: {}", said.join("\n  ")) })
    }

    /// Parses and verifies a module.
    fn parse(&self, text: &str) -> Result<Module<'_>, MlirError> {
        Module::parse(&self.context, text).ok_or_else(|| self.error("the module is not valid"))
    }

    fn verify(&self, module: &Module<'_>) -> Result<(), MlirError> {
        if module.as_operation().verify() { Ok(()) } else { Err(self.error("the module is not valid")) }
    }
}

/// Where, what, and the notes.
fn describe(diagnostic: &Diagnostic<'_>) -> String {
    let place = diagnostic.location().to_string();
    let place = place.strip_prefix("loc(").and_then(|s| s.strip_suffix(')')).unwrap_or(&place);
    let mut text = format!("{place}: {diagnostic}");
    for note in (0..diagnostic.note_count()).filter_map(|i| diagnostic.note(i).ok()) {
        text.push_str(&format!(" ({note})"));
    }
    text
}

/// A row-wise kernel in MLIR's own dialects; `None` where LLVM is what it is built with.
pub fn kernel_text(name: &str, spec: &KernelSpec) -> Option<Result<String, MlirError>> {
    let functions = function(name, spec)?;
    let mlir = Mlir::new();
    let module = functions.map_err(MlirError).and_then(|text| mlir.parse(&text));
    Some(module.map(|module| module.as_operation().to_string()))
}

/// Verifies a text in the `hysparse` dialect, as [`graph_text`] prints it.
pub fn check_graph_text(text: &str) -> Result<(), MlirError> {
    let mlir = Mlir::with_dialect()?;
    mlir.parse(text).map(|_| ())
}
