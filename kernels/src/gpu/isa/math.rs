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
}
