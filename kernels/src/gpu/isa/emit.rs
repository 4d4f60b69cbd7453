//! A thin layer over LLVM's builder in which a GPU kernel reads like its algorithm.
//!
//! Values are i32 counts and indices, i64 where a whole KV pool is addressed, f32 scalars, and pointers to
//! global or shared memory. Special instructions are inline PTX: that text is what the hardware's manual says,
//! and stays where intrinsics come and go. Mutable variables are stack slots, which LLVM's O3 turns into
//! registers.

use std::cell::{Cell, RefCell};
use std::mem::offset_of;
use std::rc::Rc;

use hyc_plan::{BlockTimes, CacheSpec, Elem};
use inkwell::AddressSpace;
use inkwell::attributes::AttributeLoc;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::types::{BasicTypeEnum, FloatType, FunctionType, IntType, StructType, VoidType};
use inkwell::values::{
    ArrayValue, BasicMetadataValueEnum, BasicValueEnum, FloatValue, FunctionValue, IntValue, PointerValue,
};

use crate::operands::Operands;

/// An i32, an i64 or a condition.
pub type Int<'c> = IntValue<'c>;
/// An f32 (or an f64, in angles).
pub type Float<'c> = FloatValue<'c>;
/// An address.
pub type Ptr<'c> = PointerValue<'c>;

/// Global and shared memory.
const GLOBAL: u16 = 1;
pub(super) const SHARED: u16 = 3;
/// The calling convention of a function that the host launches.
const KERNEL: u32 = 71;
/// All lanes of a warp.
pub const WARP: u64 = 32;

/// A mutable variable.
#[derive(Clone, Copy)]
pub struct Var<'c> {
    pub(super) slot: Ptr<'c>,
    pub(super) ty: BasicTypeEnum<'c>,
}

/// One function being built.
pub struct Emit<'c> {
    pub(super) context: &'c Context,
    pub(super) module: &'c Module<'c>,
    pub(super) b: Builder<'c>,
    pub(super) f: FunctionValue<'c>,
    /// Those of the step in hand, and how many parameters stand before the first of them.
    named: RefCell<(Rc<Operands>, usize)>,
    /// How many of the parameters are operands.
    operands: usize,
    /// The threads that meet at a [`Emit::barrier`]; `None`: all of the block.
    pub(super) meeting: Cell<Option<u64>>,
    /// Whether it writes down its times.
    clocked: bool,
    /// The thread that does.
    pub(super) notes: Cell<u64>,
    shared: Cell<u32>,
}

/// The builder fails only where it stands nowhere, which [`Emit::new`] rules out.
pub(super) fn ok<T>(result: Result<T, BuilderError>) -> T {
    result.unwrap_or_else(|e| unreachable!("the builder has a place: {e}"))
}

