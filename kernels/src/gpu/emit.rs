//! A thin layer over LLVM's builder in which a GPU kernel reads like its algorithm.
//!
//! Values are i32 counts and indices, i64 where a whole KV pool is addressed, f32 scalars, and pointers to
//! global or shared memory. Special instructions are inline PTX: that text is what the hardware's manual says,
//! and stays where intrinsics come and go. Mutable variables are stack slots, which LLVM's O3 turns into
//! registers.

use hyc_ir::plan::Elem;
use inkwell::attributes::AttributeLoc;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::types::{BasicTypeEnum, FloatType, FunctionType, IntType, StructType, VoidType};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValue, BasicValueEnum, FloatValue, FunctionValue, IntValue, PointerValue,
};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

/// An i32, an i64 or a condition.
pub type Int<'c> = IntValue<'c>;
/// An f32 (or an f64, in angles).
pub type Float<'c> = FloatValue<'c>;
/// An address.
pub type Ptr<'c> = PointerValue<'c>;

/// Global and shared memory.
const GLOBAL: u16 = 1;
const SHARED: u16 = 3;
/// The calling convention of a function that the host launches.
const KERNEL: u32 = 71;
/// All lanes of a warp.
pub const WARP: u64 = 32;

/// A mutable variable.
#[derive(Clone, Copy)]
pub struct Var<'c> {
    slot: Ptr<'c>,
    ty: BasicTypeEnum<'c>,
}

/// One function being built.
pub struct Emit<'c> {
    context: &'c Context,
    module: &'c Module<'c>,
    b: Builder<'c>,
    f: FunctionValue<'c>,
    shared: std::cell::Cell<u32>,
}

/// The builder fails only where it stands nowhere, which [`Emit::new`] rules out.
fn ok<T>(result: Result<T, BuilderError>) -> T {
    result.unwrap_or_else(|e| unreachable!("the builder has a place: {e}"))
}

/// Makes a function that knows nothing of launches beside it wait for them first.
pub fn wait_at_entry<'c>(context: &'c Context, module: &Module<'c>, name: &str) {
    let Some(entry) = module.get_function(name).and_then(|f| f.get_first_basic_block()) else { return };
    let Some(first) = entry.get_first_instruction() else { return };
    let b = context.create_builder();
    b.position_before(&first);
    let ty = context.void_type().fn_type(&[], false);
    for text in ["griddepcontrol.launch_dependents;", "griddepcontrol.wait;"] {
        let asm = context.create_inline_asm(ty, text.into(), "~{memory}".into(), true, false, None, false);
        ok(b.build_indirect_call(ty, asm, &[], ""));
    }
}

