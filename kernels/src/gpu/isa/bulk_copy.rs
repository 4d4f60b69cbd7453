//! Copies into shared memory by the copy engine: `cp.async.bulk`.

use super::emit::{Emit, Int, Ptr};

impl<'c> Emit<'c> {
    /// Starts a copy of `bytes` contiguous bytes of global memory to shared memory at `to`, counted by `barrier`.
    /// Addresses and size are multiples of 16.
    pub fn bulk_copy(&self, to: Int<'c>, from: Ptr<'c>, bytes: u64, barrier: Int<'c>) {
        let text = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1], $2, [$3];";
        self.effect(text, "r,l,r,r", &[to, self.address(from), self.int(bytes), barrier]);
    }

    /// Has the second cache read `bytes` contiguous bytes: address and size are multiples of 16.
    pub fn prefetch(&self, from: Ptr<'c>, bytes: u64) {
        self.effect(
            "cp.async.bulk.prefetch.L2.global [$0], $1;",
            "l,r",
            &[self.address(from), self.int(bytes)],
        );
    }

    /// Makes what this thread stored to shared memory visible to the copy engine and to `wgmma`.
    pub fn async_fence(&self) {
        self.effect("fence.proxy.async.shared::cta;", "", &[]);
    }
}
