//! What blocks of one launch hand each other through device memory: words that one of them raises when what it wrote is there.
//!
//! PTX ISA 8.10.3: a `ld.acquire` or an `atom.acq_rel` that reads what a `red.release`, a `st.release` or another `atom.acq_rel` has written orders all that was written
//! before the one before all that is read behind the other. Other threads of either block are in that order by its barriers.

use super::emit::{Emit, Int, Ptr};

impl<'c> Emit<'c> {
    /// base[index] of global memory; what was written before that value is seen behind this.
    pub fn load_acquired(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i64().into()], false);
        let at = self.address(self.at(base, index));
        self.asm(ty, "ld.acquire.gpu.global.b32 $0, [$1];", "=r,l,~{memory}", true, &[at.into()])
            .into_int_value()
    }

    /// `base[index] += by` of global memory: who sees it sees what was written before.
    pub fn raise(&self, base: Ptr<'c>, index: Int<'c>, by: Int<'c>) {
        let at = self.address(self.at(base, index));
        self.effect("red.release.gpu.global.add.u32 [$0], $1;", "l,r", &[at, by]);
    }

    /// `base[index] += 1` of global memory, and what was there before: who comes later sees what was written before, and sees here
    /// what was written before by those who came earlier.
    pub fn take_turn(&self, base: Ptr<'c>, index: Int<'c>) -> Int<'c> {
        let ty = self.i32().fn_type(&[self.i64().into()], false);
        let at = self.address(self.at(base, index));
        let text = "atom.acq_rel.gpu.global.add.u32 $0, [$1], 1;";
        self.asm(ty, text, "=r,l,~{memory}", true, &[at.into()]).into_int_value()
    }

    /// `base[index] = value` of global memory: who sees it sees what was written before.
    pub fn store_released(&self, base: Ptr<'c>, index: Int<'c>, value: Int<'c>) {
        let at = self.address(self.at(base, index));
        self.effect("st.release.gpu.global.b32 [$0], $1;", "l,r", &[at, value]);
    }

    /// Nanoseconds of the device's clock, as an i64.
    pub fn nanoseconds(&self) -> Int<'c> {
        let ty = self.i64().fn_type(&[], false);
        self.asm(ty, "mov.u64 $0, %globaltimer;", "=l", true, &[]).into_int_value()
    }

    /// Stores a word where the host sees it, too.
    pub fn tell_host(&self, at: Int<'c>, word: u64, value: Int<'c>) {
        self.effect(&format!("st.relaxed.sys.global.b32 [$0+{}], $1;", 4 * word), "l,r", &[at, value]);
    }

    /// What was told is told; the launch fails.
    pub fn fail(&self) {
        self.effect("fence.acq_rel.sys; trap;", "", &[]);
    }
}
