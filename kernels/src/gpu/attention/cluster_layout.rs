//! What a cluster's blocks share out in sparse and window layers (`sparse_cluster`): places of pages, warps, shared memory.

use hyc_plan::AttnShape;

use super::branch::Branch;
use super::warp_mma::Reader;
use crate::gpu::isa::{SHARED_SLACK, WARP};
use crate::gpu::work_item::group;

/// Most threads of a block, whose registers hold the sums; more where heads are short and few, whose sums take fewer.
const MOST_THREADS: u64 = 256;
const MOST_THREADS_SHORT: u64 = 384;
/// Most shared memory of a block: where there are more blocks than multiprocessors, two share one, save where two places alone
/// take more.
const SHARED: u64 = 225 << 10;
const SHARED_OF_TWO: u64 = 112 << 10;

/// Most elements of a thread whose gates are looked up before the sums are there.
const MOST_EARLY: u64 = 8;

/// Turns of the threads of one of `blocks` blocks at its share, where they are so few that they are looked up early. A block of its
/// own has a page more in that place.
pub fn rounds(blocks: u64, share: u64, threads: u64) -> Option<u64> {
    Some(share.div_ceil(threads)).filter(|rounds| blocks > 1 && *rounds <= MOST_EARLY)
}

/// Shared memory that a function has beside its launch's: the queries, and of each place states and barriers, of each thread sinks and
/// gates.
fn fixed_bytes(
    reader: &Reader,
    branches: u64,
    (places, sharers): (u64, u64),
    (blocks, share): (u64, u64),
) -> u64 {
    let threads = places * sharers * WARP;
    let kept = 2 * branches * rounds(blocks, share, threads).unwrap_or(0) * threads;
    let states = 2 * places * sharers * group(reader.shape);
    reader.query_bytes() + 4 * (kept + states + 5 * places)
}

/// How the blocks of an item hand on what they have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// A cluster's, through shared memory: each sums a share.
    Cluster,
    /// Those of blocks anywhere, through scratch: the last sums all.
    Scratch,
}

/// What a block's warps are for, and where its shared memory has what.
pub struct Layout {
    /// Blocks of a cluster.
    pub blocks: u64,
    /// First place of each branch and the one behind its last.
    pub teams: Vec<(u64, u64)>,
    pub places: u64,
    /// Warps that share a place.
    pub sharers: u64,
    /// Bytes of a place, and of all shared memory before the inboxes.
    pub stage: u64,
    pub before: u64,
    /// Elements of a branch that one block of the cluster sums, and words of what it gets for that. None of blocks that are apart.
    pub share: u64,
    pub inbox: u64,
}

impl Layout {
    pub fn new(
        shape: AttnShape,
        (blocks, exchange): (u64, Exchange),
        branches: &[Branch],
        (reader, stage): (&Reader, u64),
    ) -> Layout {
        let heads = group(shape);
        // Elements go four at a time.
        let (share, inbox) = match exchange {
            Exchange::Cluster => {
                let share = (heads * shape.v_dim / 4).div_ceil(blocks) * 4;
                (share, (blocks * (share + 2 * heads)).next_multiple_of(4))
            }
            Exchange::Scratch => (0, 0),
        };
        let mut sizes: Vec<u64> =
            branches.iter().map(|branch| branch.most_pages(&reader.cache).div_ceil(blocks)).collect();
        // Two read a page in half the time; alone, blocks leave each other more registers.
        let sharers = if blocks == 1 { 1 } else { 2 };
        // The warps' states lie over the pages later, and may take more than pages of codes.
        let before = |places: u64| places * stage.max(4 * sharers * heads * shape.v_dim);
        let inboxes = 4 * branches.len() as u64 * inbox;
        let bytes = |places: u64| {
            let fixed = fixed_bytes(reader, branches.len() as u64, (places, sharers), (blocks, share));
            before(places) + inboxes + SHARED_SLACK + fixed
        };
        let shared = if blocks == 1 { SHARED_OF_TWO } else { SHARED };
        let short = shape.qk_dim + shape.v_dim <= 256 && heads <= 8;
        let threads = if short { MOST_THREADS_SHORT } else { MOST_THREADS };
        let most = threads / (sharers * WARP);
        let most = (1..=most).rev().find(|places| bytes(*places) <= shared).unwrap_or(1);
        sizes.iter_mut().for_each(|size| *size = (*size).min(most));
        while sizes.iter().sum::<u64>() > most {
            let Some(largest) = sizes.iter_mut().max().filter(|largest| **largest > 1) else { break };
            *largest -= 1;
        }
        let mut places = 0;
        let teams = sizes.iter().map(|size| {
            places += size;
            (places - size, places)
        });
        let teams = teams.collect();
        Layout { blocks, teams, places, sharers, stage, before: before(places), share, inbox }
    }

