//! A branch of a sparse layer's attention: what it reads, its sink and its gate (HySparse 2602.03560, sec. 3).

use hyc_plan::{AttnShape, CacheSpec, GateMode, ListShape, SelectShape};

use super::rows::load_column;
use super::warp_mma::Reader;
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::tile::TiledRows;
use crate::gpu::tile::rows::turn;
use crate::gpu::work_item::{WorkItem, group, selected_blocks};

/// A selection, and its page lists where they are there as well.
pub type Selected = (SelectShape, Option<ListShape>);

/// Which pages a branch reads.
#[derive(Clone, Copy)]
pub enum Source {
    /// Those that the selection names.
    Listed(SelectShape, Option<ListShape>),
    /// Those of a window of this many tokens.
    Window(u64),
}

/// One softmax over one cache, gated.
#[derive(Clone, Copy)]
pub struct Branch {
    pub cache: &'static str,
    pub source: Source,
    pub sink: Option<&'static str>,
    pub gate: Option<(&'static str, GateMode)>,
}

/// The pages of a branch for an item.
pub struct Slots<'c> {
    pub count: Int<'c>,
    /// First token that is visible.
    pub from: Int<'c>,
    pages: Numbers<'c>,
}

enum Numbers<'c> {
    Listed(Ptr<'c>),
    /// From this one on.
    From(Int<'c>),
}

impl<'c> Slots<'c> {
    /// The logical number of the page in slot `i`; of a selection that is not there yet, anything.
    pub fn logical(&self, e: &Emit<'c>, i: Int<'c>) -> Int<'c> {
        match self.pages {
            Numbers::Listed(list) => e.load_int_anew(list, i),
            Numbers::From(begin) => e.add(begin, i),
        }
    }
}

impl Branch {
    /// The gate's operand and column of an element: `None` without a gate.
    fn gate_column<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        (h, element): (Int<'c>, Int<'c>),
    ) -> Option<(&'static str, GateMode, Int<'c>)> {
        let (name, mode) = self.gate?;
        let head = e.add(e.mul_const(item.kv_head, group(shape)), h);
        let column = match mode {
            GateMode::Head => head,
            GateMode::Elementwise => e.add(e.mul_const(head, shape.v_dim), element),
            GateMode::None => return None,
        };
        Some((name, mode, column))
    }

    /// The operand of a gate for each element.
    pub fn elementwise_gate(&self) -> Option<&'static str> {
        self.gate.filter(|(_, mode)| *mode == GateMode::Elementwise).map(|(name, _)| name)
    }

    /// What an element is multiplied by: `None` without a gate.
    pub fn gate<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        place: (Int<'c>, Int<'c>),
    ) -> Option<Float<'c>> {
        let (name, _, column) = self.gate_column(e, shape, item, place)?;
        Some(e.sigmoid(load_column(e, name, item, column)))
    }

    /// The logits of the gates of elements `first + 8 m + 2 t, + 1`, m = 0 .. `count`, of each lane t of a quad: four at most.
    /// Whole warps come here.
    pub fn gate_pairs<'c>(
        &self,
        e: &Emit<'c>,
        shape: AttnShape,
        item: WorkItem<'c>,
        (h, first, count): (Int<'c>, u64, u64),
    ) -> Option<Vec<[Float<'c>; 2]>> {
        let t = e.lane_pair().1;
        let (name, mode, column) = self.gate_column(e, shape, item, (h, e.int(first)))?;
        if mode == GateMode::Head {
            let logit = load_column(e, name, item, column);
            return Some(vec![[logit; 2]; count as usize]);
        }
        if !e.in_tiles(name) {
            let row = e.at(e.operand(name), e.mul_const(e.wide(item.row), e.stride(name)));
            let from = e.at(row, e.wide(e.add(column, e.mul_const(t, 2))));
            let pair = |m| e.load2(e.at(from, e.int(8 * m))).map(|word| e.widen(word));
            return Some((0..count).map(pair).collect());
        }
        let piece = |piece: Int<'c>| TiledRows::Operand(name).piece(e, item.row, piece, e.stride(name));
        let first = e.div_rem(column, 8).0;
        let words = if count == 4 {
            turn(e, e.load4(piece(e.add(first, t)), e.int(0))).to_vec()
        } else {
            (0..count).map(|m| e.load_int(piece(e.add_const(first, m as i64)), t)).collect()
        };
        let unpack =
            |word| [e.shift_left(word, 16), e.and(word, e.int(0xffff_0000))].map(|bits| e.widen(bits));
        Some(words.into_iter().map(unpack).collect())
    }

    /// The pages that it reads for an item.
    pub fn slots<'c>(&self, e: &Emit<'c>, r: &Reader, item: WorkItem<'c>) -> Slots<'c> {
        match self.source {
            Source::Listed(select, _) => {
                let list = selected_blocks(e, item, select);
                Slots { count: e.int(select.blocks), from: e.int(0), pages: Numbers::Listed(list) }
            }
            Source::Window(_) => {
                let from = e.max(e.add_const(item.position, 1 - self.reach() as i64), e.int(0));
                let begin = e.div_rem(from, r.cache.page).0;
                Slots { count: e.sub(item.pages(e, r.cache.page), begin), from, pages: Numbers::From(begin) }
            }
        }
    }

    /// Most pages of an item.
    pub fn most_pages(&self, cache: &CacheSpec) -> u64 {
        match self.source {
            Source::Listed(select, _) => select.blocks,
            Source::Window(width) => width.div_ceil(cache.page) + 1,
        }
    }

    /// How many tokens back a row sees, its own included.
    pub fn reach(&self) -> u64 {
        match self.source {
            Source::Listed(..) => i32::MAX as u64,
            Source::Window(width) => width.min(i32::MAX as u64),
        }
    }
}
