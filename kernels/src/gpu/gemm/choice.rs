//! Which experts a row has, what each counts, and where their matrices lie.

use super::stored::Stored;
use crate::gpu::isa::{Emit, Float, Int, Ptr};

/// The experts of a row: those that a router has chosen, and the shared one behind them, where there is one.
#[derive(Clone, Copy)]
pub struct Choice {
    /// Experts that are chosen from, which is the shared one's number.
    pub experts: u64,
    pub active: u64,
    pub shared: bool,
}

impl Choice {
    /// Experts of a row.
    pub fn count(self) -> u64 {
        self.active + u64::from(self.shared)
    }

    /// Experts in all.
    pub fn all(self) -> u64 {
        self.experts + u64::from(self.shared)
    }

    /// The expert in slot `slot` of a row.
    pub fn expert<'c>(self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
        self.of(e, row, slot, &|e, at| e.load_int(e.operand("index"), at))
    }

    /// The same where the router may not be through, or has just become so.
    pub fn expert_anew<'c>(self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Int<'c> {
        self.of(e, row, slot, &|e, at| e.load_int_anew(e.operand("index"), at))
    }

    fn of<'c>(
        self,
        e: &Emit<'c>,
        row: Int<'c>,
        slot: Int<'c>,
        load: &dyn Fn(&Emit<'c>, Int<'c>) -> Int<'c>,
    ) -> Int<'c> {
        let at = |slot| e.add(e.mul_const(row, e.stride("index")), slot);
        if !self.shared {
            return load(e, at(slot));
        }
        let last = e.int(self.active - 1);
        e.pick(e.lt(last, slot), e.int(self.experts), load(e, at(e.min(slot, last))))
    }

    /// The weight of a row's slot in the sum over them.
    pub fn share<'c>(self, e: &Emit<'c>, row: Int<'c>, slot: Int<'c>) -> Float<'c> {
        let at = |slot| e.add(e.mul_const(row, e.stride("weight")), slot);
        if !self.shared {
            return e.load(e.operand("weight"), at(slot));
        }
        let last = e.int(self.active - 1);
        let share = e.load(e.operand("weight"), at(e.min(slot, last)));
        e.pick_float(e.lt(last, slot), e.float(1.0), share)
    }

    /// The matrix of `out` by `in_features` of an expert: in the weight `name`, or the shared one's own.
    pub fn matrix<'c>(
        self,
        e: &Emit<'c>,
        (name, stored): (&str, Stored),
        expert: Int<'c>,
        (out, in_features): (u64, u64),
    ) -> Ptr<'c> {
        let bytes = stored.matrix_bytes(out, in_features);
        let matrix = e.byte_offset(e.operand(name), e.mul_const(e.wide(expert), bytes));
        if !self.shared {
            return matrix;
        }
        e.pick_ptr(e.eq(expert, e.int(self.experts)), e.operand(&format!("shared_{name}")), matrix)
    }
}
