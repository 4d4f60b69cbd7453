//! Elementary functions inline: generated code calls nothing.

use cranelift_codegen::ir::Value;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};

use super::emit::Emit;

impl Emit<'_> {
    /// exp of four floats, relative error about 2e-7; below -87.3 it gives e^-87.3, about 1e-38.
    ///
    /// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its series to r^7; n becomes the exponent bits of a factor,
    /// where adding 1.5 * 2^23 has left it in the low bits of a float.
    pub fn exp4(&mut self, x: Value) -> Value {
        let (least, most) = (self.splat_const(-87.3), self.splat_const(88.3));
        // In this order what is no number stays what it is.
        let x = self.fmax(least, x);
        let (negated, most) = (self.fneg(x), self.fneg(most));
        let negated = self.fmax(most, negated);
        let x = self.fneg(negated);
        let magic = self.splat_const(12_582_912.0);
        let log2e = self.splat_const(std::f32::consts::LOG2_E);
        let shifted = self.fma(x, log2e, magic);
        let n = self.fsub(shifted, magic);
        // ln 2 in two parts, the first with few enough bits that n times it is exact.
        let (high, low) = (self.splat_const(-0.693_359_4), self.splat_const(2.121_944_4e-4));
        let r = self.fma(n, high, x);
        let r = self.fma(n, low, r);
        let mut sum = self.splat_const(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            let c = self.splat_const(coefficient);
            sum = self.fma(sum, r, c);
        }
        // 2^n as a factor: added to the bits of what is no number, n could make it one.
        let (one, exponent) = (self.splat_const(1.0), self.bits_shl(shifted, 23));
        let power = self.add_bits(one, exponent);
        self.fmul(sum, power)
    }

    /// exp of one float.
    pub fn exp(&mut self, x: Value) -> Value {
        let x = self.splat(x);
        let y = self.exp4(x);
        self.lane(y, 0)
    }

    /// 1 / (1 + exp(-x)) of four floats.
    pub fn sigmoid4(&mut self, x: Value) -> Value {
        let minus = self.fneg(x);
        let e = self.exp4(minus);
        let one = self.splat_const(1.0);
        let sum = self.fadd(one, e);
        self.fdiv(one, sum)
    }

    /// x * sigmoid(x) of four floats.
    pub fn silu4(&mut self, x: Value) -> Value {
        let s = self.sigmoid4(x);
        self.fmul(x, s)
    }

    /// ln of a positive normal float, absolute error about 1e-7 times its size plus 1e-7.
    ///
    /// x = 2^e m with m in [sqrt 1/2, sqrt 2); ln m = 2 artanh(s), s = (m - 1) / (m + 1), by its series.
    pub fn ln(&mut self, x: Value) -> Value {
        let bits = self.float_bits(x);
        // Moves the split from m = 1 to m = sqrt 1/2: 0x3f3504f3 is its bits.
        let moved = self.add_const(bits, 0x3f80_0000 - 0x3f35_04f3);
        let exponent = self.shr_const(moved, 23);
        let exponent = self.add_const(exponent, -127);
        let fraction = self.and_const(moved, 0x007f_ffff);
        let fraction = self.add_const(fraction, 0x3f35_04f3);
        let m = self.bits_float(fraction);
        let e = self.float_of(exponent);
        let one = self.float(1.0);
        let (above, below) = (self.fsub(m, one), self.fadd(m, one));
        let s = self.fdiv(above, below);
        let s2 = self.fmul(s, s);
        let mut sum = self.float(2.0 / 11.0);
        for coefficient in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
            let c = self.float(coefficient);
            sum = self.fma(sum, s2, c);
        }
        let (sum, ln2) = (self.fmul(sum, s), self.float(std::f32::consts::LN_2));
        self.fma(e, ln2, sum)
    }

    /// (sin, cos) of a non-negative f64 angle up to about 1e7, as f64 with absolute error below 1e-9.
    ///
    /// The angle less n quarter turns, in two parts (Cody and Waite), then the series of both functions.
    pub fn sin_cos(&mut self, angle: Value) -> (Value, Value) {
        let per_quarter = self.double(std::f64::consts::FRAC_2_PI);
        let turns = self.fmul(angle, per_quarter);
        let n = self.nearest(turns);
        // pi/2 as fdlibm splits it: 33 bits, and the rest.
        let (high, low) = (self.double(1.570_796_326_734_125_6), self.double(6.077_100_506_506_192e-11));
        let part = self.fmul(n, high);
        let r = self.fsub(angle, part);
        let part = self.fmul(n, low);
        let r = self.fsub(r, part);
        let r2 = self.fmul(r, r);
        let series = |e: &mut Self, coefficients: &[f64]| {
            let mut sum = e.double(coefficients[0]);
            for c in &coefficients[1..] {
                let (product, c) = (e.fmul(sum, r2), e.double(*c));
                sum = e.fadd(product, c);
            }
            sum
        };
        let sin = series(
            self,
            &[-1.0 / 39_916_800.0, 1.0 / 362_880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0],
        );
        let sin = self.fmul(sin, r);
        let cos = series(
            self,
            &[1.0 / 479_001_600.0, -1.0 / 3_628_800.0, 1.0 / 40_320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0],
        );
        let n = self.double_to_int(n);
        let quadrant = self.and_const(n, 3);
        let zero = self.int(0);
        let swap = self.and_const(n, 1);
        let swap = self.cmp(IntCC::NotEqual, swap, zero);
        let (s, c) = (self.select(swap, cos, sin), self.select(swap, sin, cos));
        // sin is negative in quadrants 2 and 3, cos in 1 and 2.
        let two = self.int(2);
        let minus_s = self.cmp(IntCC::SignedGreaterThanOrEqual, quadrant, two);
        let next = self.add_const(quadrant, 1);
        let next = self.and_const(next, 2);
        let minus_c = self.cmp(IntCC::NotEqual, next, zero);
        let (ns, nc) = (self.fneg(s), self.fneg(c));
        (self.select(minus_s, ns, s), self.select(minus_c, nc, c))
    }

    /// 0 where `x` is at most `least`, `y` elsewhere, in each of four lanes: also where `x` is no number.
    pub fn zero_where_below(&mut self, x: Value, least: Value, y: Value) -> Value {
        let zero = self.splat_const(0.0);
        let below = self.fcmp(FloatCC::LessThanOrEqual, x, least);
        self.pick4(below, zero, y)
    }

    /// Whether a > b.
    pub fn greater(&mut self, a: Value, b: Value) -> Value {
        self.fcmp(FloatCC::GreaterThan, a, b)
    }
}
