//! A thin layer over Cranelift's builder in which a kernel reads like its algorithm.
//!
//! Values are i64 addresses and counts, f32 scalars, and f32x4 vectors: Cranelift has no wider vector and
//! no bf16, so bf16 is widened with integer shifts.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, I32, I32X4, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder, MemFlagsData, Type, Value};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, Variable};
use hyc_plan::{CacheSpec, Elem, Format, KernelSpec, Layout};

use crate::operands::Operands;

/// Memory accesses neither trap nor promise alignment.
const MEM: MemFlagsData = MemFlagsData::new().with_notrap();

/// A load that may move down to its use, which keeps its value out of registers. Cranelift also merges and
/// hoists such loads: the address must change with the innermost loop, which must not write that memory.
const READ_ONLY: MemFlagsData = MEM.with_readonly().with_can_move();

/// The kernel function being built.
pub struct Emit<'f> {
    b: FunctionBuilder<'f>,
    fma: bool,
    named: Operands,
    scratch_bytes: u64,
    /// Address of the step's context.
    pub context: Value,
    /// First item.
    pub begin: Value,
    /// One past the last item.
    pub end: Value,
    operands: Value,
    scratch: Value,
}

impl<'f> Emit<'f> {
    /// Starts the function in an entry block with the five parameters of a kernel.
    pub fn new(mut b: FunctionBuilder<'f>, spec: &KernelSpec, fma: bool) -> Emit<'f> {
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let p = b.block_params(entry).to_vec();
        Emit {
            b,
            fma,
            named: Operands::new(spec),
            scratch_bytes: 0,
            context: p[0],
            operands: p[1],
            begin: p[2],
            end: p[3],
            scratch: p[4],
        }
    }

    /// Ends the function; returns the scratch bytes that it uses, or what operand it asked for that there is not.
    pub fn finish(mut self, config: TargetFrontendConfig) -> Result<u64, String> {
        self.b.ins().return_(&[]);
        self.b.seal_all_blocks();
        self.b.finalize(config);
        self.named.fault().map_or(Ok(self.scratch_bytes), Err)
    }

    /// The address of the operand of this name.
    pub fn operand(&mut self, name: &str) -> Value {
        let at = i32::try_from(8 * self.named.index(name)).unwrap_or(i32::MAX);
        self.b.ins().load(I64, MEM, self.operands, at)
    }

    /// Bytes from row to row of a tensor.
    pub fn stride(&self, name: &str) -> u64 {
        4 * self.named.stride(name)
    }

    /// How a weight is stored.
    pub fn format(&self, name: &str) -> Format {
        self.named.format(name)
    }

    /// Element type and layout of a weight whose numbers stand by themselves.
    pub fn weight(&self, name: &str) -> (Elem, Layout) {
        self.named.weight(name)
    }

    /// The constants of a cache.
    pub fn cache(&self, name: &str) -> CacheSpec {
        self.named.cache(name)
    }

    /// A 64-bit field of the context.
    pub fn field(&mut self, offset: usize) -> Value {
        let at = i32::try_from(offset).unwrap_or(i32::MAX);
        self.b.ins().load(I64, MEM, self.context, at)
    }

    /// Reserves scratch, aligned to 64 bytes.
    pub fn scratch(&mut self, bytes: u64) -> Value {
        let at = self.scratch_bytes;
        self.scratch_bytes += bytes.next_multiple_of(64);
        self.add_const(self.scratch, at as i64)
    }

    // Integers.

    /// A constant.
    pub fn int(&mut self, n: i64) -> Value {
        self.b.ins().iconst(I64, n)
    }

    /// a + b.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().iadd(a, b)
    }

    /// a + n.
    pub fn add_const(&mut self, a: Value, n: i64) -> Value {
        if n == 0 { a } else { self.b.ins().iadd_imm_s(a, n) }
    }

