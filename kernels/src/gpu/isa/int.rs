//! Integers and conditions.

use inkwell::IntPredicate;

use super::emit::{Emit, Float, Int, Ptr, ok};

impl<'c> Emit<'c> {
    /// An i32 constant.
    pub fn int(&self, n: u64) -> Int<'c> {
        self.context.i32_type().const_int(n, false)
    }

    /// An i32 of which the optimiser does not know that it is `a`: a loop up to it stays a loop, and what is made from
    /// it is made behind this place.
    pub fn opaque(&self, a: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        self.asm(ty, "mov.b32 $0, $1;", "=r,r", true, &[a.into()]).into_int_value()
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

    /// A condition as 1 or 0.
    pub fn flag(&self, c: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_z_extend(c, self.i32(), ""))
    }

    /// Bits that are set.
    pub fn ones(&self, a: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        self.asm(ty, "popc.b32 $0, $1;", "=r,r", false, &[a.into()]).into_int_value()
    }

    /// The lowest bit that is set, of an integer that is not 0.
    pub fn lowest(&self, a: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        let text = "{ .reg .b32 x; brev.b32 x, $1; bfind.shiftamt.u32 $0, x; }";
        self.asm(ty, text, "=r,r", false, &[a.into()]).into_int_value()
    }

    /// a << b, b below the width.
    pub fn shifted_left(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_left_shift(a, b, ""))
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

    /// A word with its two inner bytes exchanged.
    pub fn exchange_inner_bytes(&self, a: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        self.asm(ty, "prmt.b32 $0, $1, 0, 0x3120;", "=r,r", false, &[a.into()]).into_int_value()
    }

    /// Four of the bytes of two words, `a`'s being 0 to 3 and `b`'s 4 to 7: a hexadecimal digit of `which` each, the lowest byte's last.
    pub fn bytes_of(&self, a: Int<'c>, b: Int<'c>, which: u64) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into(); 3], false);
        let args = [a, b, self.int(which)].map(|x| x.into());
        self.asm(ty, "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", false, &args).into_int_value()
    }

    /// The smaller.
    pub fn min(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.pick(self.lt(a, b), a, b)
    }

    /// The larger.
    pub fn max(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.pick(self.lt(a, b), b, a)
    }

    /// a ^ b.
    pub fn xor(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        ok(self.b.build_xor(a, b, ""))
    }

    /// a >> n, sign kept.
    pub fn shift_right(&self, a: Int<'c>, n: u64) -> Int<'c> {
        ok(self.b.build_right_shift(a, a.get_type().const_int(n, false), true, ""))
    }

    /// An i64 constant.
    pub fn long(&self, n: u64) -> Int<'c> {
        self.i64().const_int(n, false)
    }

    /// An unsigned i32 as i64.
    pub fn wide_unsigned(&self, a: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_z_extend(a, self.i64(), ""))
    }

    /// A condition that holds.
    pub fn holds(&self) -> Int<'c> {
        self.context.bool_type().const_all_ones()
    }

    /// The low half of an i64.
    pub fn low(&self, a: Int<'c>) -> Int<'c> {
        ok(self.b.build_int_truncate(a, self.i32(), ""))
    }

    /// Its high half.
    pub fn high(&self, a: Int<'c>) -> Int<'c> {
        self.low(self.shift_right_unsigned(a, self.long(32)))
    }

    /// The i64 of two halves.
    pub fn join(&self, high: Int<'c>, low: Int<'c>) -> Int<'c> {
        let high = self.shift_left(self.wide_unsigned(high), 32);
        self.or(high, self.wide_unsigned(low))
    }

    /// The opposite condition; all bits of an integer turned.
    pub fn not(&self, a: Int<'c>) -> Int<'c> {
        ok(self.b.build_not(a, ""))
    }

    /// a << n.
    pub fn shift_left(&self, a: Int<'c>, n: u64) -> Int<'c> {
        ok(self.b.build_left_shift(a, a.get_type().const_int(n, false), ""))
    }

    /// a >> n, zeros from the left; n below the width.
    pub fn shift_right_unsigned(&self, a: Int<'c>, n: Int<'c>) -> Int<'c> {
        ok(self.b.build_right_shift(a, n, false, ""))
    }

    /// The larger, unsigned.
    pub fn max_unsigned(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        self.pick(self.lt_unsigned(a, b), b, a)
    }

    /// The larger of both halves of a word, without signs, half by half.
    pub fn max_halves(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into(); 2], false);
        self.asm(ty, "max.u16x2 $0, $1, $2;", "=r,r,r", false, &[a.into(), b.into()]).into_int_value()
    }

    /// The upper half of the product of two unsigned i64.
    pub fn mul_high(&self, a: Int<'c>, b: Int<'c>) -> Int<'c> {
        let ty = self.i64().fn_type(&[self.i64().into(), self.i64().into()], false);
        let text = "mul.hi.u64 $0, $1, $2;";
        self.asm(ty, text, "=l,l,l", false, &[a.into(), b.into()]).into_int_value()
    }
}