impl<'c> Emit<'c> {
    /// Starts the kernel `name` with the context, `operands` operands and the scratch as parameters;
    /// behind them where it writes down its times, where it is `clocked`. Where it is `late`, its body lets the next launch begin.
    pub fn new(
        context: &'c Context,
        module: &'c Module<'c>,
        name: &str,
        (named, operands): (Rc<Operands>, usize),
        (threads, clocked, late): (u32, bool, bool),
    ) -> Emit<'c> {
        let pointer = context.ptr_type(AddressSpace::from(GLOBAL));
        let params = vec![pointer.into(); operands + 2 + usize::from(clocked)];
        let f = module.add_function(name, context.void_type().fn_type(&params, false), None);
        f.set_call_conventions(KERNEL);
        let most = context.create_string_attribute("nvvm.maxntid", &threads.to_string());
        f.add_attribute(AttributeLoc::Function, most);
        let b = context.create_builder();
        b.position_at_end(context.append_basic_block(f, "entry"));
        let named = RefCell::new((named, 1));
        let e = Emit {
            context,
            module,
            b,
            f,
            named,
            operands,
            meeting: Cell::new(None),
            clocked,
            notes: Cell::new(0),
            shared: 0.into(),
        };
        // One block a multiprocessor is enough: registers are not to be spilled for a second.
        e.run_at_once(1);
        if !late {
            e.let_dependents_start();
        }
        e.note_time(offset_of!(BlockTimes, begin));
        e
    }

    /// Has registers for so many blocks a multiprocessor.
    pub fn run_at_once(&self, blocks: u64) {
        let least = self.context.create_string_attribute("nvvm.minctasm", &blocks.to_string());
        self.f.add_attribute(AttributeLoc::Function, least);
    }

    /// Ends the function.
    pub fn finish(self) {
        self.note_time(offset_of!(BlockTimes, end));
        self.note_place();
        ok(self.b.build_return(None));
    }

    fn param(&self, i: usize) -> Ptr<'c> {
        // Every parameter is a pointer, see `new`.
        self.f
            .get_nth_param(i as u32)
            .map(BasicValueEnum::into_pointer_value)
            .unwrap_or_else(|| unreachable!())
    }

    /// The address of the operand of this name.
    pub fn operand(&self, name: &str) -> Ptr<'c> {
        let (named, first) = &*self.named.borrow();
        self.param(first + named.index(name))
    }

    /// Within `body` operands are those of another step, the first of which is operand `first` of all.
    pub fn with_operands<R>(&self, named: &Rc<Operands>, first: usize, body: impl FnOnce(&Self) -> R) -> R {
        let others = self.named.replace((Rc::clone(named), 1 + first));
        let result = body(self);
        self.named.replace(others);
        result
    }

    /// Within `body` the first `threads` threads of the block, all of which come there, meet at barriers without the others.
    pub fn among<R>(&self, threads: u64, body: impl FnOnce(&Self) -> R) -> R {
        let others = self.meeting.replace(Some(threads));
        let result = body(self);
        self.meeting.set(others);
        result
    }

    /// The address of operand `i` of all that the function has, where it has no name: those of an op have one.
    pub fn operand_at(&self, i: usize) -> Ptr<'c> {
        self.param(1 + i)
    }

    /// Elements from row to row of a tensor.
    pub fn stride(&self, name: &str) -> u64 {
        self.named.borrow().0.stride(name)
    }

    /// Whether a tensor lies in bf16 tiles.
    pub fn in_tiles(&self, name: &str) -> bool {
        self.named.borrow().0.in_tiles(name)
    }

    /// Element type of a weight.
    pub fn elem(&self, name: &str) -> Elem {
        self.named.borrow().0.weight(name).0
    }

    /// The constants of a cache.
    pub fn cache(&self, name: &str) -> CacheSpec {
        self.named.borrow().0.cache(name)
    }

    /// The address of a row (of an index of 32 bits) of a tensor.
    pub fn row(&self, name: &str, row: Int<'c>) -> Ptr<'c> {
        self.at(self.operand(name), self.mul_const(row, self.stride(name)))
    }

    /// The kernel's scratch in device memory.
    pub fn scratch(&self) -> Ptr<'c> {
        self.param(self.operands + 1)
    }

    /// Where a function that writes down its times does so.
    pub(super) fn times(&self) -> Option<Ptr<'c>> {
        self.clocked.then(|| self.param(self.operands + 2))
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
        self.constant(ty.const_array(&values.iter().map(|x| ty.const_float(*x)).collect::<Vec<_>>()))
    }

    /// The same of i64.
    pub fn table_of_longs(&self, values: &[u64]) -> Ptr<'c> {
        let ty = self.context.i64_type();
        self.constant(ty.const_array(&values.iter().map(|x| ty.const_int(*x, false)).collect::<Vec<_>>()))
    }

    fn constant(&self, array: ArrayValue<'c>) -> Ptr<'c> {
        let name = format!("{}.table", self.f.get_name().to_string_lossy());
        let global = self.module.add_global(array.get_type(), Some(AddressSpace::from(GLOBAL)), &name);
        global.set_linkage(inkwell::module::Linkage::Internal);
        global.set_constant(true);
        global.set_initializer(&array);
        global.as_pointer_value()
    }

    // Places.

    /// Inline PTX without operands that gives an i32 that never changes in a thread.
    pub(super) fn special(&self, register: &str) -> Int<'c> {
        let ty = self.context.i32_type().fn_type(&[], false);
        self.asm(ty, &format!("mov.u32 $0, %{register};"), "=r", false, &[]).into_int_value()
    }

    /// Inline PTX; with `effects` it is neither moved nor dropped.
    pub fn asm(
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

    /// Inline PTX without a result.
    pub(super) fn effect(&self, text: &str, constraints: &str, args: &[Int<'c>]) {
        let params: Vec<_> = args.iter().map(|arg| arg.get_type().into()).collect();
        let ty = self.void().fn_type(&params, false);
        let list: Vec<_> = args.iter().map(|arg| (*arg).into()).collect();
        let comma = if constraints.is_empty() { "" } else { "," };
        self.asm(ty, text, &format!("{constraints}{comma}~{{memory}}"), true, &list);
    }

    /// Thread of the block.
    pub fn thread(&self) -> Int<'c> {
        self.special("tid.x")
    }

    /// Block in x.
    pub fn block_x(&self) -> Int<'c> {
        self.special("ctaid.x")
    }

    /// Blocks in x.
    pub fn grid_x(&self) -> Int<'c> {
        self.special("nctaid.x")
    }

    /// Block in y.
    pub fn block_y(&self) -> Int<'c> {
        self.special("ctaid.y")
    }

    // Types and raw values, for the files beside this one.

    pub fn i32(&self) -> IntType<'c> {
        self.context.i32_type()
    }

    pub fn i64(&self) -> IntType<'c> {
        self.context.i64_type()
    }

    pub fn f32(&self) -> FloatType<'c> {
        self.context.f32_type()
    }

    pub fn void(&self) -> VoidType<'c> {
        self.context.void_type()
    }

    pub fn structure(&self, fields: &[BasicTypeEnum<'c>]) -> StructType<'c> {
        self.context.struct_type(fields, false)
    }

    /// The first `count` fields of a struct.
    pub fn fields(&self, of: BasicValueEnum<'c>, count: usize) -> impl Iterator<Item = BasicValueEnum<'c>> {
        let of = of.into_struct_value();
        (0..count as u32).map(move |i| ok(self.b.build_extract_value(of, i, "")))
    }

    pub fn pointer_int(&self, p: Ptr<'c>, ty: IntType<'c>) -> Int<'c> {
        ok(self.b.build_ptr_to_int(p, ty, ""))
    }
}

/// The masks that reach all lanes of a warp.
pub const LANES: [u64; 5] = [16, 8, 4, 2, 1];
