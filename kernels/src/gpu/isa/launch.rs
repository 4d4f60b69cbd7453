//! Launches that begin before their predecessor is through: `griddepcontrol`; registers that warp groups hand each other.

use inkwell::context::Context;
use inkwell::module::Module;

use super::emit::{Emit, ok};

impl<'c> Emit<'c> {
    /// Lets the next launch start, as far as it does not wait for this one.
    pub fn let_dependents_start(&self) {
        self.effect("griddepcontrol.launch_dependents;", "", &[]);
    }

    /// Waits until the launches before this one are through and what they wrote is seen.
    pub fn wait_for_inputs(&self) {
        self.effect("griddepcontrol.wait;", "", &[]);
    }

    /// This warp group has `count` registers a thread from here on, more than it was launched with: a multiple of
    /// eight. Waits until others have given back as many.
    pub fn take_registers(&self, count: u64) {
        self.effect(&format!("setmaxnreg.inc.sync.aligned.u32 {count};"), "", &[]);
    }

    /// The same of fewer.
    pub fn give_registers(&self, count: u64) {
        self.effect(&format!("setmaxnreg.dec.sync.aligned.u32 {count};"), "", &[]);
    }
}

/// Makes a function that knows nothing of launches beside it wait for them first.
/// `None` where there is no such function.
pub fn wait_at_entry<'c>(context: &'c Context, module: &Module<'c>, name: &str) -> Option<()> {
    let first = module.get_function(name)?.get_first_basic_block()?.get_first_instruction()?;
    let b = context.create_builder();
    b.position_before(&first);
    let ty = context.void_type().fn_type(&[], false);
    for text in ["griddepcontrol.launch_dependents;", "griddepcontrol.wait;"] {
        let asm = context.create_inline_asm(ty, text.into(), "~{memory}".into(), true, false, None, false);
        ok(b.build_indirect_call(ty, asm, &[], ""));
    }
    Some(())
}
