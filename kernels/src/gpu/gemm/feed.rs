//! How the rows of a few-row product reach its warps, and what a block keeps in shared memory for that.

use super::kept::KeptRow;
use super::stored::Stored;
use crate::gpu::isa::{Emit, Int, Ptr, SHARED_SLACK};
use crate::gpu::tile::pipeline::WarpRing;

/// Threads of a block.
pub const THREADS: u64 = 256;
pub const WARPS: u64 = THREADS / 32;

/// Rows of a block, and how they reach its warps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// So many times eight rows, copied beside each k tile of the weights.
    Tiles(u64),
    /// One row, all of which is in shared memory before the first product: the rings have weights alone, in more stages.
    Whole,
    /// The same of a row for each warp, which has a strip of its own.
    Own,
    /// Eight rows, of which a warp has its k tiles in registers before the first product.
    Registers,
}

impl Feed {
    /// Eights of rows that `mma` multiplies.
    pub fn eights(self) -> u64 {
        match self {
            Feed::Tiles(eights) => eights,
            Feed::Whole | Feed::Own | Feed::Registers => 1,
        }
    }

    /// Rows of a block.
    pub fn rows(self) -> u64 {
        match self {
            Feed::Tiles(eights) => 8 * eights,
            Feed::Registers => 8,
            Feed::Whole | Feed::Own => 1,
        }
    }

    /// Bytes of one stage: of `weights` weights, and of the rows.
    pub fn stage_bytes(self, weights: u64, stored: Stored) -> u64 {
        match self {
            Feed::Tiles(eights) => stored.bytes() * weights + 1024 * eights * stored.tiles(),
            Feed::Whole | Feed::Own | Feed::Registers => stored.bytes() * weights,
        }
    }

    /// Bytes of what is in shared memory from the beginning to the end, of so many warps.
    fn kept_bytes(self, warps: u64, (stored, in_features): (Stored, u64)) -> u64 {
        match self {
            Feed::Tiles(_) | Feed::Registers => 0,
            Feed::Whole => KeptRow::bytes(stored, in_features),
            Feed::Own => warps * KeptRow::bytes(stored, in_features),
        }
    }
}

/// Most input features of a row that is kept whole.
pub const MOST_WHOLE: u64 = 32768;
/// Most input features of rows in registers, 32 of a thread. With 64, for 4,096, a step took longer: the ring is full, but each warp
/// looks 16 times for its rows.
const MOST_HELD: u64 = 2048;
/// Most bytes of rows that experts' products keep.
const MOST_KEPT: u64 = 40 << 10;
/// Shared memory of a block: two share a multiprocessor.
const SHARED: u64 = 100 << 10;
const SHARED_WHOLE: u64 = 108 << 10;
/// The same where a block ends so soon that a third one had better begin meanwhile: that of one weight's short strip, or of
/// blocks of which there shall be three.
const SHARED_SHORT: u64 = 73 << 10;
const SHORT: u64 = 4096;
/// The same of eights of rows in a block that has a multiprocessor for itself.
const SHARED_ALONE: u64 = 200 << 10;
/// What a block can have at most.
const LIMIT: u64 = 224 << 10;

/// What a block's warps keep in shared memory.
#[derive(Clone, Copy)]
pub struct Shape {
    pub weights: u64,
    pub stored: Stored,
    pub feed: Feed,
    pub in_features: u64,
    pub warps: u64,
    /// Whether a multiprocessor has one block at most, whose rings then hold all that they ever will.
    alone: bool,
    /// Whether it has three where two stages leave them room.
    thirds: bool,
}

impl Shape {
    /// The rows of a block of products, as `feed` says; eights of rows in registers where those suffice.
    pub fn new((weights, stored): (u64, Stored), feed: Feed, in_features: u64) -> Shape {
        let held = feed == Feed::Tiles(1) && weights == 1 && in_features <= MOST_HELD;
        let feed = if held { Feed::Registers } else { feed };
        Shape { weights, stored, feed, in_features, warps: WARPS, alone: false, thirds: false }
    }

    /// One row of so many weights, kept as `feed` says where that leaves the rings enough.
    pub fn of_row((weights, stored): (u64, Stored), feed: Feed, in_features: u64) -> Shape {
        let kept = feed.kept_bytes(WARPS, (stored, in_features)) <= MOST_KEPT;
        let feed = if kept { feed } else { Feed::Tiles(1) };
        Shape { weights, stored, feed, in_features, warps: WARPS, alone: false, thirds: false }
    }