impl<'c> Emit<'c> {
    /// Starts the kernel `name` with the context, `operands` operands and the scratch as parameters.
    pub fn new(
        context: &'c Context,
        module: &'c Module<'c>,
        name: &str,
        operands: usize,
        threads: u32,
    ) -> Emit<'c> {
        let pointer = context.ptr_type(AddressSpace::from(GLOBAL));
        let params = vec![pointer.into(); operands + 2];
        let f = module.add_function(name, context.void_type().fn_type(&params, false), None);
        f.set_call_conventions(KERNEL);
        let most = context.create_string_attribute("nvvm.maxntid", &threads.to_string());
        f.add_attribute(AttributeLoc::Function, most);
        // One block a multiprocessor is enough: registers are not to be spilled for a second.
        f.add_attribute(AttributeLoc::Function, context.create_string_attribute("nvvm.minctasm", "1"));
        let b = context.create_builder();
        b.position_at_end(context.append_basic_block(f, "entry"));
        let e = Emit { context, module, b, f, shared: 0.into() };
        e.let_dependents_start();
        e
    }

    /// Ends the function.
    pub fn finish(self) {
        ok(self.b.build_return(None));
    }

    fn param(&self, i: usize) -> Ptr<'c> {
        // Every parameter is a pointer, see `new`.
        self.f
            .get_nth_param(i as u32)
            .map(BasicValueEnum::into_pointer_value)
            .unwrap_or_else(|| unreachable!())
    }

    /// The address of operand `i`.
    pub fn operand(&self, i: usize) -> Ptr<'c> {
        self.param(1 + i)
    }

    /// The kernel's scratch in device memory.
    pub fn scratch(&self) -> Ptr<'c> {
        self.param(self.f.count_params() as usize - 1)
    }

    /// A 64-bit count of the step's context, as i32.
    pub fn count(&self, offset: usize) -> Int<'c> {
        let at = self.bytes(self.param(0), offset as u64);
        let value = ok(self.b.build_load(self.context.i64_type(), at, "")).into_int_value();
        ok(self.b.build_int_truncate(value, self.context.i32_type(), ""))
    }

    /// A list of the step's context.
    pub fn list(&self, offset: usize) -> Ptr<'c> {
        let at = self.bytes(self.param(0), offset as u64);
        let ty = self.context.ptr_type(AddressSpace::from(GLOBAL));
        ok(self.b.build_load(ty, at, "")).into_pointer_value()
    }

    /// Reserves `count` f32 of shared memory, aligned to 16 bytes.
    pub fn shared(&self, count: u64) -> Ptr<'c> {
        let ty = self.context.f32_type().array_type(count as u32);
        let name = format!("{}.shared{}", self.f.get_name().to_string_lossy(), self.shared.get());
        self.shared.set(self.shared.get() + 1);
        let global = self.module.add_global(ty, Some(AddressSpace::from(SHARED)), &name);
        global.set_linkage(inkwell::module::Linkage::Internal);
        global.set_initializer(&ty.get_undef());
        global.set_alignment(16);
        global.as_pointer_value()
    }

    /// A table of f64 constants in global memory.
    pub fn table(&self, values: &[f64]) -> Ptr<'c> {
        let ty = self.context.f64_type();
        let list: Vec<_> = values.iter().map(|x| ty.const_float(*x)).collect();
        let name = format!("{}.table", self.f.get_name().to_string_lossy());
        let array = ty.const_array(&list);
        let global = self.module.add_global(array.get_type(), Some(AddressSpace::from(GLOBAL)), &name);
        global.set_linkage(inkwell::module::Linkage::Internal);
        global.set_constant(true);
        global.set_initializer(&array);
        global.as_pointer_value()
    }

    // Places.

    /// Inline PTX without operands that gives an i32 that never changes in a thread.
    fn special(&self, register: &str) -> Int<'c> {
        let ty = self.context.i32_type().fn_type(&[], false);
        self.asm(ty, &format!("mov.u32 $0, %{register};"), "=r", false, &[]).into_int_value()
    }

    /// Inline PTX; with `effects` it is neither moved nor dropped.
    pub(super) fn asm(
        &self,
        ty: FunctionType<'c>,
        text: &str,
        constraints: &str,
        effects: bool,
        args: &[BasicMetadataValueEnum<'c>],
    ) -> BasicValueEnum<'c> {
        let asm =
            self.context.create_inline_asm(ty, text.into(), constraints.into(), effects, false, None, false);
        let call = ok(self.b.build_indirect_call(ty, asm, args, ""));
        if effects {
            let kind = inkwell::attributes::Attribute::get_named_enum_kind_id("convergent");
            call.add_attribute(AttributeLoc::Function, self.context.create_enum_attribute(kind, 0));
        }
        let nothing = || self.context.i32_type().const_zero().into();
        call.try_as_basic_value().basic().unwrap_or_else(nothing)
    }

    /// Thread of the block.
    pub fn thread(&self) -> Int<'c> {
        self.special("tid.x")
    }

    /// Block in x.
    pub fn block_x(&self) -> Int<'c> {
        self.special("ctaid.x")
    }

    /// Block in y.
    pub fn block_y(&self) -> Int<'c> {
        self.special("ctaid.y")
    }

    /// Waits for all threads of the block; what they wrote is seen.
    pub fn barrier(&self) {
        let ty = self.context.void_type().fn_type(&[], false);
        self.asm(ty, "bar.sync 0;", "~{memory}", true, &[]);
    }

    /// Waits for all lanes of the warp; what they wrote is seen.
    pub fn warp_barrier(&self) {
        let ty = self.context.void_type().fn_type(&[], false);
        self.asm(ty, "bar.warp.sync -1;", "~{memory}", true, &[]);
    }

    // Integers.

    /// An i32 constant.
    pub fn int(&self, n: u64) -> Int<'c> {
        self.context.i32_type().const_int(n, false)
    }

    /// The i32 -1.
    pub fn minus_one(&self) -> Int<'c> {
        self.context.i32_type().const_all_ones()
    }

    /// a + b.
    pub fn add(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_add(a, b, ""))
    }

    /// a + n.
    pub fn add_const(&self, a: Int<'c>, n: i64) -> Int<'c> {
        self.add(a, a.get_type().const_int(n as u64, true))
    }

    /// a - b.
    pub fn sub(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_sub(a, b, ""))
    }

    /// a * n.
    pub fn mul_const(&self, a: Int<'c>, n: u64) -> Int<'c> {
        ok(self.b.build_int_mul(a, a.get_type().const_int(n, false), ""))
    }

    /// a * b.
    pub fn mul(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_mul(a, b, ""))
    }

    /// (a / n, a % n) of a non-negative a.
    pub fn div_rem(&self, a: Int<'c>, n: u64) -> (Int<'c>, Int<'c>) {
        let n = a.get_type().const_int(n, false);
        (ok(self.b.build_int_unsigned_div(a, n, "")), ok(self.b.build_int_unsigned_rem(a, n, "")))
    }

    /// a / b of non-negative a and positive b.
    pub fn quotient(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_unsigned_div(a, b, ""))
    }

    /// An i32 as i64.
    pub fn wide(&self, a: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_s_extend(a, self.context.i64_type(), ""))
    }

    /// a < b, signed.
    pub fn lt(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_compare(IntPredicate::SLT, a, b, ""))
    }

    /// The condition that never holds.
    pub fn no(&self) -> Int<'c> {
        self.context.bool_type().const_zero()
    }

    /// a < b, unsigned.
    pub fn lt_unsigned(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_compare(IntPredicate::ULT, a, b, ""))
    }

    /// a > b, unsigned.
    pub fn above_unsigned(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.lt_unsigned(b, a)
    }

    /// a >= b, signed.
    pub fn ge(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_compare(IntPredicate::SGE, a, b, ""))
    }

    /// a == b.
    pub fn eq(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_compare(IntPredicate::EQ, a, b, ""))
    }

    /// Both conditions.
    pub fn and(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_and(a, b, ""))
    }

    /// Either condition.
    pub fn or(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_or(a, b, ""))
    }

    /// One of two ints.
    pub fn pick(&self, c: Int<'c>, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_select(c, a, b, "")).into_int_value()
    }

    /// One of two floats.
    pub fn pick_float(&self, c: Int<'c>, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        ok(self.b.build_select(c, a, b, "")).into_float_value()
    }

    /// One of two addresses.
    pub fn pick_ptr(&self, c: Int<'c>, a: Ptr<'c>, b: Ptr<'c>) -> Ptr<'c> {
        ok(self.b.build_select(c, a, b, "")).into_pointer_value()
    }

    /// The smaller.
    pub fn min(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.pick(self.lt(a, b), a, b)
    }

    /// The larger.
    pub fn max(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.pick(self.lt(a, b), b, a)
    }

    // Control.

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

    // Floats.

    /// An f32 constant.
    pub fn float(&self, x: f32) -> Float<'c> {
        self.context.f32_type().const_float(f64::from(x))
    }

    /// a + b.
    pub fn fadd(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_add(a, b, ""))
    }

    /// a - b.
    pub fn fsub(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_sub(a, b, ""))
    }

    /// a * b.
    pub fn fmul(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_mul(a, b, ""))
    }

    /// a / b.
    pub fn fdiv(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_div(a, b, ""))
    }

    /// a > b.
    pub fn above(&self, a: Float<'c>, b: Float<'c>) -> Int<'c> {
        ok(self.b.build_float_compare(FloatPredicate::OGT, a, b, ""))
    }

    /// a == b.
    pub fn same(&self, a: Float<'c>, b: Float<'c>) -> Int<'c> {
        ok(self.b.build_float_compare(FloatPredicate::OEQ, a, b, ""))
    }

    /// The larger.
    pub fn fmax(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        self.float_asm("max.f32 $0, $1, $2;", &[a, b])
    }

    /// a * b + c, rounded once.
    pub fn fma(&self, a: Float<'c>, b: Float<'c>, c: Float<'c>) -> Float<'c> {
        self.float_asm("fma.rn.f32 $0, $1, $2, $3;", &[a, b, c])
    }

    /// acc += a * b.
    pub fn accumulate(&self, acc: Var<'c>, a: Float<'c>, b: Float<'c>) {
        let sum = self.fma(a, b, self.get_float(acc));
        self.set(acc, sum.into());
    }

    fn float_asm(&self, text: &str, args: &[Float<'c>]) -> Float<'c> {
        let f32 = self.context.f32_type();
        let ty = f32.fn_type(&vec![f32.into(); args.len()], false);
        let constraints = format!("=f{}", ",f".repeat(args.len()));
        let args: Vec<BasicMetadataValueEnum<'c>> = args.iter().map(|x| (*x).into()).collect();
        self.asm(ty, text, &constraints, false, &args).into_float_value()
    }

    /// 2^x, to two units in the last place; 2^-inf is 0.
    pub fn exp2(&self, x: Float<'c>) -> Float<'c> {
        self.float_asm("ex2.approx.ftz.f32 $0, $1;", &[x])
    }

    /// log2 x.
    pub fn log2(&self, x: Float<'c>) -> Float<'c> {
        self.float_asm("lg2.approx.f32 $0, $1;", &[x])
    }

    /// e^x, to two units in the last place; e^-inf is 0.
    pub fn exp(&self, x: Float<'c>) -> Float<'c> {
        let scaled = self.fmul(x, self.float(std::f32::consts::LOG2_E));
        self.float_asm("ex2.approx.f32 $0, $1;", &[scaled])
    }

    /// ln x.
    pub fn ln(&self, x: Float<'c>) -> Float<'c> {
        let log2 = self.float_asm("lg2.approx.f32 $0, $1;", &[x]);
        self.fmul(log2, self.float(std::f32::consts::LN_2))
    }

    /// 1 / sqrt(x).
    pub fn inverse_sqrt(&self, x: Float<'c>) -> Float<'c> {
        let root = self.float_asm("sqrt.rn.f32 $0, $1;", &[x]);
        self.fdiv(self.float(1.0), root)
    }

    /// 1 / (1 + e^-x).
    pub fn sigmoid(&self, x: Float<'c>) -> Float<'c> {
        let e = self.exp(ok(self.b.build_float_neg(x, "")));
        self.fdiv(self.float(1.0), self.fadd(e, self.float(1.0)))
    }

    /// x * sigmoid(x).
    pub fn silu(&self, x: Float<'c>) -> Float<'c> {
        self.fmul(x, self.sigmoid(x))
    }

    /// (sin, cos) of `turns` (f64) times 2 pi: the turns are reduced before they lose their fraction.
    pub fn sin_cos_turns(&self, turns: Float<'c>) -> (Float<'c>, Float<'c>) {
        let f64 = self.context.f64_type();
        let ty = f64.fn_type(&[f64.into()], false);
        let whole = self.asm(ty, "cvt.rni.f64.f64 $0, $1;", "=d,d", false, &[turns.into()]);
        let rest = self.fsub(turns, whole.into_float_value());
        let angle = ok(self.b.build_float_mul(rest, f64.const_float(std::f64::consts::TAU), ""));
        let angle = ok(self.b.build_float_trunc(angle, self.context.f32_type(), ""));
        (
            self.float_asm("sin.approx.f32 $0, $1;", &[angle]),
            self.float_asm("cos.approx.f32 $0, $1;", &[angle]),
        )
    }

    /// table[i] of f64, times an i32.
    pub fn turns(&self, table: Ptr<'c>, i: Int<'c>, times: Int<'c>) -> Float<'c> {
        let f64 = self.context.f64_type();
        let at = self.element(f64.into(), table, i);
        let step = ok(self.b.build_load(f64, at, "")).into_float_value();
        let times = ok(self.b.build_signed_int_to_float(times, f64, ""));
        ok(self.b.build_float_mul(step, times, ""))
    }

    // Warps.

    /// The value of the lane whose number differs in the bits of `mask`.
    pub fn shuffle(&self, x: Float<'c>, mask: u64) -> Float<'c> {
        let (f32, i32) = (self.context.f32_type(), self.context.i32_type());
        let ty = f32.fn_type(&[f32.into(), i32.into()], false);
        let text = "shfl.sync.bfly.b32 $0, $1, $2, 31, -1;";
        self.asm(ty, text, "=f,f,r", true, &[x.into(), self.int(mask).into()]).into_float_value()
    }

    /// The same of an int.
    pub fn shuffle_int(&self, x: Int<'c>, mask: u64) -> Int<'c> {
        let i32 = self.context.i32_type();
        let ty = i32.fn_type(&[i32.into(), i32.into()], false);
        let text = "shfl.sync.bfly.b32 $0, $1, $2, 31, -1;";
        self.asm(ty, text, "=r,r,r", true, &[x.into(), self.int(mask).into()]).into_int_value()
    }

    /// Sum over the lanes that `masks` reach, in a fixed order; every lane has it.
    pub fn warp_sum(&self, x: Float<'c>, masks: &[u64]) -> Float<'c> {
        masks.iter().fold(x, |sum, mask| self.fadd(sum, self.shuffle(sum, *mask)))
    }

    /// Maximum over the warp.
    pub fn warp_max(&self, x: Float<'c>) -> Float<'c> {
        LANES.iter().fold(x, |most, mask| self.fmax(most, self.shuffle(most, *mask)))
    }

    // Memory.

    fn bytes(&self, base: Ptr<'c>, offset: u64) -> Ptr<'c> {
        let offset = self.context.i64_type().const_int(offset, false);
        self.element(self.context.i8_type().into(), base, offset)
    }

    fn element(&self, ty: BasicTypeEnum<'c>, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        // SAFETY: building the instruction reads nothing; what it addresses is the kernel's contract.
        ok(unsafe { self.b.build_gep(ty, base, &[index], "") })
    }

    /// base + index elements of 4 bytes.
    pub fn at(&self, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        self.element(self.context.i32_type().into(), base, index)
    }

    /// base + index elements.
    pub fn at_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>) -> Ptr<'c> {
        let ty: BasicTypeEnum<'c> = match elem {
            Elem::Bf16 => self.context.i16_type().into(),
            _ => self.context.i32_type().into(),
        };
        self.element(ty, base, index)
    }

    /// base[index] of f32.
    pub fn load(&self, base: Ptr<'c>, index: Int<'c>) -> Float<'c> {
        ok(self.b.build_load(self.context.f32_type(), self.at(base, index), "")).into_float_value()
    }

    /// base[index] of i32.
    pub fn load_int(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        ok(self.b.build_load(self.context.i32_type(), self.at(base, index), "")).into_int_value()
    }

    /// base[index] = value, f32 or i32.
    pub fn store(&self, base: Ptr<'c>, index: Int<'c>, value: BasicValueEnum<'c>) {
        ok(self.b.build_store(self.at(base, index), value));
    }

    // Types and raw values, for the files beside this one.

    pub(super) fn i32(&self) -> IntType<'c> {
        self.context.i32_type()
    }

    pub(super) fn i64(&self) -> IntType<'c> {
        self.context.i64_type()
    }

    pub(super) fn f32(&self) -> FloatType<'c> {
        self.context.f32_type()
    }

    pub(super) fn void(&self) -> VoidType<'c> {
        self.context.void_type()
    }

    pub(super) fn structure(&self, fields: &[BasicTypeEnum<'c>]) -> StructType<'c> {
        self.context.struct_type(fields, false)
    }

    /// The first `count` fields of a struct.
    pub(super) fn fields(
        &self,
        of: BasicValueEnum<'c>,
        count: usize,
    ) -> impl Iterator<Item = BasicValueEnum<'c>> {
        let of = of.into_struct_value();
        (0..count as u32).map(move |i| ok(self.b.build_extract_value(of, i, "")))
    }

    pub(super) fn pointer_int(&self, p: Ptr<'c>, ty: IntType<'c>) -> Int<'c> {
        ok(self.b.build_ptr_to_int(p, ty, ""))
    }

    /// base + offset bytes.
    pub fn byte_offset(&self, base: Ptr<'c>, offset: Int<'c>) -> Ptr<'c> {
        self.element(self.context.i8_type().into(), base, offset)
    }

    /// The module's one array of shared memory whose size a launch gives.
    pub(super) fn external_shared(&self, name: &str) -> Ptr<'c> {
        let global = self.module.get_global(name).unwrap_or_else(|| {
            let ty = self.context.i8_type().array_type(0);
            let global = self.module.add_global(ty, Some(AddressSpace::from(SHARED)), name);
            global.set_alignment(1024);
            global
        });
        global.as_pointer_value()
    }

    /// `*base[index] += 1`, and what was there before: i32, in shared or global memory.
    pub(super) fn fetch_add_one(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let order = inkwell::AtomicOrdering::Monotonic;
        let op = inkwell::AtomicRMWBinOp::Add;
        ok(self.b.build_atomicrmw(op, self.at(base, index), self.int(1), order))
    }

    /// `loop { if body() { break } }`
    pub(super) fn repeat(&self, body: impl FnOnce(&Self) -> Int<'c>) {
        let (inside, after) = (self.block(), self.block());
        ok(self.b.build_unconditional_branch(inside));
        self.b.position_at_end(inside);
        let done = body(self);
        ok(self.b.build_conditional_branch(done, after, inside));
        self.b.position_at_end(after);
    }

    /// An f32's bits.
    pub fn bits(&self, x: Float<'c>) -> Int<'c> {
        ok(self.b.build_bit_cast(x, self.context.i32_type(), "")).into_int_value()
    }

    /// a ^ b.
    pub fn xor(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_xor(a, b, ""))
    }

    /// a >> n, sign kept.
    pub fn shift_right(&self, a: Int<'c>, n: u64) -> Int<'c> {
        ok(self.b.build_right_shift(a, a.get_type().const_int(n, false), true, ""))
    }

    /// Four f32 or i32 words at `base[index ..]`, aligned to 16 bytes.
    pub fn load4(&self, base: Ptr<'c>, index: Int<'c>) -> [Int<'c>; 4] {
        let load = ok(self.b.build_load(self.context.i32_type().vec_type(4), self.at(base, index), ""));
        if let Some(instruction) = load.as_instruction_value() {
            // The instruction is a load, for which this cannot fail.
            let _ = instruction.set_alignment(16);
        }
        let load = load.into_vector_value();
        [0, 1, 2, 3].map(|i| ok(self.b.build_extract_element(load, self.int(i), "")).into_int_value())
    }

    /// Stores words to `base[index ..]`, aligned to their size: two or four.
    pub fn store_words(&self, base: Ptr<'c>, index: Int<'c>, words: &[Int<'c>]) {
        let ty = self.context.i32_type().vec_type(words.len() as u32);
        let vector = words.iter().enumerate().fold(ty.get_poison(), |vector, (i, word)| {
            ok(self.b.build_insert_element(vector, *word, self.int(i as u64), ""))
        });
        let store = ok(self.b.build_store(self.at(base, index), vector));
        // A store, for which this cannot fail.
        let _ = store.set_alignment(4 * words.len() as u32);
    }

    /// The upper half of an f32's bits as that f32.
    pub(super) fn widen(&self, bits: Int<'c>) -> Float<'c> {
        ok(self.b.build_bit_cast(bits, self.context.f32_type(), "")).into_float_value()
    }

    /// base[index] of f32 or bf16.
    pub fn load_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>) -> Float<'c> {
        if elem != Elem::Bf16 {
            return self.load(base, index);
        }
        let at = self.at_elem(elem, base, index);
        let half = ok(self.b.build_load(self.context.i16_type(), at, "")).into_int_value();
        let word = ok(self.b.build_int_z_extend(half, self.context.i32_type(), ""));
        self.widen(ok(self.b.build_left_shift(word, self.int(16), "")))
    }

    /// base[index] = value as f32 or as the nearest bf16 (ties to even).
    pub fn store_elem(&self, elem: Elem, base: Ptr<'c>, index: Int<'c>, value: Float<'c>) {
        if elem != Elem::Bf16 {
            return self.store(base, index, value.into());
        }
        let (f32, i16) = (self.context.f32_type(), self.context.i16_type());
        let ty = i16.fn_type(&[f32.into()], false);
        let half = self.asm(ty, "cvt.rn.bf16.f32 $0, $1;", "=h,f", false, &[value.into()]);
        ok(self.b.build_store(self.at_elem(elem, base, index), half));
    }

    /// Eight elements from a 16-byte (32-byte for f32) boundary: lanes 0..8 of a panel's half-column, in lane
    /// order; see `Layout::Panels`.
    pub fn load_half(&self, elem: Elem, at: Ptr<'c>) -> [Float<'c>; 8] {
        let i32x4 = self.context.i32_type().vec_type(4);
        let words = |at: Ptr<'c>| {
            let load = ok(self.b.build_load(i32x4, at, ""));
            if let Some(instruction) = load.as_instruction_value() {
                // 16 bytes: panels are aligned so. The instruction is a load, for which this cannot fail.
                let _ = instruction.set_alignment(16);
            }
            let load = load.into_vector_value();
            [0, 1, 2, 3].map(|i| ok(self.b.build_extract_element(load, self.int(i), "")).into_int_value())
        };
        if elem != Elem::Bf16 {
            let (low, high) = (words(at), words(self.at(at, self.int(4))));
            return std::array::from_fn(|i| self.widen(if i < 4 { low[i] } else { high[i - 4] }));
        }
        let words = words(at);
        let mask = self.int(0xffff_0000);
        std::array::from_fn(|i| {
            let bits = if i < 4 {
                ok(self.b.build_left_shift(words[i], self.int(16), ""))
            } else {
                ok(self.b.build_and(words[i - 4], mask, ""))
            };
            self.widen(bits)
        })
    }
}

/// The masks that reach all lanes of a warp.
pub const LANES: [u64; 5] = [16, 8, 4, 2, 1];
