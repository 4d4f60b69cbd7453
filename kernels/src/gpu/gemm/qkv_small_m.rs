//! `QkvAppend` of few rows, which lie in tiles or were packed before: projections, RoPE and append in one function.
//!
//! ```text
//! block: 16 outputs of one head by one (or 8, or 32) rows, or 32 by 8; where there are many, several strips of 16 one behind the
//!        other by one row (`stream`), or by eight in registers (`stream_rows`)
//!   q, k: dims 8 b .. 8 b + 8 and the same half a head further: RoPE's pairs, in lanes i and i + 8; of 32 outputs in one lane
//!   v, gates: dims 16 b .. 16 b + 16
//! ```
//! For ops whose products [end in registers](crate::tiles::ends_in_registers). Reference: `reference::linear::qkv_append`.

use std::cell::RefCell;
use std::mem::offset_of;

use hyc_plan::Extent;
use hyc_plan::abi::StepContext;
use hyc_plan::ops::QkvAppend;

use super::feed::{Feed, Shape, THREADS, WARPS};
use super::matrices::{Inputs, To};
use super::product::{M1, few_rows};
use super::projections::{Part, Projection, gates};
use super::rope::{angles, grown};
use super::small_m::{Strip, StripRows, reduce, rounds};
use super::stored::Stored;
use super::stream::{Stream, streams};
use super::stream_rows::RowsStream;
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Float, Int, Ptr};
use crate::gpu::paged_kv::{key_index, page_of, value_index};
use crate::gpu::work_item::row_count;

/// Adds the functions of [`few_rows`].
pub fn launches(k: &mut Kernel<'_, '_>, c: &QkvAppend, parts: &[Part], (inputs, stored): (Inputs, Stored)) {
    let strips = blocks(parts, 16);
    for (variant, feed) in few_rows(stored) {
        let rows = RowsStream::new(Shape::new((1, stored), feed, c.in_features), strips, k.multiprocessors);
        match rows {
            Some(rows) => streamed_rows(k, variant, c, parts, (inputs, rows)),
            None if variant == M1 && streams((1, stored), strips, k.multiprocessors) => {
                streamed(k, variant, c, parts, (inputs, stored));
            }
            None => function(k, variant, c, parts, (inputs, stored, feed)),
        }
    }
}

/// Blocks of so many outputs of all parts.
fn blocks(parts: &[Part], outputs: u64) -> u64 {
    parts.iter().map(|part| part.heads * part.dim / outputs).sum()
}

/// That of one row, strip by strip.
fn streamed<'c>(
    k: &mut Kernel<'c, '_>,
    variant: &str,
    c: &QkvAppend,
    parts: &[Part],
    (inputs, stored): (Inputs, Stored),
) {
    let spec = k.spec;
    let strips = blocks(parts, 16);
    let stream = Stream::new((1, stored), c.in_features, strips, k.multiprocessors);
    let logits: Vec<To> = gates(c).map(|(_, name)| To::operand(k, name)).collect();
    let (name, variants) = (part(variant), [variant]);
    let function = Function::new(&name, [stream.grid(), k.rows(1, 1)], THREADS).of(&variants);
    k.function(function.shared_bytes(stream.shared_bytes()).waits_itself(), |e: &Emit<'c>| {
        let (row, table) = (e.block_y(), angles(e, c.rope));
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
        let inside = e.lt(row, row_count(e, spec));
        let weights = |e: &Emit<'c>, strip: Int<'c>| {
            let place = Place::new(e, parts, 8, || strip);
            let [near, far] = place.dims.map(|dim| place.row(e, stored, dim, c.in_features));
            vec![(near, Some(far))]
        };
        let from = StripRows::new(e, inputs, Feed::Whole, row, c.in_features);
        stream.run(e, from, &weights, &|e, strip, output, results| {
            let place = Place::new(e, parts, 8, || strip);
            let page = |e: &Emit<'c>| c.own_kv.then(|| page_of(e, &e.cache("cache"), row, position));
            let inside = e.and(inside, e.lt(output, e.int(16)));
            let (is_far, at) = place.half(e, e.and(output, e.int(15)));
            let turn = place.turn(e, (c, table), position, at);
            let spot = Spot { row, inside, is_far, at, turn, page: &page };
            finish(e, (c, &logits), &place, &spot, (results[0], e.shuffle(results[0], 8)));
        });
    });
}