    /// The same of a grid of so many blocks.
    pub fn of_blocks(self, blocks: u64, multiprocessors: u64) -> Shape {
        Shape { alone: blocks <= multiprocessors, ..self }
    }

    /// The same of blocks of which a multiprocessor has three, where their rows are not too long.
    pub fn of_thirds(self) -> Shape {
        Shape { thirds: true, ..self }
    }

    /// The same of so many warps.
    pub fn of_warps(self, warps: u64) -> Shape {
        Shape { warps, ..self }
    }

    fn kept_bytes(self) -> u64 {
        self.feed.kept_bytes(self.warps, (self.stored, self.in_features))
    }

    /// Where this warp's row is kept, behind the rings.
    pub fn kept<'c>(self, e: &Emit<'c>) -> Ptr<'c> {
        let first = e.byte_offset(e.dynamic_shared(), e.int(self.ring_bytes()));
        match self.feed {
            Feed::Own => {
                let warp = e.div_rem(e.thread(), 32).0;
                e.byte_offset(first, e.mul_const(warp, self.kept_bytes() / self.warps))
            }
            Feed::Tiles(_) | Feed::Registers | Feed::Whole => first,
        }
    }

    /// The first of the rows that a block copies with a row.
    pub fn first<'c>(self, e: &Emit<'c>, row: Int<'c>) -> Int<'c> {
        match self.feed {
            Feed::Tiles(_) | Feed::Registers => e.sub(row, e.and(row, e.int(7))),
            Feed::Whole | Feed::Own => row,
        }
    }

    /// Stages that a warp takes in all.
    fn turns(self) -> u64 {
        let tiles = self.stored.stages(self.in_features);
        if self.feed == Feed::Own { tiles } else { tiles.div_ceil(self.warps) }
    }

    /// Stages of each warp. Of one row three quarters of its k tiles at most, where a multiprocessor has several blocks: what is left
    /// of shared memory is the next ones'.
    fn stages(self) -> u64 {
        let short = self.weights == 1 && self.in_features <= SHORT && !self.alone;
        let turns = self.turns();
        let all = match self.feed {
            Feed::Tiles(_) if self.alone => SHARED_ALONE,
            Feed::Tiles(_) => SHARED,
            Feed::Whole if short || self.thirds => SHARED_SHORT,
            Feed::Whole | Feed::Registers | Feed::Own => SHARED_WHOLE,
        };
        let most = match self.feed {
            Feed::Tiles(_) => turns,
            _ if self.alone => turns,
            _ => (3 * turns).div_ceil(4),
        };
        let stage = self.warps * self.stage_bytes();
        let rings = all.saturating_sub(self.kept_bytes());
        // One where a second has no room: warps wait by turns.
        let room = (LIMIT - self.kept_bytes()) / stage;
        (rings / stage).min(most).max(room.clamp(1, 2).min(turns))
    }

    /// Bytes of one stage of a warp.
    pub fn stage_bytes(self) -> u64 {
        self.feed.stage_bytes(self.weights, self.stored)
    }

    pub fn ring_bytes(self) -> u64 {
        self.warps * self.stages() * self.stage_bytes()
    }

    /// Dynamic shared memory of the block.
    pub fn shared_bytes(self) -> u64 {
        self.ring_bytes() + self.kept_bytes() + SHARED_SLACK
    }

    /// The rings of the warps; all threads of the block must come here.
    pub fn ring<'c>(self, e: &Emit<'c>) -> WarpRing<'c> {
        WarpRing::new(e, self.warps, self.stages(), self.stage_bytes())
    }
}

#[cfg(test)]
mod tests {
    use hyc_plan::Codec;

    use super::*;

    /// Two blocks of an expert's product share a multiprocessor, whatever its width; of strips as long as rows are kept.
    #[test]
    fn rows_that_are_kept_leave_room() {
        for in_features in (1..=1 << 17).step_by(61) {
            let int4 = Stored::Strips(Codec::Int4 { group: 64, zero: false });
            let both = [Stored::Tiles, int4]
                .into_iter()
                .flat_map(|stored| [((2, stored), Feed::Whole), ((1, stored), Feed::Own)]);
            for (weights, feed) in both {
                let shape = Shape::of_row(weights, feed, in_features);
                let bytes = shape.shared_bytes();
                let most = if weights.1 == Stored::Tiles || shape.feed == feed { 112 << 10 } else { LIMIT };
                assert!(bytes <= most, "{bytes} bytes of {} x {in_features}", weights.0);
                assert!(shape.stages() >= 2.min(shape.turns()), "{in_features}");
            }
        }
    }
}
