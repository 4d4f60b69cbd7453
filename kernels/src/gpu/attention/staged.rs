//! Pages of a KV head that warps take in turn, each from a place of its own in shared memory: the first is copied before a launch
//! has its inputs, where this step writes nothing in it.

use crate::gpu::isa::{Emit, Int, Ptr, Var, WARP};

/// A warp's turns.
pub struct Turns<'c> {
    /// The slot of the page in hand, the one behind the last, and from one to the next.
    slot: Var<'c>,
    end: Var<'c>,
    step: Var<'c>,
    /// The page that is on its way since before the inputs were there, or -1.
    guess: Var<'c>,
    /// The warp's barrier, the phase that it is in, and the place that it counts copies to.
    full: Int<'c>,
    phase: Var<'c>,
    place: Ptr<'c>,
}

/// How the pages of some slots are found and copied.
pub struct Supply<'a, 'c> {
    /// The page in a slot; before the inputs are there it may be another one than behind them.
    pub logical: &'a dyn Fn(&Emit<'c>, Int<'c>) -> Int<'c>,
    /// Starts copies of a slot's page to byte address `.2`, counted by barrier `.3`. One thread.
    pub copy: &'a dyn Fn(&Emit<'c>, (Int<'c>, Int<'c>), Int<'c>, Int<'c>),
}

/// The slots of a warp: first, behind the last, and from one to the next.
pub type Span<'c> = (Int<'c>, Int<'c>, Int<'c>);

impl<'c> Turns<'c> {
    /// Makes the places of `warps`, of `bytes` each, from the beginning of dynamic shared memory on. All threads of the block must
    /// come here; a barrier of the block follows inside.
    pub fn new(e: &Emit<'c>, warps: u64, bytes: u64) -> Turns<'c> {
        let barriers = e.shared_address(e.shared(2 * warps));
        e.when(e.lt(e.thread(), e.int(warps)), |e| {
            e.barrier_init(e.add(barriers, e.mul_const(e.thread(), 8)), 1);
            e.barrier_init_fence();
        });
        e.barrier();
        let warp = e.div_rem(e.thread(), WARP).0;
        let var = |n: Int<'c>| e.var(n.into());
        Turns {
            slot: var(e.int(0)),
            end: var(e.int(0)),
            step: var(e.int(1)),
            guess: var(e.minus_one()),
            full: e.add(barriers, e.mul_const(warp, 8)),
            phase: var(e.int(0)),
            place: e.byte_offset(e.dynamic_shared(), e.mul_const(warp, bytes)),
        }
    }

    /// The warp's slots, before the inputs are there. Its first page is copied, where it is one of the first `settled`.
    pub fn begin(&self, e: &Emit<'c>, slots: Span<'c>, settled: Int<'c>, from: &Supply<'_, 'c>) {
        let (first, end, step) = slots;
        e.set(self.slot, first.into());
        e.set(self.end, end.into());
        e.set(self.step, step.into());
        e.when(e.lt(first, end), |e| {
            let logical = (from.logical)(e, first);
            e.when(e.and(e.ge(logical, e.int(0)), e.lt(logical, settled)), |e| {
                e.set(self.guess, logical.into());
                self.copy(e, from, (first, logical));
            });
        });
    }

    fn copy(&self, e: &Emit<'c>, from: &Supply<'_, 'c>, page: (Int<'c>, Int<'c>)) {
        let to = e.shared_address(self.place);
        e.when(e.eq(e.lane(), e.int(0)), |e| (from.copy)(e, page, to, self.full));
    }

    /// Calls `body` with where each page in the warp's slots was copied to, and with the page, if it is one of the first `pages`.
    /// Behind [`Turns::begin`] and the inputs.
    pub fn run(
        &self,
        e: &Emit<'c>,
        from: &Supply<'_, 'c>,
        pages: Int<'c>,
        body: impl FnOnce(&Emit<'c>, Ptr<'c>, Int<'c>),
    ) {
        let int = |e: &Emit<'c>, var: Var<'c>| e.get(var).into_int_value();
        let wait = |e: &Emit<'c>| {
            e.barrier_wait(self.full, int(e, self.phase));
            e.set(self.phase, e.sub(e.int(1), int(e, self.phase)).into());
        };
        let turn = |e: &Emit<'c>| {
            let slot = int(e, self.slot);
            let logical = (from.logical)(e, slot);
            let guess = int(e, self.guess);
            let (guessed, same) = (e.ge(guess, e.int(0)), e.eq(logical, guess));
            // What was guessed wrong must have come before the place is used again.
            e.when(e.and(guessed, e.not(same)), wait);
            e.when(e.and(e.ge(logical, e.int(0)), e.lt(logical, pages)), |e| {
                e.when(e.not(same), |e| {
                    // All lanes have read the page before.
                    e.warp_barrier();
                    self.copy(e, from, (slot, logical));
                });
                wait(e);
                body(e, self.place, logical);
            });
            e.set(self.guess, e.minus_one().into());
            e.set(self.slot, e.add(slot, int(e, self.step)).into());
        };
        e.during(|e| e.lt(int(e, self.slot), int(e, self.end)), turn);
    }
}
