//! Pages of a KV head that warps take in turn, one or two of them from a place of their own in shared memory: the first is copied
//! before a launch has its inputs, where this step writes nothing in it.

use crate::gpu::isa::{Emit, Int, Ptr, Var, WARP};

/// A warp's turns.
pub struct Turns<'c> {
    /// Warps that share a place, the number of this one's place, and which of its warps this is.
    sharers: u64,
    place: Int<'c>,
    pub sharer: Int<'c>,
    /// The slot of the page in hand, the one behind the last, and from one to the next.
    slot: Var<'c>,
    end: Var<'c>,
    step: Var<'c>,
    /// The page that is on its way since before the inputs were there, or -1.
    guess: Var<'c>,
    /// `[place]`: the same, of what was copied.
    guesses: Ptr<'c>,
    /// Address of the barrier that counts copies to the place's memory, and its phase. Eight bytes on stands the one on which all
    /// arrive when they have read a page.
    full: Int<'c>,
    phase: Var<'c>,
    /// The phase of that one.
    used: Var<'c>,
    memory: Ptr<'c>,
}

/// How the pages of some slots are found and copied.
pub struct Supply<'a, 'c> {
    /// The page in a slot; before the inputs are there it may be another one than behind them.
    pub logical: &'a dyn Fn(&Emit<'c>, Int<'c>) -> Int<'c>,
    /// Starts copies of page `.1` to byte address `.2`, which barrier `.3` counts. One thread.
    pub copy: &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Int<'c>),
}

/// The slots of a warp: first, behind the last, and from one to the next.
pub type Span<'c> = (Int<'c>, Int<'c>, Int<'c>);

impl<'c> Turns<'c> {
    /// Makes places of `bytes` each, of `sharers` warps, from the beginning of dynamic shared memory on. All threads of the block
    /// must come here; a barrier of the block follows inside.
    pub fn new(e: &Emit<'c>, (places, sharers): (u64, u64), bytes: u64) -> Turns<'c> {
        let (barriers, guesses) = (e.shared_address(e.shared(4 * places)), e.shared(places));
        e.when(e.lt(e.thread(), e.int(places)), |e| {
            let full = e.add(barriers, e.mul_const(e.thread(), 16));
            e.barrier_init(full, 1);
            e.barrier_init(e.add_const(full, 8), sharers * WARP);
            e.barrier_init_fence();
        });
        e.barrier();
        let (place, sharer) = e.div_rem(e.div_rem(e.thread(), WARP).0, sharers);
        let var = |n: Int<'c>| e.var(n.into());
        Turns {
            sharers,
            place,
            sharer,
            slot: var(e.int(0)),
            end: var(e.int(0)),
            step: var(e.int(1)),
            guess: var(e.minus_one()),
            guesses,
            full: e.add(barriers, e.mul_const(place, 16)),
            used: var(e.int(0)),
            phase: var(e.int(0)),
            memory: e.byte_offset(e.dynamic_shared(), e.mul_const(place, bytes)),
        }
    }

    /// The warp's slots, before the inputs are there. Its first page is copied, where it is one of the first `settled`.
    pub fn begin(&self, e: &Emit<'c>, slots: Span<'c>, settled: Int<'c>, from: &Supply<'_, 'c>) {
        let (first, end, step) = slots;
        e.set(self.slot, first.into());
        e.set(self.end, end.into());
        e.set(self.step, step.into());
        // What one lane of one warp sees counts: another might see another page.
        e.when(e.and(e.lt(first, end), self.leads(e)), |e| {
            let logical = e.uniform((from.logical)(e, first));
            e.when(e.and(e.ge(logical, e.int(0)), e.lt(logical, settled)), |e| {
                e.set(self.guess, logical.into());
                self.copy(e, from, logical);
            });
        });
        if self.sharers > 1 {
            e.when(e.and(self.leads(e), e.eq(e.lane(), e.int(0))), |e| {
                e.store(self.guesses, self.place, e.get(self.guess));
            });
        }
    }

    /// Whether this is the first warp of its place.
    fn leads(&self, e: &Emit<'c>) -> Int<'c> {
        e.eq(self.sharer, e.int(0))
    }

    /// Waits until all warps of the place have read the page before: the first, which is to copy over it.
    fn meet(&self, e: &Emit<'c>) {
        if self.sharers == 1 {
            return e.warp_barrier();
        }
        // Every thread arrives: racecheck does not follow one that speaks for its warp.
        let used = e.add_const(self.full, 8);
        e.barrier_arrive(used);
        e.when(self.leads(e), |e| e.barrier_wait(used, e.get(self.used).into_int_value()));
        e.set(self.used, e.sub(e.int(1), e.get(self.used).into_int_value()).into());
    }

    fn copy(&self, e: &Emit<'c>, from: &Supply<'_, 'c>, page: Int<'c>) {
        let to = e.shared_address(self.memory);
        e.when(e.and(self.leads(e), e.eq(e.lane(), e.int(0))), |e| (from.copy)(e, page, to, self.full));
    }

    /// Calls `body` with where each page in the warp's slots was copied to, and with the page, if it is one of the first `pages`.
    /// Behind [`Turns::begin`], the inputs and a barrier of the block.
    pub fn run(
        &self,
        e: &Emit<'c>,
        from: &Supply<'_, 'c>,
        pages: Int<'c>,
        body: impl FnOnce(&Emit<'c>, Ptr<'c>, Int<'c>),
    ) {
        let int = |e: &Emit<'c>, var: Var<'c>| e.get(var).into_int_value();
        if self.sharers > 1 {
            e.set(self.guess, e.load_int(self.guesses, self.place).into());
        }
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
                    self.meet(e);
                    self.copy(e, from, logical);
                });
                wait(e);
                body(e, self.memory, logical);
            });
            e.set(self.guess, e.minus_one().into());
            e.set(self.slot, e.add(slot, int(e, self.step)).into());
        };
        e.during(|e| e.lt(int(e, self.slot), int(e, self.end)), turn);
    }
}
