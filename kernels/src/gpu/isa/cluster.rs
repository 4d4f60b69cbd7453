//! Blocks of a cluster: neighbours on the chip that reach each other's shared memory. A function's cluster is fixed in its
//! PTX, so that it is launched like any other.

use inkwell::attributes::AttributeLoc;

use super::emit::{Emit, Int, Ptr};

impl<'c> Emit<'c> {
    /// Makes the blocks of the function's grid, `blocks` neighbours each, into clusters.
    pub fn form_clusters(&self, blocks: u64) {
        let attribute = self.context.create_string_attribute("nvvm.cluster_dim", &blocks.to_string());
        self.f.add_attribute(AttributeLoc::Function, attribute);
    }

    /// This block's number in its cluster.
    pub fn cluster_rank(&self) -> Int<'c> {
        self.special("cluster_ctarank")
    }

    /// Waits for all threads of the cluster; what they wrote is seen.
    pub fn cluster_barrier(&self) {
        self.cluster_arrive();
        self.cluster_wait();
    }

    /// Says to the other threads of the cluster that this one is here, and what it wrote before.
    pub fn cluster_arrive(&self) {
        self.effect("barrier.cluster.arrive.release;", "", &[]);
    }

    /// Waits until all threads of the cluster have said so; what they wrote is seen.
    pub fn cluster_wait(&self) {
        self.effect("barrier.cluster.wait.acquire;", "", &[]);
    }

    /// Stores a word to the address `at` of the shared memory of block `rank` of the cluster, which must have begun.
    pub fn store_to_block(&self, at: Int<'c>, rank: Int<'c>, word: Int<'c>) {
        let text = "{ .reg .b32 there; mapa.shared::cluster.u32 there, $0, $1; st.shared::cluster.b32 [there], $2; }";
        self.effect(text, "r,r,r", &[at, rank, word]);
    }

    /// The same of four words, to a boundary of as many.
    pub fn store_four_to_block(&self, at: Int<'c>, rank: Int<'c>, words: [Int<'c>; 4]) {
        let text = "{ .reg .b32 there; mapa.shared::cluster.u32 there, $0, $1; \
                    st.shared::cluster.v4.b32 [there], {$2, $3, $4, $5}; }";
        let [a, b, c, d] = words;
        self.effect(text, "r,r,r,r,r,r", &[at, rank, a, b, c, d]);
    }

    /// Arrives at the barrier that block `rank` of the cluster has at the address `barrier` of this block's. What this thread
    /// has written need not be seen there.
    pub fn barrier_arrive_at(&self, barrier: Int<'c>, rank: Int<'c>) {
        let text = "{ .reg .b32 there; mapa.shared::cluster.u32 there, $0, $1; \
                    mbarrier.arrive.shared::cluster.b64 _, [there]; }";
        self.effect(text, "r,r", &[barrier, rank]);
    }

    /// The same as [`Emit::bulk_copy`], to the same place in the two blocks of a cluster, counted by the barrier of each.
    pub fn bulk_copy_to_both(&self, to: Int<'c>, from: Ptr<'c>, bytes: u64, barrier: Int<'c>) {
        let text = "{ .reg .b16 both; mov.b16 both, 3; \
                    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster \
                    [$0], [$1], $2, [$3], both; }";
        self.effect(text, "r,l,r,r", &[to, self.address(from), self.int(bytes), barrier]);
    }
}
