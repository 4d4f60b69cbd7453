//! Loops, branches and variables.

use inkwell::values::BasicValueEnum;

use super::emit::{Emit, Float, Int, Var, ok};

impl<'c> Emit<'c> {
    /// `for i in (begin..end).step_by(step) { body }`, of i32.
    pub fn each(&self, begin: Int<'c>, end: Int<'c>, step: u64, body: impl FnOnce(&Self, Int<'c>)) {
        self.advance(self.var(begin.into()), end, step, body);
    }

    /// `while *i < end { body(*i); *i += step }`, of i32.
    pub fn advance(&self, i: Var<'c>, end: Int<'c>, step: u64, body: impl FnOnce(&Self, Int<'c>)) {
        let (head, inside, after) = (self.block(), self.block(), self.block());
        ok(self.b.build_unconditional_branch(head));
        self.b.position_at_end(head);
        let now = self.get(i).into_int_value();
        ok(self.b.build_conditional_branch(self.lt(now, end), inside, after));
        self.b.position_at_end(inside);
        body(self, now);
        self.set(i, self.add_const(now, step as i64).into());
        ok(self.b.build_unconditional_branch(head));
        self.b.position_at_end(after);
    }

    /// `if condition { then } else { other }`.
    pub fn either(&self, condition: Int<'c>, then: impl FnOnce(&Self), other: impl FnOnce(&Self)) {
        let (yes, no, after) = (self.block(), self.block(), self.block());
        ok(self.b.build_conditional_branch(condition, yes, no));
        self.b.position_at_end(yes);
        then(self);
        ok(self.b.build_unconditional_branch(after));
        self.b.position_at_end(no);
        other(self);
        ok(self.b.build_unconditional_branch(after));
        self.b.position_at_end(after);
    }

    /// `if condition { then }`.
    pub fn when(&self, condition: Int<'c>, then: impl FnOnce(&Self)) {
        let (inside, after) = (self.block(), self.block());
        ok(self.b.build_conditional_branch(condition, inside, after));
        self.b.position_at_end(inside);
        then(self);
        ok(self.b.build_unconditional_branch(after));
        self.b.position_at_end(after);
    }

    fn block(&self) -> inkwell::basic_block::BasicBlock<'c> {
        self.context.append_basic_block(self.f, "")
    }

    /// A variable with a first value. Its slot is made in the entry block, as LLVM wants it.
    pub fn var(&self, first: BasicValueEnum<'c>) -> Var<'c> {
        let entry = self.f.get_first_basic_block().unwrap_or_else(|| unreachable!("`new` has made it"));
        let builder = self.context.create_builder();
        match entry.get_first_instruction() {
            Some(instruction) => builder.position_before(&instruction),
            None => builder.position_at_end(entry),
        }
        let ty = first.get_type();
        let var = Var { slot: ok(builder.build_alloca(ty, "")), ty };
        self.set(var, first);
        var
    }

    /// An f32 variable.
    pub fn float_var(&self, first: f32) -> Var<'c> {
        self.var(self.float(first).into())
    }

    /// Reads a variable.
    pub fn get(&self, var: Var<'c>) -> BasicValueEnum<'c> {
        ok(self.b.build_load(var.ty, var.slot, ""))
    }

    /// Reads an f32 variable.
    pub fn get_float(&self, var: Var<'c>) -> Float<'c> {
        self.get(var).into_float_value()
    }

    /// Writes a variable.
    pub fn set(&self, var: Var<'c>, value: BasicValueEnum<'c>) {
        ok(self.b.build_store(var.slot, value));
    }

    /// `while condition() { body() }`
    pub fn during(&self, condition: impl FnOnce(&Self) -> Int<'c>, body: impl FnOnce(&Self)) {
        let (head, inside, after) = (self.block(), self.block(), self.block());
        ok(self.b.build_unconditional_branch(head));
        self.b.position_at_end(head);
        ok(self.b.build_conditional_branch(condition(self), inside, after));
        self.b.position_at_end(inside);
        body(self);
        ok(self.b.build_unconditional_branch(head));
        self.b.position_at_end(after);
    }

    /// `loop { if body() { break } }`
    pub(in crate::gpu) fn repeat(&self, body: impl FnOnce(&Self) -> Int<'c>) {
        let (inside, after) = (self.block(), self.block());
        ok(self.b.build_unconditional_branch(inside));
        self.b.position_at_end(inside);
        let done = body(self);
        ok(self.b.build_conditional_branch(done, after, inside));
        self.b.position_at_end(after);
    }
}
