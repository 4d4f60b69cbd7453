//! Functions in MLIR's own dialects, to LLVM's dialect, to the LLVM module of the other kernels.

use inkwell::context::{AsContextRef, Context};
use inkwell::module::Module;
use melior::pass::{PassManager, conversion};

use super::{Mlir, MlirError};

/// Adds `functions` (`llvm.func`s, as [`super::pointwise`] writes them) to `module`.
pub fn link<'c>(functions: &str, context: &'c Context, module: &Module<'c>) -> Result<(), MlirError> {
    let mlir = Mlir::new();
    let mut source = mlir.parse(functions)?;
    let passes = PassManager::new(&mlir.context);
    passes.add_pass(conversion::create_scf_to_control_flow());
    passes.add_pass(conversion::create_vector_to_llvm());
    passes.add_pass(conversion::create_math_to_llvm());
    passes.add_pass(conversion::create_control_flow_to_llvm());
    passes.add_pass(conversion::create_arith_to_llvm());
    passes.add_pass(conversion::create_reconcile_unrealized_casts());
    passes.run(&mut source).map_err(|_| mlir.error("the kernels do not lower to LLVM's dialect"))?;
    // SAFETY: both point to one LLVM, that of the libLLVM which inkwell and libMLIR are linked with; the context
    // outlives the module, which is owned by nobody until the next line.
    let raw = unsafe {
        mlir_sys::mlirTranslateModuleToLLVMIR(source.as_operation().to_raw(), context.as_ctx_ref().cast())
    };
    if raw.is_null() {
        return Err(mlir.error("the kernels do not translate to LLVM"));
    }
    // SAFETY: a valid module of `context` that nobody else owns.
    let translated = unsafe { Module::<'c>::new(raw.cast()) };
    translated.set_triple(&module.get_triple());
    translated.set_data_layout(&module.get_data_layout());
    module.link_in_module(translated).map_err(|e| MlirError(e.to_string()))
}