/// That of eight rows in registers, strip by strip.
fn streamed_rows<'c>(
    k: &mut Kernel<'c, '_>,
    variant: &str,
    c: &QkvAppend,
    parts: &[Part],
    (inputs, stream): (Inputs, RowsStream),
) {
    let spec = k.spec;
    let logits: Vec<To> = gates(c).map(|(_, name)| To::operand(k, name)).collect();
    let (name, variants) = (part(variant), [variant]);
    let function = Function::new(&name, [stream.grid(), k.rows(1, 8)], THREADS).of(&variants);
    k.function(function.shared_bytes(stream.shared_bytes()).waits_itself(), |e: &Emit<'c>| {
        let first_row = e.mul_const(e.block_y(), 8);
        let (local, output) = stream.result(e);
        let (row, rows) = (e.add(first_row, local), row_count(e, spec));
        let (inside, row) = (e.lt(row, rows), e.min(row, e.add_const(rows, -1)));
        let table = angles(e, c.rope);
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
        let page = c.own_kv.then(|| page_of(e, &e.cache("cache"), row, position));
        let weights = |e: &Emit<'c>, strip: Int<'c>| {
            let place = Place::new(e, parts, 8, || strip);
            place.dims.map(|dim| place.row(e, Stored::Tiles, dim, c.in_features))
        };
        stream.run(e, inputs.tiles.row(e, first_row, c.in_features), &weights, &|e, strip, value| {
            let place = Place::new(e, parts, 8, || strip);
            let (is_far, at) = place.half(e, output);
            let turn = place.turn(e, (c, table), position, at);
            let spot = Spot { row, inside, is_far, at, turn, page: &|_| page };
            finish(e, (c, &logits), &place, &spot, (value, e.shuffle(value, 8)));
        });
    });
}

fn function<'c>(
    k: &mut Kernel<'c, '_>,
    variant: &str,
    c: &QkvAppend,
    parts: &[Part],
    (inputs, stored, feed): (Inputs, Stored, Feed),
) {
    let spec = k.spec;
    let shape = Shape::new((1, stored), feed, c.in_features);
    // Rows are copied once beside twice as many outputs.
    let wide = stored == Stored::Tiles
        && shape.feed == Feed::Tiles(1)
        && parts.iter().all(|part| part.dim.is_multiple_of(32));
    let (half, shape) = if wide { (16, Shape::new((2, stored), feed, c.in_features)) } else { (8, shape) };
    let grid = [Extent::fixed(blocks(parts, 2 * half)), k.rows(1, feed.rows())];
    let logits: Vec<To> = gates(c).map(|(_, name)| To::operand(k, name)).collect();
    k.function(
        Function::new(&part(variant), grid, THREADS)
            .of(&[variant])
            .shared_bytes(shape.shared_bytes())
            .waits_itself(),
        |e: &Emit<'c>| {
            let ring = shape.ring(e);
            let place = Place::new(e, parts, half, || e.block_x());
            let first_row = e.mul_const(e.block_y(), feed.rows());
            let table = angles(e, c.rope);
            let [near, far] = place.dims.map(|dim| place.row(e, stored, dim, c.in_features));
            let strip = Strip {
                weights: if wide { vec![near, far] } else { vec![near] },
                far: (!wide).then_some(far),
                rows: StripRows::new(e, inputs, feed, first_row, c.in_features),
                shape,
                first: e.div_rem(e.thread(), 32).0,
                step: WARPS,
                early: true,
            };
            let look = |e: &Emit<'c>, round: u64| {
                let mine = e.add_const(e.thread(), (round * THREADS) as i64);
                let (local, output) = e.div_rem(mine, 16);
                let (row, rows) = (e.add(first_row, local), row_count(e, spec));
                let inside = e.and(e.lt(local, e.int(feed.rows())), e.lt(row, rows));
                let row = e.min(row, e.add_const(rows, -1));
                let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
                let page = c.own_kv.then(|| page_of(e, &e.cache("cache"), row, position));
                let (is_far, at) = place.half(e, output);
                (row, inside, (is_far, at), page, place.turn(e, (c, table), position, at))
            };
            let all = |e: &Emit<'c>| (0..rounds(shape.feed)).map(|round| look(e, round)).collect();
            // Where results go does not hang on what earlier launches write: it is looked up while the weights are on their way, save
            // where rows take up the registers.
            let looked: RefCell<Vec<_>> = RefCell::default();
            let early = shape.feed != Feed::Registers;
            let sums = strip.sums_then(e, &ring, &|e| {
                if early {
                    looked.replace(all(e));
                }
            });
            let results = reduce(e, &sums[0], shape);
            let second = sums.get(1).map(|second| {
                e.barrier();
                reduce(e, second, shape)
            });
            let looked = if early { looked.take() } else { all(e) };
            for (round, (row, inside, (is_far, at), page, turn)) in looked.into_iter().enumerate() {
                let end = |is_far: Int<'c>, value: Float<'c>, other: Float<'c>| {
                    let spot = Spot { row, inside, is_far, at, turn, page: &|_| page };
                    finish(e, (c, &logits), &place, &spot, (value, other));
                };
                let value = results[round];
                match &second {
                    Some(second) => {
                        end(e.no(), value, second[round]);
                        end(e.holds(), second[round], value);
                    }
                    None => end(is_far, value, e.shuffle(value, 8)),
                }
            }
        },
    );
}

/// What a block computes.
pub struct Place<'c> {
    /// The number of what is projected to.
    part: Int<'c>,
    matrix: Ptr<'c>,
    head: Int<'c>,
    /// Elements of a head.
    dim: Int<'c>,
    /// First dims of the two halves.
    pub dims: [Int<'c>; 2],
    /// Outputs of each.
    outputs: u64,
}

