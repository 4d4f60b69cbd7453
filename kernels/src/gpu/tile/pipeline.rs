//! Copies into shared memory by the copy engine, and the barriers that say when they are through.
//!
//! ```text
//! producer, one thread                        consumers, whole warp groups
//!   wait empty[s]                               wait full[s]
//!   expect full[s] bytes, start copies          multiply stage s
//!                                               one thread a group arrives at empty[s]
//! ```
//! A stage's barrier has a phase bit that flips each time it completes; both sides count rounds through the ring.

use crate::gpu::isa::{Emit, Int, Ptr, Var};

/// A ring of stages in shared memory.
pub struct Ring<'c> {
    stages: u64,
    /// Byte address of the first barrier; `full` first, then `empty`, 8 bytes each.
    barriers: Int<'c>,
    /// Whether the two blocks of a cluster fill each other's stages.
    paired: bool,
    stage: Var<'c>,
    phase: Var<'c>,
}

impl<'c> Ring<'c> {
    /// Makes the barriers in 16 bytes a stage of shared memory; `consumers` arrivals empty a stage. Every thread of
    /// the block must come here; a barrier of the block follows inside.
    pub fn new(e: &Emit<'c>, stages: u64, consumers: u64) -> Ring<'c> {
        Ring::between(e, stages, (1, consumers))
    }

    /// The same; so many arrivals of producers, who store for themselves, fill a stage.
    pub fn between(e: &Emit<'c>, stages: u64, (producers, consumers): (u64, u64)) -> Ring<'c> {
        let ring = Ring::make(e, stages, (producers, consumers), false);
        e.barrier();
        ring
    }

    /// The same in each of two blocks of a cluster: a stage is empty when it is so in both, so that either may fill it in
    /// both. Every thread of the cluster must come here, and to a barrier of the cluster before it ends.
    pub fn of_pair(e: &Emit<'c>, stages: u64, consumers: u64) -> Ring<'c> {
        let ring = Ring::make(e, stages, (1, 2 * consumers), true);
        e.cluster_barrier();
        ring
    }

    fn make(e: &Emit<'c>, stages: u64, (producers, consumers): (u64, u64), paired: bool) -> Ring<'c> {
        let memory = e.shared(4 * stages);
        let barriers = e.shared_address(memory);
        e.when(e.eq(e.thread(), e.int(0)), |e| {
            for i in 0..stages {
                e.barrier_init(e.add_const(barriers, 8 * i as i64), producers);
                e.barrier_init(e.add_const(barriers, 8 * (stages + i) as i64), consumers);
            }
            e.barrier_init_fence();
        });
        Ring { stages, barriers, paired, stage: e.var(e.int(0).into()), phase: e.var(e.int(0).into()) }
    }

    /// How many they are.
    pub fn stages(&self) -> u64 {
        self.stages
    }

    /// The thread of a warp group that says for it that a stage is used up: the first.
    pub fn speaks(&self, e: &Emit<'c>) -> Int<'c> {
        e.eq(e.and(e.thread(), e.int(127)), e.int(0))
    }

    fn arrive(&self, e: &Emit<'c>, empty: Int<'c>) {
        if self.paired {
            [0, 1].iter().for_each(|block| e.barrier_arrive_at(empty, e.int(*block)));
        } else {
            e.barrier_arrive(empty)
        }
    }

    fn at(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>, Int<'c>) {
        let stage = self.stage(e);
        let full = e.add(self.barriers, e.mul_const(stage, 8));
        (stage, full, e.add_const(full, 8 * self.stages as i64))
    }

    /// The stage in hand.
    pub fn stage(&self, e: &Emit<'c>) -> Int<'c> {
        e.get(self.stage).into_int_value()
    }

    /// The producer's side: waits for an empty stage, announces `bytes`, and lets `copy` start copies into
    /// (stage, its barrier). One thread.
    pub fn produce(&self, e: &Emit<'c>, bytes: u64, copy: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>)) {
        self.produce_some(e, e.int(bytes), copy);
    }

    /// The same of as many bytes as there are.
    pub fn produce_some(&self, e: &Emit<'c>, bytes: Int<'c>, copy: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>)) {
        self.produce_noted(e, bytes, |_, _| {}, copy);
    }

    /// The same; `note` stores by itself what belongs to the stage, before it is announced.
    pub fn produce_noted(
        &self,
        e: &Emit<'c>,
        bytes: Int<'c>,
        note: impl FnOnce(&Emit<'c>, Int<'c>),
        copy: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>),
    ) {
        let (stage, full, empty) = self.at(e);
        let phase = e.get(self.phase).into_int_value();
        e.barrier_wait(empty, e.sub(e.int(1), phase));
        note(e, stage);
        e.barrier_expect_some(full, bytes);
        copy(e, stage, full);
        self.advance(e);
    }

    /// The producer's side of some lanes, each of which starts copies: `first` holds for the one that announces the bytes of all.
    pub fn produce_together(
        &self,
        e: &Emit<'c>,
        first: Int<'c>,
        bytes: u64,
        copy: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>),
    ) {
        let (stage, full, empty) = self.at(e);
        e.barrier_wait(empty, e.sub(e.int(1), e.get(self.phase).into_int_value()));
        e.when(first, |e| e.barrier_expect(full, bytes));
        copy(e, stage, full);
        self.advance(e);
    }

    /// The same among producers who store for themselves at other times, each of whom comes here: the `first` one notes and copies.
    pub fn produce_among(
        &self,
        e: &Emit<'c>,
        first: Int<'c>,
        bytes: u64,
        note: impl FnOnce(&Emit<'c>, Int<'c>),
        copy: impl FnOnce(&Emit<'c>, Int<'c>, Int<'c>),
    ) {
        let (stage, full, _) = self.at(e);
        self.empty(e);
        e.either(
            first,
            |e| {
                note(e, stage);
                e.barrier_expect(full, bytes);
                copy(e, stage, full);
            },
            |e| e.barrier_arrive(full),
        );
        self.advance(e);
    }

    /// The side of producers who store for themselves: waits for the stage in hand to be empty, and returns it.
    pub fn empty(&self, e: &Emit<'c>) -> Int<'c> {
        let (stage, _, empty) = self.at(e);
        e.barrier_wait(empty, e.sub(e.int(1), e.get(self.phase).into_int_value()));
        stage
    }

    /// Says that they have filled it (where `here` holds) and goes on to the next.
    pub fn filled(&self, e: &Emit<'c>, here: Int<'c>) {
        let (_, full, _) = self.at(e);
        e.when(here, |e| e.barrier_arrive(full));
        self.advance(e);
    }

    /// Waits until the stage `window` before the one in hand is full, so that no more than so many are on their way. One thread.
    pub fn wait_behind(&self, e: &Emit<'c>, window: u64) {
        let window = window.min(self.stages) as i64;
        let stage = self.stage(e);
        let phase = e.get(self.phase).into_int_value();
        let back = e.add_const(stage, -window);
        // Of the round before; in the first there is none, and a new barrier counts as past the phase before its first.
        let wrapped = e.lt(back, e.int(0));
        let at = e.pick(wrapped, e.add_const(back, self.stages as i64), back);
        let phase = e.pick(wrapped, e.sub(e.int(1), phase), phase);
        e.barrier_wait(e.add(self.barriers, e.mul_const(at, 8)), phase);
    }

    /// The consumers' side: waits for the stage in hand to be full, and returns it.
    pub fn full(&self, e: &Emit<'c>) -> Int<'c> {
        let (stage, full, _) = self.at(e);
        e.barrier_wait(full, e.get(self.phase).into_int_value());
        stage
    }

    /// Says that the stage in hand is used up (where `here` holds) and goes on to the next. One thread may say so for a
    /// warp group whose product it has waited for; behind ordinary loads the group has a barrier first, and what they load has been
    /// used: an arrival overtakes loads that are under way, and the copy that it lets start overwrites what they read.
    pub fn release(&self, e: &Emit<'c>, here: Int<'c>) {
        let (_, _, empty) = self.at(e);
        e.when(here, |e| self.arrive(e, empty));
        self.advance(e);
    }

    /// Goes on to the next stage. Who has not waited for the one in hand must know that it is full before the ring comes round: else the
    /// next wait for it is for a phase too early.
    pub fn advance(&self, e: &Emit<'c>) {
        let next = e.add_const(e.get(self.stage).into_int_value(), 1);
        let wrap = e.ge(next, e.int(self.stages));
        let phase = e.get(self.phase).into_int_value();
        e.set(self.phase, e.pick(wrap, e.sub(e.int(1), phase), phase).into());
        e.set(self.stage, e.pick(wrap, e.int(0), next).into());
    }

    /// Says that stage `stage` is used up, where `here` holds.
    pub fn release_stage(&self, e: &Emit<'c>, stage: Int<'c>, here: Int<'c>) {
        let empty = e.add(self.barriers, e.mul_const(e.add_const(stage, self.stages as i64), 8));
        e.when(here, |e| self.arrive(e, empty));
    }
}

/// Rings of single warps, in dynamic shared memory: a warp's first lane starts the copies that the warp waits for.
pub struct WarpRing<'c> {
    stages: u64,
    bytes: u64,
    /// This warp's first stage.
    memory: Ptr<'c>,
    /// Byte address of this warp's first barrier.
    barriers: Int<'c>,
    stage: Var<'c>,
    phase: Var<'c>,
}

/// Starts copies of tile `.1` to byte address `.2`, counted by barrier `.3`.
type Copy<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Int<'c>);

/// What a stage is filled with.
pub struct Fill<'a, 'c> {
    /// Bytes in all.
    pub bytes: u64,
    /// Copies of weights, and of what earlier launches write.
    pub weights: Copy<'a, 'c>,
    /// See there.
    pub inputs: Copy<'a, 'c>,
    /// Whether the launch has not waited for its inputs yet: it does so when the first weights are on their way.
    pub early: bool,
    /// What all threads of the block do when the inputs are there.
    pub then: &'a dyn Fn(&Emit<'c>),
}

impl<'c> WarpRing<'c> {
    /// Makes `stages` stages of `bytes` for each of `warps`; all threads of the block must come here.
    pub fn new(e: &Emit<'c>, warps: u64, stages: u64, bytes: u64) -> WarpRing<'c> {
        let barriers = e.shared_address(e.shared(2 * warps * stages));
        e.each(e.thread(), e.int(warps * stages), warps * 32, |e, i| {
            e.barrier_init(e.add(barriers, e.mul_const(i, 8)), 1);
            e.barrier_init_fence();
        });
        e.barrier();
        let warp = e.div_rem(e.thread(), 32).0;
        let base = e.dynamic_shared();
        WarpRing {
            stages,
            bytes,
            memory: e.byte_offset(base, e.mul_const(warp, stages * bytes)),
            barriers: e.add(barriers, e.mul_const(warp, 8 * stages)),
            stage: e.var(e.int(0).into()),
            phase: e.var(e.int(0).into()),
        }
    }

    /// Copies and uses tiles `first`, `first + step`, ... below `tiles`, in order. `body` gets the tile and the
    /// address of its stage.
    pub fn run(
        &self,
        e: &Emit<'c>,
        (first, step, tiles): (Int<'c>, u64, u64),
        fill: &Fill<'_, 'c>,
        body: &dyn Fn(&Emit<'c>, Int<'c>, Ptr<'c>),
    ) {
        self.begin(e, (first, step, e.int(tiles)), fill);
        e.each(first, e.int(tiles), step, |e, tile| {
            self.turn(e, (tile, step, e.int(tiles)), fill, &|e, stage| body(e, tile, stage));
        });
    }

    /// The same turn by turn: `body` gets the turn's number, so that it may have registers of each turn.
    pub fn run_unrolled(
        &self,
        e: &Emit<'c>,
        (first, step, tiles): (Int<'c>, u64, u64),
        fill: &Fill<'_, 'c>,
        body: &dyn Fn(&Emit<'c>, usize, Ptr<'c>),
    ) {
        self.begin(e, (first, step, e.int(tiles)), fill);
        for turn in 0..tiles.div_ceil(step) {
            let tile = e.add_const(first, (turn * step) as i64);
            e.when(e.lt(tile, e.int(tiles)), |e| {
                self.turn(e, (tile, step, e.int(tiles)), fill, &|e, stage| body(e, turn as usize, stage));
            });
        }
    }

    /// Starts the copies of `tile` to `stage`, where there is such a tile.
    fn start(
        &self,
        e: &Emit<'c>,
        (tile, tiles, stage): (Int<'c>, Int<'c>, Int<'c>),
        fill: &Fill<'_, 'c>,
        (weights, inputs): (bool, bool),
    ) {
        let leader = e.eq(e.and(e.thread(), e.int(31)), e.int(0));
        e.when(e.and(leader, e.lt(tile, tiles)), |e| {
            let full = e.add(self.barriers, e.mul_const(stage, 8));
            let to = e.add(e.shared_address(self.memory), e.mul_const(stage, self.bytes));
            if weights {
                e.barrier_expect(full, fill.bytes);
                (fill.weights)(e, tile, to, full);
            }
            if inputs {
                (fill.inputs)(e, tile, to, full);
            }
        });
    }

    /// Fills the stages, the first of which is the next, with tiles `first`, `first + step`, ... below `tiles`.
    pub fn begin(&self, e: &Emit<'c>, (first, step, tiles): (Int<'c>, u64, Int<'c>), fill: &Fill<'_, 'c>) {
        let now = e.get(self.stage).into_int_value();
        let firsts = |e: &Emit<'c>, what: (bool, bool)| {
            for i in 0..self.stages {
                let stage = e.add_const(now, i as i64);
                let wrapped = e.add_const(stage, -(self.stages as i64));
                let stage = e.pick(e.ge(stage, e.int(self.stages)), wrapped, stage);
                self.start(e, (e.add_const(first, (i * step) as i64), tiles, stage), fill, what);
            }
        };
        if fill.early {
            firsts(e, (true, false));
            e.wait_for_inputs();
            firsts(e, (false, true));
        } else {
            firsts(e, (true, true));
        }
        (fill.then)(e);
    }

    /// Passes over what [`begin`](Self::begin) has filled with the same tiles, which then may begin anew with others.
    pub fn pass(&self, e: &Emit<'c>, (first, step, tiles): (Int<'c>, u64, Int<'c>)) {
        for i in 0..self.stages {
            let there = e.lt(e.add_const(first, (i * step) as i64), tiles);
            e.when(there, |e| {
                self.full(e);
                self.advance(e);
            });
        }
        // All lanes have seen a stage's phase before its next one may end.
        e.warp_barrier();
    }

    /// The next stage, and its phase.
    fn now(&self, e: &Emit<'c>) -> (Int<'c>, Int<'c>) {
        (e.get(self.stage).into_int_value(), e.get(self.phase).into_int_value())
    }

    fn advance(&self, e: &Emit<'c>) {
        let (stage, phase) = self.now(e);
        let next = e.add_const(stage, 1);
        let wrap = e.ge(next, e.int(self.stages));
        e.set(self.phase, e.pick(wrap, e.sub(e.int(1), phase), phase).into());
        e.set(self.stage, e.pick(wrap, e.int(0), next).into());
    }

    /// Uses `tile`, the next, and has its stage filled again.
    pub fn turn(
        &self,
        e: &Emit<'c>,
        tiles: (Int<'c>, u64, Int<'c>),
        fill: &Fill<'_, 'c>,
        body: &dyn Fn(&Emit<'c>, Ptr<'c>),
    ) {
        body(e, self.full(e));
        self.used(e, tiles, fill);
    }

    /// Waits for the next stage to be full, and says where it is.
    pub fn full(&self, e: &Emit<'c>) -> Ptr<'c> {
        let (stage, phase) = self.now(e);
        e.barrier_wait(e.add(self.barriers, e.mul_const(stage, 8)), phase);
        e.byte_offset(self.memory, e.mul_const(stage, self.bytes))
    }

    /// Has the stage that `tile` was in filled again.
    pub fn used(&self, e: &Emit<'c>, (tile, step, tiles): (Int<'c>, u64, Int<'c>), fill: &Fill<'_, 'c>) {
        let stage = self.now(e).0;
        // All lanes have read the stage before it is written again.
        e.warp_barrier();
        let next = e.add_const(tile, (self.stages * step) as i64);
        self.start(e, (next, tiles, stage), fill, (true, true));
        self.advance(e);
    }
}