    /// a - b.
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().isub(a, b)
    }

    /// a * n.
    pub fn mul_const(&mut self, a: Value, n: u64) -> Value {
        match n {
            1 => a,
            n if n.is_power_of_two() => self.b.ins().ishl_imm_u(a, i64::from(n.trailing_zeros())),
            n => self.b.ins().imul_imm_s(a, n as i64),
        }
    }

    /// a * b.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().imul(a, b)
    }

    /// (a / n, a % n) of a non-negative a.
    pub fn div_rem(&mut self, a: Value, n: u64) -> (Value, Value) {
        if n.is_power_of_two() {
            let quotient = self.b.ins().ushr_imm_u(a, i64::from(n.trailing_zeros()));
            return (quotient, self.b.ins().band_imm_u(a, n as i64 - 1));
        }
        let n = self.int(n as i64);
        (self.b.ins().udiv(a, n), self.b.ins().urem(a, n))
    }

    /// The smaller.
    pub fn min(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().smin(a, b)
    }

    /// The larger.
    pub fn max(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().smax(a, b)
    }

    /// base + index * bytes.
    pub fn at(&mut self, base: Value, index: Value, bytes: u64) -> Value {
        let offset = self.mul_const(index, bytes);
        self.add(base, offset)
    }

    /// table[index] of i32, widened.
    pub fn load_index(&mut self, table: Value, index: Value) -> Value {
        let address = self.at(table, index, 4);
        let value = self.b.ins().load(I32, MEM, address, 0);
        self.b.ins().sextend(I64, value)
    }

    /// Stores an i64 as i32 at address + offset.
    pub fn store_index(&mut self, value: Value, address: Value, offset: i32) {
        let value = self.b.ins().ireduce(I32, value);
        self.b.ins().store(MEM, value, address, offset);
    }

    // Control.

    /// Integer comparison.
    pub fn cmp(&mut self, cc: IntCC, a: Value, b: Value) -> Value {
        self.b.ins().icmp(cc, a, b)
    }

    /// Float comparison.
    pub fn fcmp(&mut self, cc: FloatCC, a: Value, b: Value) -> Value {
        self.b.ins().fcmp(cc, a, b)
    }

    /// Both conditions.
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().band(a, b)
    }

    /// One of two values.
    pub fn select(&mut self, c: Value, a: Value, b: Value) -> Value {
        self.b.ins().select(c, a, b)
    }

    /// `for i in begin..end step step { body }`; the body runs where at least `step` items are left.
    /// Returns the first i that was not covered.
    pub fn each(
        &mut self,
        begin: Value,
        end: Value,
        step: i64,
        body: impl FnOnce(&mut Self, Value),
    ) -> Value {
        let (head, inside, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let i = self.b.append_block_param(head, I64);
        self.b.ins().jump(head, &[BlockArg::Value(begin)]);
        self.b.switch_to_block(head);
        let next = self.add_const(i, step);
        let more = self.cmp(IntCC::SignedLessThanOrEqual, next, end);
        self.b.ins().brif(more, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        body(self, i);
        self.b.ins().jump(head, &[BlockArg::Value(next)]);
        self.b.switch_to_block(after);
        i
    }

    /// Runs `body` `count` times over pointers that advance by their strides; returns where they end up.
    pub fn walk<const N: usize>(
        &mut self,
        count: u64,
        starts: [(Value, u64); N],
        body: impl FnOnce(&mut Self, [Value; N]),
    ) -> [Value; N] {
        if count == 0 {
            return starts.map(|(start, _)| start);
        }
        let (head, after) = (self.b.create_block(), self.b.create_block());
        let left = self.b.append_block_param(head, I64);
        let pointers = [(); N].map(|()| self.b.append_block_param(head, I64));
        let count = self.int(count as i64);
        let first: Vec<BlockArg> =
            std::iter::once(count).chain(starts.map(|s| s.0)).map(BlockArg::Value).collect();
        self.b.ins().jump(head, &first);
        self.b.switch_to_block(head);
        body(self, pointers);
        let mut next = pointers;
        for (pointer, (_, stride)) in next.iter_mut().zip(starts) {
            *pointer = self.add_const(*pointer, stride as i64);
        }
        let left = self.add_const(left, -1);
        let args: Vec<BlockArg> = std::iter::once(left).chain(next).map(BlockArg::Value).collect();
        self.b.ins().brif(left, head, &args, after, &[]);
        self.b.switch_to_block(after);
        next
    }

    /// `while condition { body }`.
    pub fn repeat(&mut self, condition: impl FnOnce(&mut Self) -> Value, body: impl FnOnce(&mut Self)) {
        let (head, inside, after) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let more = condition(self);
        self.b.ins().brif(more, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        body(self);
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(after);
    }

    /// `if condition { then }`.
    pub fn when(&mut self, condition: Value, then: impl FnOnce(&mut Self)) {
        let (inside, after) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, inside, &[], after, &[]);
        self.b.switch_to_block(inside);
        then(self);
        self.b.ins().jump(after, &[]);
        self.b.switch_to_block(after);
    }

    /// A variable that loops may change.
    pub fn var(&mut self, ty: Type, start: Value) -> Variable {
        let var = self.b.declare_var(ty);
        self.b.def_var(var, start);
        var
    }

    /// Reads a variable.
    pub fn get(&mut self, var: Variable) -> Value {
        self.b.use_var(var)
    }

    /// Writes a variable.
    pub fn set(&mut self, var: Variable, value: Value) {
        self.b.def_var(var, value);
    }

    /// An i64 variable.
    pub fn int_var(&mut self, start: Value) -> Variable {
        self.var(I64, start)
    }

    /// An f32x4 variable, zero.
    pub fn zero4_var(&mut self) -> Variable {
        let zero = self.splat_const(0.0);
        self.var(F32X4, zero)
    }

    // Floats.

    /// An f32 constant.
    pub fn float(&mut self, x: f32) -> Value {
        self.b.ins().f32const(x)
    }

    /// An f64 constant.
    pub fn double(&mut self, x: f64) -> Value {
        self.b.ins().f64const(x)
    }

    /// All four lanes.
    pub fn splat(&mut self, x: Value) -> Value {
        self.b.ins().splat(F32X4, x)
    }

    /// A constant in all four lanes.
    pub fn splat_const(&mut self, x: f32) -> Value {
        let x = self.float(x);
        self.splat(x)
    }

    /// a + b of any float type.
    pub fn fadd(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fadd(a, b)
    }

    /// a - b.
    pub fn fsub(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fsub(a, b)
    }

    /// a * b.
    pub fn fmul(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fmul(a, b)
    }

    /// a / b.
    pub fn fdiv(&mut self, a: Value, b: Value) -> Value {
        self.b.ins().fdiv(a, b)
    }

    /// sqrt(a).
    pub fn sqrt(&mut self, a: Value) -> Value {
        self.b.ins().sqrt(a)
    }

    /// a where it is larger, else b: also where one of them is no number.
    pub fn fmax(&mut self, a: Value, b: Value) -> Value {
        let greater = self.b.ins().fcmp(FloatCC::GreaterThan, a, b);
        if self.b.func.dfg.value_type(a) == F32X4 {
            let mask = self.b.ins().bitcast(F32X4, little(), greater);
            return self.b.ins().bitselect(mask, a, b);
        }
        self.b.ins().select(greater, a, b)
    }

    /// a where the comparison's lane is true, b elsewhere.
    pub fn pick4(&mut self, mask: Value, a: Value, b: Value) -> Value {
        let mask = self.b.ins().bitcast(F32X4, little(), mask);
        self.b.ins().bitselect(mask, a, b)
    }

    /// a * b + c, in one rounding where the target has FMA.
    pub fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        if self.fma {
            return self.b.ins().fma(a, b, c);
        }
        let product = self.b.ins().fmul(a, b);
        self.b.ins().fadd(product, c)
    }

    /// acc = a * b + acc.
    pub fn accumulate(&mut self, acc: Variable, a: Value, b: Value) {
        let sum = self.get(acc);
        let sum = self.fma(a, b, sum);
        self.set(acc, sum);
    }

    /// Nearest integer, as a float.
    pub fn nearest(&mut self, a: Value) -> Value {
        self.b.ins().nearest(a)
    }

    /// An i64 as f64.
    pub fn double_of(&mut self, a: Value) -> Value {
        self.b.ins().fcvt_from_sint(F64, a)
    }

    /// An integral f64 as i64.
    pub fn double_to_int(&mut self, a: Value) -> Value {
        self.b.ins().fcvt_to_sint_sat(I64, a)
    }

    /// f32 to f64.
    pub fn promote(&mut self, a: Value) -> Value {
        self.b.ins().fpromote(F64, a)
    }

    /// f64 to f32.
    pub fn demote(&mut self, a: Value) -> Value {
        self.b.ins().fdemote(F32, a)
    }

    /// |a|.
    pub fn fabs(&mut self, a: Value) -> Value {
        self.b.ins().fabs(a)
    }

    /// -a.
    pub fn fneg(&mut self, a: Value) -> Value {
        self.b.ins().fneg(a)
    }

    /// Lane `i`.
    pub fn lane(&mut self, a: Value, i: u8) -> Value {
        self.b.ins().extractlane(a, i)
    }

    /// Sum of the lanes, in a fixed order.
    pub fn sum_lanes(&mut self, a: Value) -> Value {
        let lanes: Vec<Value> = (0..4).map(|i| self.lane(a, i)).collect();
        let (low, high) = (self.fadd(lanes[0], lanes[1]), self.fadd(lanes[2], lanes[3]));
        self.fadd(low, high)
    }

    /// Maximum of the lanes.
    pub fn max_lanes(&mut self, a: Value) -> Value {
        let lanes: Vec<Value> = (0..4).map(|i| self.lane(a, i)).collect();
        let (low, high) = (self.fmax(lanes[0], lanes[1]), self.fmax(lanes[2], lanes[3]));
        self.fmax(low, high)
    }

    /// The bits of an f32x4 as i32x4, shifted left by n.
    pub fn bits_shl(&mut self, a: Value, n: i64) -> Value {
        let bits = self.b.ins().bitcast(I32X4, little(), a);
        let n = self.b.ins().iconst(I32, n);
        self.b.ins().ishl(bits, n)
    }

    /// The f32x4 whose bits are those of `a` plus `bits`.
    pub fn add_bits(&mut self, a: Value, bits: Value) -> Value {
        let a = self.b.ins().bitcast(I32X4, little(), a);
        let sum = self.b.ins().iadd(a, bits);
        self.b.ins().bitcast(F32X4, little(), sum)
    }

    /// The bits of an f32 as i64, zero-extended; and back.
    pub fn float_bits(&mut self, a: Value) -> Value {
        let bits = self.b.ins().bitcast(I32, MemFlagsData::new(), a);
        self.b.ins().uextend(I64, bits)
    }

    /// The f32 with the low 32 bits of an i64.
    pub fn bits_float(&mut self, a: Value) -> Value {
        let bits = self.b.ins().ireduce(I32, a);
        self.b.ins().bitcast(F32, MemFlagsData::new(), bits)
    }

    /// a >> n (logical), a & n.
    pub fn shr_const(&mut self, a: Value, n: i64) -> Value {
        self.b.ins().ushr_imm_u(a, n)
    }

    /// a & n.
    pub fn and_const(&mut self, a: Value, n: i64) -> Value {
        self.b.ins().band_imm_u(a, n)
    }

    /// An i64 as f32.
    pub fn float_of(&mut self, a: Value) -> Value {
        self.b.ins().fcvt_from_sint(F32, a)
    }

    /// Keeps the lanes of `a` whose token (`first` + lane) lies in lo..hi; the others are -infinity.
    /// `first`, `lo`, `hi` are small non-negative i64.
    pub fn mask_tokens(&mut self, a: Value, first: Value, lo: Value, hi: Value) -> Value {
        let splat = |e: &mut Self, x: Value| {
            let x = e.b.ins().ireduce(I32, x);
            e.b.ins().splat(I32X4, x)
        };
        let lanes = [0u32, 1, 2, 3].iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
        let lanes = self.b.func.dfg.constants.insert(lanes.into());
        let lanes = self.b.ins().vconst(I32X4, lanes);
        let first = splat(self, first);
        let token = self.b.ins().iadd(first, lanes);
        let (lo, hi) = (splat(self, lo), splat(self, hi));
        let below = self.b.ins().icmp(IntCC::SignedGreaterThan, lo, token);
        let inside = self.b.ins().icmp(IntCC::SignedGreaterThan, hi, token);
        let keep = self.b.ins().band_not(inside, below);
        let mask = self.b.ins().bitcast(F32X4, little(), keep);
        let nothing = self.splat_const(f32::NEG_INFINITY);
        self.b.ins().bitselect(mask, a, nothing)
    }

    // Memory.

    /// An f32.
    pub fn load(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().load(F32, MEM, address, offset)
    }

    /// A float of type `ty`.
    pub fn load_float(&mut self, ty: Type, address: Value, offset: i32) -> Value {
        self.b.ins().load(ty, MEM, address, offset)
    }

    /// Four f32.
    pub fn load4(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().load(F32X4, MEM, address, offset)
    }

    /// Stores any float value.
    pub fn store(&mut self, value: Value, address: Value, offset: i32) {
        self.b.ins().store(MEM, value, address, offset);
    }

    /// An f32 in all four lanes.
    pub fn load_splat(&mut self, address: Value, offset: i32) -> Value {
        let x = self.load(address, offset);
        self.splat(x)
    }

    /// An f32 in all four lanes; [`READ_ONLY`]'s terms hold.
    pub fn load_fixed_splat(&mut self, address: Value, offset: i32) -> Value {
        let x = self.b.ins().load(F32, READ_ONLY, address, offset);
        self.splat(x)
    }

    /// One element of f32 or bf16 as f32.
    pub fn load_elem(&mut self, elem: Elem, address: Value, offset: i32) -> Value {
        if is_word(elem) {
            return self.load(address, offset);
        }
        let bits = self.b.ins().uload16(I32, MEM, address, offset);
        let n = self.b.ins().iconst(I32, 16);
        let bits = self.b.ins().ishl(bits, n);
        self.b.ins().bitcast(F32, MemFlagsData::new(), bits)
    }

    /// Four consecutive elements of f32 or bf16 as f32x4; [`READ_ONLY`]'s terms hold.
    pub fn load_fixed4(&mut self, elem: Elem, address: Value, offset: i32) -> Value {
        if is_word(elem) {
            return self.b.ins().load(F32X4, READ_ONLY, address, offset);
        }
        let bits = self.b.ins().uload16x4(READ_ONLY, address, offset);
        let n = self.b.ins().iconst(I32, 16);
        let bits = self.b.ins().ishl(bits, n);
        self.b.ins().bitcast(F32X4, little(), bits)
    }

    /// Stores an f32 as f32 or as the nearest bf16 (ties to even).
    pub fn store_elem(&mut self, elem: Elem, value: Value, address: Value, offset: i32) {
        if is_word(elem) {
            return self.store(value, address, offset);
        }
        let bits = self.b.ins().bitcast(I32, MemFlagsData::new(), value);
        let odd = self.b.ins().ushr_imm_u(bits, 16);
        let odd = self.b.ins().band_imm_u(odd, 1);
        let rounded = self.b.ins().iadd(bits, odd);
        let rounded = self.b.ins().iadd_imm_s(rounded, 0x7fff);
        let rounded = self.b.ins().ushr_imm_u(rounded, 16);
        self.b.ins().istore16(MEM, rounded, address, offset);
    }

    // Words of four lanes, i32x4.

    /// Four words.
    pub fn load_words(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().load(I32X4, MEM, address, offset)
    }

    /// Four words; [`READ_ONLY`]'s terms hold.
    pub fn load_fixed_words(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().load(I32X4, READ_ONLY, address, offset)
    }

    /// Four half words, each with zeros above it.
    pub fn load_halves(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().uload16x4(MEM, address, offset)
    }

    /// Four half words, each with zeros above it; [`READ_ONLY`]'s terms hold.
    pub fn load_fixed_halves(&mut self, address: Value, offset: i32) -> Value {
        self.b.ins().uload16x4(READ_ONLY, address, offset)
    }

    /// Eight bytes as two vectors of words, each byte with its sign above it; [`READ_ONLY`]'s terms hold.
    pub fn load_fixed_bytes(&mut self, address: Value, offset: i32) -> [Value; 2] {
        let halves = self.b.ins().sload8x8(READ_ONLY, address, offset);
        [self.b.ins().swiden_low(halves), self.b.ins().swiden_high(halves)]
    }

    /// Stores the last byte of an i64.
    pub fn store_byte(&mut self, value: Value, address: Value, offset: i32) {
        self.b.ins().istore8(MEM, value, address, offset);
    }

    /// words << n.
    pub fn shl4(&mut self, words: Value, n: i64) -> Value {
        if n == 0 { words } else { self.b.ins().ishl_imm_u(words, n) }
    }

    /// words >> n, zeros from above.
    pub fn shr4(&mut self, words: Value, n: i64) -> Value {
        if n == 0 { words } else { self.b.ins().ushr_imm_u(words, n) }
    }

    /// words >> n, signs from above.
    pub fn sar4(&mut self, words: Value, n: i64) -> Value {
        self.b.ins().sshr_imm_u(words, n)
    }

    /// words & mask.
    pub fn and4(&mut self, words: Value, mask: u32) -> Value {
        let mask = self.b.ins().iconst(I32, i64::from(mask as i32));
        let mask = self.b.ins().splat(I32X4, mask);
        self.b.ins().band(words, mask)
    }

    /// Signed words as f32x4.
    pub fn floats_of(&mut self, words: Value) -> Value {
        self.b.ins().fcvt_from_sint(F32X4, words)
    }

    /// The f32x4 with these bits.
    pub fn bits_floats(&mut self, words: Value) -> Value {
        self.b.ins().bitcast(F32X4, little(), words)
    }
}

/// Whether an element is a word that is read as an f32, and not a bf16. Weights and caches of i32 are refused.
fn is_word(elem: Elem) -> bool {
    match elem {
        Elem::F32 | Elem::I32 => true,
        Elem::Bf16 => false,
    }
}

/// Bitcasts between vectors of different lanes must say an endianness.
fn little() -> MemFlagsData {
    MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little)
}