impl<'c> Place<'c> {
    /// Block `index()` of twice `half` outputs of all parts.
    pub fn new(e: &Emit<'c>, parts: &[Part], half: u64, index: impl Fn() -> Int<'c>) -> Place<'c> {
        let (mut part, mut local, mut matrix) =
            (e.int(parts[0].projection.number()), index(), e.operand(parts[0].projection.weight()));
        let mut dim = e.int(parts[0].dim);
        let mut begin = 0;
        for pair in parts.windows(2) {
            begin += blocks(&pair[..1], 2 * half);
            let here = e.ge(index(), e.int(begin));
            part = e.pick(here, e.int(pair[1].projection.number()), part);
            local = e.pick(here, e.add_const(index(), -(begin as i64)), local);
            matrix = e.pick_ptr(here, e.operand(pair[1].projection.weight()), matrix);
            dim = e.pick(here, e.int(pair[1].dim), dim);
        }
        let a_head = e.div_rem(dim, 2 * half).0;
        let head = e.quotient(local, a_head);
        let block = e.sub(local, e.mul(head, a_head));
        let rotates = e.lt(part, e.int(Projection::Value.number()));
        let first = e.pick(rotates, e.mul_const(block, half), e.mul_const(block, 2 * half));
        let far = e.add(first, e.pick(rotates, e.div_rem(dim, 2).0, e.int(half)));
        Place { part, matrix, head, dim, dims: [first, far], outputs: half }
    }
}

impl<'c> Place<'c> {
    /// The address of the weights of the head's dim `dim`, a multiple of eight, in their first stage.
    pub fn row(&self, e: &Emit<'c>, stored: Stored, dim: Int<'c>, in_features: u64) -> Ptr<'c> {
        stored.eight(e, self.matrix, e.add(e.mul(self.head, self.dim), dim), in_features)
    }

    /// Whether an output of the block is of the far half, and which of it.
    pub fn half(&self, e: &Emit<'c>, output: Int<'c>) -> (Int<'c>, Int<'c>) {
        let (half, at) = e.div_rem(output, self.outputs);
        (e.eq(half, e.int(1)), at)
    }

    /// Sine and cosine of the angle by which output `at` of either half is turned at a position, where it is a query's or a key's.
    pub fn turn(
        &self,
        e: &Emit<'c>,
        (c, table): (&QkvAppend, Ptr<'c>),
        position: Int<'c>,
        at: Int<'c>,
    ) -> (Float<'c>, Float<'c>) {
        let pair = e.min(e.add(self.dims[0], at), e.int(c.rope.dims / 2 - 1));
        grown(e, c.rope, e.sin_cos_turns(e.turns(table, pair, position)))
    }
}

/// Where a result goes, and what it takes to finish it.
pub struct Spot<'a, 'c> {
    pub row: Int<'c>,
    /// Whether there is such a row, and the result is one.
    pub inside: Int<'c>,
    /// Whether it is of the far half, and which of it.
    pub is_far: Int<'c>,
    pub at: Int<'c>,
    /// Sine and cosine of its angle.
    pub turn: (Float<'c>, Float<'c>),
    /// The page that holds the row's position, and its place in it, where the op owns its cache.
    pub page: &'a dyn Fn(&Emit<'c>) -> Option<(Ptr<'c>, Int<'c>)>,
}

/// Rotates and stores one result: `value` of a lane, `other` that of its pair.
pub fn finish<'c>(
    e: &Emit<'c>,
    (c, logits): (&QkvAppend, &[To]),
    place: &Place<'c>,
    &Spot { row, inside, is_far, at, turn: (sin, cos), page }: &Spot<'_, 'c>,
    (value, other): (Float<'c>, Float<'c>),
) {
    let dim = e.add(e.pick(is_far, place.dims[1], place.dims[0]), at);
    let turned = e.fmul(other, e.pick_float(is_far, sin, e.fsub(e.float(0.0), sin)));
    let rotated = e.fadd(e.fmul(value, cos), turned);
    let part = |projection: Projection| e.eq(place.part, e.int(projection.number()));
    e.when(e.and(inside, part(Projection::Query)), |e| {
        let column = e.add(e.mul_const(place.head, c.shape.qk_dim), dim);
        e.store(e.operand("q"), e.add(e.mul_const(row, e.stride("q")), column), rotated.into());
    });
    for (i, to) in logits.iter().enumerate() {
        e.when(e.and(inside, part(Projection::Gate(i))), |e| {
            let column = e.add(e.mul_const(place.head, c.shape.v_dim), dim);
            to.store(e, row, column, value);
        });
    }
    if !c.own_kv {
        return;
    }
    let cache = e.cache("cache");
    e.when(e.and(inside, e.or(part(Projection::Key), part(Projection::Value))), |e| {
        let Some((page, token)) = page(e) else { return };
        e.either(
            part(Projection::Key),
            |e| {
                e.store_elem(cache.codec.plain(), page, key_index(e, &cache, place.head, token, dim), rotated)
            },
            |e| {
                e.store_elem(cache.codec.plain(), page, value_index(e, &cache, place.head, token, dim), value)
            },
        );
    });
}
