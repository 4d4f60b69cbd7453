//! Floats.

use inkwell::FloatPredicate;
use inkwell::values::BasicMetadataValueEnum;

use super::emit::{Emit, Float, Int, Ptr, Var, ok};

impl<'c> Emit<'c> {
    // Floats.

    /// An f32 constant.
    pub fn float(&self, x: f32) -> Float<'c> {
        self.context.f32_type().const_float(f64::from(x))
    }

    /// f32 to f64, which adds, subtracts and compares as f32 does.
    pub fn double(&self, x: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_ext(x, self.context.f64_type(), ""))
    }

    /// f64 to f32.
    pub fn single(&self, x: Float<'c>) -> Float<'c> {
        ok(self.b.build_float_trunc(x, self.context.f32_type(), ""))
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

    /// a >= b.
    pub fn at_least(&self, a: Float<'c>, b: Float<'c>) -> Int<'c> {
        ok(self.b.build_float_compare(FloatPredicate::OGE, a, b, ""))
    }

    /// a == b.
    pub fn same(&self, a: Float<'c>, b: Float<'c>) -> Int<'c> {
        ok(self.b.build_float_compare(FloatPredicate::OEQ, a, b, ""))
    }

    /// The larger.
    pub fn fmax(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        self.float_asm("max.f32 $0, $1, $2;", &[a, b])
    }

    /// The smaller.
    pub fn fmin(&self, a: Float<'c>, b: Float<'c>) -> Float<'c> {
        self.float_asm("min.f32 $0, $1, $2;", &[a, b])
    }

    /// The nearest whole number, ties to even.
    pub fn round(&self, x: Float<'c>) -> Float<'c> {
        self.float_asm("cvt.rni.f32.f32 $0, $1;", &[x])
    }

    /// What is whole of a number that is not negative, as an unsigned i32.
    pub fn whole_unsigned(&self, x: Float<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.f32().into()], false);
        self.asm(ty, "cvt.rzi.u32.f32 $0, $1;", "=r,f", false, &[x.into()]).into_int_value()
    }

    /// A whole number as an i32.
    pub fn whole(&self, x: Float<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.f32().into()], false);
        self.asm(ty, "cvt.rni.s32.f32 $0, $1;", "=r,f", false, &[x.into()]).into_int_value()
    }

    /// The nearest number of E4M3, ties to even, of one that is at most 448 in magnitude: its code.
    pub fn e4m3(&self, x: Float<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.f32().into()], false);
        let text = "{ .reg .b16 c; .reg .f32 z; mov.f32 z, 0f00000000; cvt.rn.satfinite.e4m3x2.f32 c, z, $1; cvt.u32.u16 $0, c; }";
        self.asm(ty, text, "=r,f", false, &[x.into()]).into_int_value()
    }

    /// The same of four numbers, the first in the lowest byte.
    pub fn e4m3_four(&self, x: [Float<'c>; 4]) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.f32().into(); 4], false);
        let text = "{ .reg .b16 a, b; cvt.rn.satfinite.e4m3x2.f32 a, $2, $1; cvt.rn.satfinite.e4m3x2.f32 b, $4, $3; \
                    mov.b32 $0, {a, b}; }";
        self.asm(ty, text, "=r,f,f,f,f", false, &x.map(|x| x.into())).into_int_value()
    }

    /// An unsigned i32 as f32.
    pub fn to_float(&self, n: Int<'c>) -> Float<'c> {
        let ty = self.f32().fn_type(&[self.i32().into()], false);
        self.asm(ty, "cvt.rn.f32.u32 $0, $1;", "=f,r", false, &[n.into()]).into_float_value()
    }

    /// A signed i32 as f32.
    pub fn to_float_signed(&self, n: Int<'c>) -> Float<'c> {
        let ty = self.f32().fn_type(&[self.i32().into()], false);
        self.asm(ty, "cvt.rn.f32.s32 $0, $1;", "=f,r", false, &[n.into()]).into_float_value()
    }

    /// The least whole number from the product of an unsigned i64 and an f32 up, multiplied in f64: an unsigned i64.
    pub fn ceil_of_product(&self, n: Int<'c>, x: Float<'c>) -> Int<'c> {
        let ty = self.i64().fn_type(&[self.i64().into(), self.f32().into()], false);
        let text = "{ .reg .f64 n, x; cvt.rn.f64.u64 n, $1; cvt.f64.f32 x, $2; mul.rn.f64 n, n, x; \
                    cvt.rpi.u64.f64 $0, n; }";
        self.asm(ty, text, "=l,l,f", false, &[n.into(), x.into()]).into_int_value()
    }

    /// An f32 as an unsigned int of the same order, above 0.
    pub fn ordered(&self, x: Float<'c>) -> Int<'c> {
        let bits = self.bits(x);
        let flip = self.or(self.shift_right(bits, 31), self.int(0x8000_0000));
        self.xor(bits, flip)
    }

    /// The f32 that [`Emit::ordered`] gave this for.
    pub fn unordered(&self, key: Int<'c>) -> Float<'c> {
        let flip = self.or(self.shift_right(self.not(key), 31), self.int(0x8000_0000));
        self.widen(self.xor(key, flip))
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

    /// 1 / x, to a unit in the last place; 1 / inf is 0.
    pub fn reciprocal(&self, x: Float<'c>) -> Float<'c> {
        self.float_asm("rcp.approx.ftz.f32 $0, $1;", &[x])
    }

    /// 1 / (1 + e^-x).
    pub fn sigmoid(&self, x: Float<'c>) -> Float<'c> {
        let e = self.exp(ok(self.b.build_float_neg(x, "")));
        self.reciprocal(self.fadd(e, self.float(1.0)))
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

    /// (sin, cos) of `times` (a non-negative i32) steps of 2^-64 turns: whole turns fall off the upper end of the product.
    pub fn sin_cos_steps(&self, step: Int<'c>, times: Int<'c>) -> (Float<'c>, Float<'c>) {
        let rest = self.high(self.mul(step, self.wide_unsigned(times)));
        let rest = ok(self.b.build_signed_int_to_float(rest, self.f32(), ""));
        let angle = self.fmul(rest, self.float(std::f32::consts::TAU / 2f32.powi(32)));
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
}
