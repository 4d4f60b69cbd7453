//! Launches that begin before their predecessor is through: `griddepcontrol`; registers that warp groups hand each other.

use std::mem::offset_of;

use hyc_plan::BlockTimes;
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
        self.note_time(offset_of!(BlockTimes, inputs));
    }

    /// The thread that notes times, from here on.
    pub fn note_by(&self, thread: u64) {
        self.notes.set(thread);
    }

    /// The first thread of the block, or the one that was said, writes the time to a field of its [`BlockTimes`], in a function that does so.
    pub(super) fn note_time(&self, field: usize) {
        self.note(field, "mov.u64 $0, %globaltimer;");
    }

    /// The same of the multiprocessor.
    pub(super) fn note_place(&self) {
        let text = "{ .reg .b32 sm; mov.u32 sm, %smid; cvt.u64.u32 $0, sm; }";
        self.note(offset_of!(BlockTimes, multiprocessor), text);
    }

    fn note(&self, field: usize, text: &str) {
        let Some(times) = self.times() else { return };
        let size = size_of::<BlockTimes>() as u64;
        self.when(self.eq(self.thread(), self.int(self.notes.get())), |e| {
            let block = e.add(e.block_x(), e.mul(e.block_y(), e.grid_x()));
            let at = e.byte_offset(times, e.mul_const(e.wide(block), size));
            let ty = e.context.i64_type();
            let value = e.asm(ty.fn_type(&[], false), text, "=l", true, &[]);
            let at = e.byte_offset(at, e.long(field as u64));
            ok(e.b.build_store(at, value.into_int_value()));
        });
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
