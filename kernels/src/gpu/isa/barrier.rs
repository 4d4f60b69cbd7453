//! Barriers of threads, and those in shared memory (`mbarrier`) on which copies count what they bring.

use super::emit::{Emit, Int};

/// The barrier of threads that meet without the others.
const AMONG: u64 = 15;

impl<'c> Emit<'c> {
    /// Waits for all threads of the block, or those [`Emit::among`] which this is; what they wrote is seen.
    pub fn barrier(&self) {
        if let Some(threads) = self.meeting.get() {
            return self.named_barrier(self.int(AMONG), threads);
        }
        let ty = self.context.void_type().fn_type(&[], false);
        self.asm(ty, "bar.sync 0;", "~{memory}", true, &[]);
    }

    /// Waits for all lanes of the warp; what they wrote is seen.
    pub fn warp_barrier(&self) {
        let ty = self.context.void_type().fn_type(&[], false);
        self.asm(ty, "bar.warp.sync -1;", "~{memory}", true, &[]);
    }

    /// Waits for `threads` threads at barrier `id` (1 to 15).
    pub fn named_barrier(&self, id: Int<'c>, threads: u64) {
        self.effect("bar.sync $0, $1;", "r,r", &[id, self.int(threads)]);
    }

    /// Arrives at barrier `id` of `threads` threads, for those that wait there.
    pub fn named_arrive(&self, id: Int<'c>, threads: u64) {
        self.effect("bar.arrive $0, $1;", "r,r", &[id, self.int(threads)]);
    }

    /// Makes a barrier that `count` arrivals complete.
    pub fn barrier_init(&self, barrier: Int<'c>, count: u64) {
        self.effect("mbarrier.init.shared::cta.b64 [$0], $1;", "r,r", &[barrier, self.int(count)]);
    }

    /// Makes new barriers visible to the copy engine.
    pub fn barrier_init_fence(&self) {
        self.effect("fence.mbarrier_init.release.cluster;", "", &[]);
    }

    /// Arrives, and adds `bytes` to what copies have to bring.
    pub fn barrier_expect(&self, barrier: Int<'c>, bytes: u64) {
        self.barrier_expect_some(barrier, self.int(bytes));
    }

    /// The same of bytes that are counted.
    pub fn barrier_expect_some(&self, barrier: Int<'c>, bytes: Int<'c>) {
        self.effect("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r", &[barrier, bytes]);
    }

    /// Arrives.
    pub fn barrier_arrive(&self, barrier: Int<'c>) {
        self.effect("mbarrier.arrive.shared::cta.b64 _, [$0];", "r", &[barrier]);
    }

    /// Waits until the barrier has completed the phase of this parity.
    pub fn barrier_wait(&self, barrier: Int<'c>, parity: Int<'c>) {
        self.repeat(|e| {
            let ty = e.i32().fn_type(&[e.i32().into(), e.i32().into()], false);
            let text = "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [$1], $2; \
                        selp.b32 $0, 1, 0, p; }";
            let args = [barrier.into(), parity.into()];
            let done = e.asm(ty, text, "=r,r,r,~{memory}", true, &args).into_int_value();
            e.eq(done, e.int(1))
        });
    }
}
