//! Tiles in the registers of a warp.

use crate::gpu::isa::{Emit, Int, Var, WARP};

/// A row of `32 * n` words over a warp: register i of lane l has element `32 i + l`.
#[derive(Clone)]
pub struct RegisterTile<'c> {
    registers: Vec<Var<'c>>,
}

impl<'c> RegisterTile<'c> {
    /// A row of which every element is `word`.
    pub fn filled(e: &Emit<'c>, n: u64, word: Int<'c>) -> RegisterTile<'c> {
        RegisterTile { registers: (0..n).map(|_| e.var(word.into())).collect() }
    }

    /// A row of which `word` gives element i.
    pub fn load(e: &Emit<'c>, n: u64, word: impl Fn(&Emit<'c>, Int<'c>) -> Int<'c>) -> RegisterTile<'c> {
        let lane = e.lane();
        let place = |i: u64| e.add_const(lane, (i * WARP) as i64);
        RegisterTile { registers: (0..n).map(|i| e.var(word(e, place(i)).into())).collect() }
    }

    /// This lane's elements.
    pub fn words(&self, e: &Emit<'c>) -> Vec<Int<'c>> {
        self.registers.iter().map(|register| e.get(*register).into_int_value()).collect()
    }

    /// Changes each of this lane's elements.
    pub fn change(&self, e: &Emit<'c>, word: impl Fn(usize, Int<'c>) -> Int<'c>) {
        for (i, register) in self.registers.iter().enumerate() {
            e.set(*register, word(i, e.get(*register).into_int_value()).into());
        }
    }
}