    /// Dynamic shared memory.
    pub fn shared_bytes(&self) -> u64 {
        self.before + 4 * self.teams.len() as u64 * self.inbox + SHARED_SLACK
    }

    pub fn warps(&self) -> u64 {
        self.places * self.sharers
    }

    pub fn threads(&self) -> u64 {
        self.warps() * WARP
    }
}

#[cfg(test)]
mod tests {
    use hyc_plan::{CachePolicy, CacheSpec, KvCodec, KvOrder, SelectShape};

    use super::*;
    use crate::gpu::attention::branch::Source;
    use crate::gpu::attention::limits::{CLUSTERS, PARTS};

    /// What a block may have.
    const MOST: u64 = 227 << 10;

    fn branch(source: Source) -> Branch {
        Branch { cache: "cache", source, sink: None, gate: None }
    }

    #[test]
    fn every_shape_has_its_places_in_shared_memory() {
        for (heads, qk_dim) in (1..=16).flat_map(|heads| [64, 128, 192, 256].map(|qk_dim| (heads, qk_dim))) {
            for v_dim in (16..=256).step_by(16) {
                let shape = AttnShape { heads, kv_heads: 1, qk_dim, v_dim };
                let policy = CachePolicy::Growing;
                let order = KvOrder::Tiles;
                let codec = if v_dim % 32 == 0 { KvCodec::Int8 } else { KvCodec::Bf16 };
                let cache = CacheSpec { kv_heads: 1, qk_dim, v_dim, codec, page: 64, policy, order };
                let reader = Reader { shape, cache, operand: "cache", warps: 1 };
                for (listed, window) in [(1, 1), (3, 128), (16, 4096), (32, 1 << 40)] {
                    let select = SelectShape { blocks: listed, kv_heads: 1, block: 64 };
                    let far = branch(Source::Listed(select, None));
                    let near = branch(Source::Window(window));
                    for branches in [&[near][..], &[far], &[far, near]] {
                        let clusters = CLUSTERS.map(|(name, blocks)| (name, blocks, Exchange::Cluster));
                        let parts = (PARTS.0, PARTS.1, Exchange::Scratch);
                        for (name, blocks, exchange) in clusters.into_iter().chain([parts]) {
                            let layout = Layout::new(
                                shape,
                                (blocks, exchange),
                                branches,
                                (&reader, reader.stage_bytes()),
                            );
                            let places = (layout.places, layout.sharers);
                            let share = (blocks, layout.share);
                            let fixed = fixed_bytes(&reader, branches.len() as u64, places, share);
                            let bytes = layout.shared_bytes() + fixed;
                            let what = format!("{name} {heads} {qk_dim} {v_dim} {listed} {window}");
                            assert!(bytes <= MOST, "{what}: {bytes} bytes");
                            assert!(layout.threads() <= MOST_THREADS_SHORT, "{what}");
                            // Every branch has places, one behind the other.
                            let ends = layout.teams.iter().fold(0, |end, team| {
                                assert!(team.0 == end && team.1 > end, "{what}");
                                team.1
                            });
                            assert_eq!(ends, layout.places, "{what}");
                            // States lie over the pages.
                            assert!(4 * layout.warps() * heads * v_dim <= layout.before, "{what}");
                        }
                    }
                }
            }
        }
    }
}
