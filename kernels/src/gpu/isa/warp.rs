//! What the lanes of a warp do together.

use super::emit::{Emit, Float, Int, LANES, WARP};

impl<'c> Emit<'c> {
    /// The lane's number.
    pub fn lane(&self) -> Int<'c> {
        self.and(self.thread(), self.int(WARP - 1))
    }

    /// Whether this is the warp's first lane, which is not known before `word` is there: an arrival by itself overtakes loads that
    /// are under way, one that this decides comes behind them (a warp's lanes load together).
    pub fn first_lane_behind(&self, word: Int<'c>) -> Int<'c> {
        let lane = self.lane();
        // Zero in lane 0 alone, whatever the word is: LLVM would see it.
        self.eq(self.add(self.opaque(self.and(word, lane)), lane), self.int(0))
    }

    /// `(g, t)` of this lane: its number by four.
    pub fn lane_pair(&self) -> (Int<'c>, Int<'c>) {
        self.div_rem(self.lane(), 4)
    }

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

    /// The same of an i64.
    pub fn shuffle_long(&self, x: Int<'c>, mask: u64) -> Int<'c> {
        let [high, low] = [self.high(x), self.low(x)].map(|half| self.shuffle_int(half, mask));
        self.join(high, low)
    }

    /// Sum over the lanes that `masks` reach, in a fixed order; every lane has it.
    pub fn warp_sum(&self, x: Float<'c>, masks: &[u64]) -> Float<'c> {
        masks.iter().fold(x, |sum, mask| self.fadd(sum, self.shuffle(sum, *mask)))
    }

    /// Maximum over the warp.
    pub fn warp_max(&self, x: Float<'c>) -> Float<'c> {
        LANES.iter().fold(x, |most, mask| self.fmax(most, self.shuffle(most, *mask)))
    }

    /// The largest of an unsigned int over the warp: `redux.sync`.
    pub fn warp_max_unsigned(&self, x: Int<'c>) -> Int<'c> {
        self.int_asm("redux.sync.max.u32 $0, $1, 0xffffffff;", x)
    }

    /// The smallest.
    pub fn warp_min_unsigned(&self, x: Int<'c>) -> Int<'c> {
        self.int_asm("redux.sync.min.u32 $0, $1, 0xffffffff;", x)
    }

    /// The sum of an int over the warp.
    pub fn warp_total(&self, x: Int<'c>) -> Int<'c> {
        self.int_asm("redux.sync.add.u32 $0, $1, 0xffffffff;", x)
    }

    /// The value of the lane `step` lanes below; its own where there is none.
    pub fn shuffle_up(&self, x: Int<'c>, step: u64) -> Int<'c> {
        self.int_asm(&format!("shfl.sync.up.b32 $0, $1, {step}, 0, -1;"), x)
    }

    /// The sum over the lanes up to this one.
    pub fn sum_up_to(&self, x: Int<'c>) -> Int<'c> {
        [1, 2, 4, 8, 16].iter().fold(x, |sum, step| {
            let below = self.shuffle_up(sum, *step);
            self.add(sum, self.pick(self.lt(self.lane(), self.int(*step)), self.int(0), below))
        })
    }

    /// A value that all lanes of the warp have, so that the assembler sees it.
    pub fn uniform(&self, x: Int<'c>) -> Int<'c> {
        self.lane_value(x, 0)
    }

    /// The value of one lane.
    pub fn lane_value(&self, x: Int<'c>, lane: u64) -> Int<'c> {
        self.int_asm(&format!("shfl.sync.idx.b32 $0, $1, {lane}, 31, -1;"), x)
    }

    /// The value of the lane whose number this lane gives.
    pub fn value_of_lane(&self, x: Int<'c>, lane: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into(), self.i32().into()], false);
        let text = "shfl.sync.idx.b32 $0, $1, $2, 31, -1;";
        self.asm(ty, text, "=r,r,r", true, &[x.into(), lane.into()]).into_int_value()
    }

    /// Whether the condition holds in any lane.
    pub fn any(&self, condition: Int<'c>) -> Int<'c> {
        let text =
            "{ .reg .pred p; setp.ne.s32 p, $1, 0; vote.sync.any.pred p, p, -1; selp.b32 $0, 1, 0, p; }";
        self.eq(self.int_asm(text, self.flag(condition)), self.int(1))
    }

    fn int_asm(&self, text: &str, x: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i32().into()], false);
        self.asm(ty, text, "=r,r", true, &[x.into()]).into_int_value()
    }
}
