//! Products of bf16 tiles on tensor cores: `y = W x` for a few rows (bound by the bytes of W) and for many
//! (bound by the tensor cores).
//!
//! Rows are first written to scratch as bf16 tiles, normalised where the op says so ([`pack`]). Then
//!
//! ```text
//! few rows, mma.sync                          many rows, wgmma
//!   block: 16 outputs x 8 (or 32) rows          block: 128 rows x 256 outputs, two warp groups of 64 rows
//!   warp w of 8: k tiles w, w + 8, ...          one warp keeps a ring of k tiles full with bulk copies:
//!   each keeps a ring of its own full             rows 2 x 8 KiB, outputs 4 x 8 KiB a stage, as they lie
//! ```
//! The order of k inside a dot product is free, so that a lane takes eight neighbouring k's of its row with one
//! load: words 0 and 1 are its pairs of one `mma` step, words 2 and 3 of the next. Both operands do the same.
//! Loads into registers would do without shared memory, but `ptxas` sinks them to their uses, and then too few
//! bytes are under way.

use hyc_plan::TILE;
use hyc_plan::{Extent, When};

use crate::gpu::function::{Function, Kernel, when};
use crate::gpu::isa::{Chunk, SHARED_SLACK, TILE_BYTES};
use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, Var};
use crate::gpu::tile::pipeline::{Fill, Ring, WarpRing};
use crate::gpu::work_item::row_count;

/// Rows that the kernel for few takes at most; more go to the other.
pub const FEW: u64 = 64;
/// Rows and outputs of a block of the kernel for many.
const MANY_ROWS: u64 = 128;
pub const MANY_OUT: u64 = 256;
/// k tiles under way there.
pub const STAGES: u64 = 4;
/// Threads of the kernel for few.
pub const THREADS: u64 = 256;
pub const WARPS: u64 = THREADS / 32;
/// Threads that pack one row.
const PACKERS: u64 = 512;

/// One weight operand of a product.
#[derive(Clone, Copy)]
pub struct Matrix {
    /// Its name.
    pub name: &'static str,
    /// Outputs.
    pub out: u64,
    /// First column of its results among those of all matrices.
    pub column: u64,
}

/// `y = [W0; W1; ...] x`, or with `up` `y = silu(W0 x) * (up x)`.
pub struct Product {
    /// Input features.
    pub inn: u64,
    /// The matrices, one below the other.
    pub matrices: Vec<Matrix>,
    /// A second weight, of the first one's shape.
    pub up: Option<&'static str>,
    /// The packed rows: offset in scratch, in 4-byte elements.
    pub rows_at: u64,
}

/// Takes one result: (row, column among all, value).
type Store<'a, 'c> = &'a dyn Fn(&Emit<'c>, Int<'c>, Int<'c>, Float<'c>);

/// Adds the functions for few rows: they are packed at `.1` in scratch, and at most `.2`.
pub type FewRows<'a, 'c> = &'a dyn Fn(&mut Kernel<'c, '_>, u64, u64);

pub fn k_tiles(inn: u64) -> u64 {
    inn.div_ceil(TILE)
}

/// Bytes of `rows` packed rows.
pub fn packed_bytes(rows: u64, inn: u64) -> u64 {
    rows.next_multiple_of(MANY_ROWS) * k_tiles(inn) * TILE * 2
}

/// Adds the launches of a product over the rows of the operand `x`, with the weight of its norm in `norm`. `few_rows`
/// takes the place of the kernel for few: it gets where the packed rows are in scratch, and up to how many there are.
pub fn product<'c>(
    k: &mut Kernel<'c, '_>,
    inn: u64,
    norm: Option<f64>,
    matrices: Vec<Matrix>,
    up: Option<&'static str>,
    few_rows: Option<FewRows<'_, 'c>>,
    store: Store<'_, 'c>,
) {
    let spec = k.spec;
    let rows_at = k.scratch(packed_bytes(spec.max_rows, inn));
    let rows = Packed { part: "_pack", grid: k.rows(1, 1), inn, norm, to: rows_at, when: None };
    pack(k, &rows, &|e, row| {
        let from = e.mul_const(e.wide(row), e.stride("x"));
        (e.at(e.operand("x"), from), row)
    });
    let p = Product { inn, matrices, up, rows_at };
    let max = spec.max_rows;
    match few_rows {
        Some(few_rows) => few_rows(k, rows_at, FEW.min(max)),
        None => {
            few(k, "_few", &p, 1, (1, max.min(8)), store);
            if max > 8 {
                few(k, "_some", &p, 4, (9, FEW.min(max)), store);
            }
        }
    }
    if max > FEW {
        many(k, "_many", &p, FEW + 1, max, store);
    }
}

/// A launch that packs rows.
pub struct Packed<'s> {
    /// Its name's end.
    pub part: &'s str,
    /// Rows.
    pub grid: Extent,
    /// Elements of a row.
    pub inn: u64,
    /// Fused RMSNorm, with its weight in the operand `norm`.
    pub norm: Option<f64>,
    /// Offset in scratch, in 4-byte elements.
    pub to: u64,
    /// Steps that it is for.
    pub when: Option<When>,
}

/// Writes rows as bf16 tiles `[rows/64][inn/64][64][64]`. `source` gives a row's f32 and the row that it becomes.
pub fn pack<'c>(
    k: &mut Kernel<'c, '_>,
    p: &Packed<'_>,
    source: &dyn Fn(&Emit<'c>, Int<'c>) -> (Ptr<'c>, Int<'c>),
) {
    let Packed { inn, norm, to, .. } = *p;
    let chunks = k_tiles(inn) * 8;
    k.function(Function::new(p.part, [p.grid, Extent::fixed(1)], PACKERS).when(p.when).waits_itself(), |e| {
        // A thread's eight elements of each round; the last round's are the row's last again where there are no more.
        let places: Vec<Int<'c>> = (0..chunks.div_ceil(PACKERS))
            .map(|round| e.min(e.add_const(e.thread(), (round * PACKERS) as i64), e.int(chunks - 1)))
            .collect();
        let weights: Vec<Vec<Float<'c>>> = match norm {
            Some(_) => places.iter().map(|chunk| eight(e, e.operand("norm"), *chunk, inn)).collect(),
            None => vec![],
        };
        e.wait_for_inputs();
        let (x, row) = source(e, e.block_x());
        let mut values: Vec<Vec<Float<'c>>> = places.iter().map(|chunk| eight(e, x, *chunk, inn)).collect();
        if let Some(eps) = norm {
            let scale = inverse_rms(e, &values, chunks, inn, eps);
            for (values, weights) in values.iter_mut().zip(&weights) {
                for (value, weight) in values.iter_mut().zip(weights) {
                    *value = e.fmul(e.fmul(*value, scale), *weight);
                }
            }
        }
        let (tile, place) = e.div_rem(row, TILE);
        let tile = e.mul_const(e.wide(tile), k_tiles(inn) * TILE_BYTES / 4);
        let to = e.at(e.at(e.scratch(), e.int(to)), e.add(tile, e.wide(e.mul_const(place, TILE / 2))));
        let swizzle = e.and(place, e.int(7));
        for (chunk, values) in places.iter().zip(&values) {
            let (tile, piece) = e.div_rem(*chunk, 8);
            let at = e.add(e.mul_const(tile, TILE_BYTES / 4), e.mul_const(e.xor(piece, swizzle), 4));
            let words: Vec<Int<'c>> = values.chunks(2).map(|pair| e.pack_bf16(pair[0], pair[1])).collect();
            e.store_words(to, at, &words);
        }
    });
}

/// Elements `8 * chunk ..` of a row of `inn`, 0 beyond its end.
fn eight<'c>(e: &Emit<'c>, x: Ptr<'c>, chunk: Int<'c>, inn: u64) -> Vec<Float<'c>> {
    let first = e.mul_const(chunk, 8);
    if inn % TILE == 0 {
        let words = [e.load4(x, first), e.load4(x, e.add_const(first, 4))].concat();
        return words.into_iter().map(|word| e.widen(word)).collect();
    }
    let one = |i| {
        let at = e.add_const(first, i);
        let value = e.load(x, e.min(at, e.int(inn - 1)));
        e.pick_float(e.lt(at, e.int(inn)), value, e.float(0.0))
    };
    (0..8).map(one).collect()
}

/// 1 / sqrt(mean(x^2) + eps) of a row, of which a block of [`PACKERS`] has the chunks in rounds.
fn inverse_rms<'c>(e: &Emit<'c>, values: &[Vec<Float<'c>>], chunks: u64, inn: u64, eps: f64) -> Float<'c> {
    let zero = e.float(0.0);
    let sum = values.iter().zip(0u64..).fold(zero, |sum, (values, round)| {
        let own = values.iter().fold(zero, |sum, x| e.fma(*x, *x, sum));
        let chunk = e.add_const(e.thread(), (round * PACKERS) as i64);
        e.fadd(sum, e.pick_float(e.lt(chunk, e.int(chunks)), own, zero))
    });
    let partial = e.shared(PACKERS / 32);
    let (warp, lane) = e.div_rem(e.thread(), 32);
    let mine = e.warp_sum(sum, &LANES);
    e.when(e.eq(lane, e.int(0)), |e| e.store(partial, warp, mine.into()));
    e.barrier();
    let all = (0..PACKERS / 32).fold(zero, |sum, w| e.fadd(sum, e.load(partial, e.int(w))));
    e.inverse_sqrt(e.fadd(e.fdiv(all, e.float(inn as f32)), e.float(eps as f32)))
}

/// Products of 16 outputs of each of some weights by `8 * tiles` rows, by one warp, over its share of the k tiles.
///
/// A stage of the warp's ring is one k tile: 2 KiB of each weight, then 1 KiB of each eight rows, as they lie.
pub struct Strip<'c> {
    /// Addresses of the 16 outputs in the first of their 64 x 64 tiles, one a weight.
    pub weights: Vec<Ptr<'c>>,
    /// Where the second eight outputs of the first weight lie, where that is not behind the first eight.
    pub far: Option<Ptr<'c>>,
    /// Address of the packed rows in the first of their tiles.
    pub rows: Ptr<'c>,
    /// How many times eight rows.
    pub eights: u64,
    /// First k tile of this warp.
    pub first: Int<'c>,
    /// Step from k tile to k tile.
    pub step: u64,
    /// k tiles in all.
    pub tiles: u64,
    /// Whether the launch has not waited for the rows yet.
    pub early: bool,
}

/// Bytes of one stage.
fn stage_bytes(weights: u64, eights: u64) -> u64 {
    2048 * weights + 1024 * eights
}

/// Stages of each warp: about 100 KiB under way a block, so that two blocks share a multiprocessor.
fn stages(weights: u64, eights: u64) -> u64 {
    ((100 << 10) / (WARPS * stage_bytes(weights, eights))).max(2)
}

/// Dynamic shared memory of a block whose warps keep such rings.
pub fn strip_shared(weights: u64, eights: u64) -> u64 {
    WARPS * stages(weights, eights) * stage_bytes(weights, eights) + SHARED_SLACK
}

/// The rings of a block's warps, for [`Strip`]s of one size; all threads of the block must come here.
pub fn strip_ring<'c>(e: &Emit<'c>, weights: u64, eights: u64) -> WarpRing<'c> {
    WarpRing::new(e, WARPS, stages(weights, eights), stage_bytes(weights, eights))
}

impl<'c> Strip<'c> {
    /// `[weight][rows / 8][4]` sums: outputs g, g + 8 by rows 2t, 2t + 1.
    pub fn sums(&self, e: &Emit<'c>, ring: &WarpRing<'c>) -> Vec<Vec<Vec<Var<'c>>>> {
        let four = || (0..4).map(|_| e.float_var(0.0)).collect::<Vec<_>>();
        let sums: Vec<Vec<Vec<Var<'c>>>> =
            self.weights.iter().map(|_| (0..self.eights).map(|_| four()).collect()).collect();
        let (g, t) = e.lane_pair();
        // This lane's two 16-byte pieces of row g; rows g + 8 have the same swizzle.
        let pieces = [0, 4].map(|first| {
            let piece = e.xor(e.add_const(t, first), g);
            e.add(e.mul_const(g, 32), e.mul_const(piece, 4))
        });
        let bytes = stage_bytes(self.weights.len() as u64, self.eights);
        let weights = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let at = e.mul_const(e.wide(k), TILE_BYTES);
            for (i, weight) in self.weights.iter().enumerate() {
                let to = e.add_const(to, 2048 * i as i64);
                match self.far.filter(|_| i == 0) {
                    Some(far) => {
                        e.bulk_copy(to, e.byte_offset(*weight, at), 1024, full);
                        e.bulk_copy(e.add_const(to, 1024), e.byte_offset(far, at), 1024, full);
                    }
                    None => e.bulk_copy(to, e.byte_offset(*weight, at), 2048, full),
                }
            }
        };
        let inputs = |e: &Emit<'c>, k: Int<'c>, to: Int<'c>, full: Int<'c>| {
            let at = e.mul_const(e.wide(k), TILE_BYTES);
            let to = e.add_const(to, 2048 * self.weights.len() as i64);
            e.bulk_copy(to, e.byte_offset(self.rows, at), 1024 * self.eights, full);
        };
        let fill = Fill { bytes, weights: &weights, inputs: &inputs, early: self.early };
        ring.run(e, (self.first, self.step, self.tiles), &fill, &|e, stage| {
            let chunk = |words: u64, piece: Int<'c>| e.load4(stage, e.add_const(piece, words as i64));
            let rows_at = 512 * self.weights.len() as u64;
            let x: Vec<[Chunk<'c>; 2]> =
                (0..self.eights).map(|n| pieces.map(|p| chunk(rows_at + 256 * n, p))).collect();
            for (i, sums) in sums.iter().enumerate() {
                let w = pieces.map(|p| [0, 256].map(|low| chunk(512 * i as u64 + low, p)));
                for (sums, x) in sums.iter().zip(&x) {
                    for (w, x) in w.iter().zip(x) {
                        multiply(e, sums, w, *x);
                    }
                }
            }
        });
        sums
    }
}

/// Two steps: 16 outputs by 8 rows by 32 k's.
pub fn multiply<'c>(e: &Emit<'c>, sums: &[Var<'c>], w: &[Chunk<'c>; 2], x: Chunk<'c>) {
    for step in 0..2 {
        let a = [w[0][2 * step], w[1][2 * step], w[0][2 * step + 1], w[1][2 * step + 1]];
        e.mma(sums, a, [x[2 * step], x[2 * step + 1]]);
    }
}

/// Adds the warps' sums; thread i of the block gets result (row i / 16, output i % 16) for i < 128 * tiles.
pub fn reduce<'c>(e: &Emit<'c>, sums: &[Vec<Var<'c>>], parts: Ptr<'c>, warps: u64) -> Vec<Float<'c>> {
    let count = 128 * sums.len() as u64;
    let (g, t) = e.lane_pair();
    let warp = e.div_rem(e.thread(), 32).0;
    for (n, sums) in sums.iter().enumerate() {
        for (i, sum) in sums.iter().enumerate() {
            let row = e.add_const(e.mul_const(t, 2), (8 * n + i % 2) as i64);
            let output = e.add_const(g, 8 * (i as i64 / 2));
            let at = e.add(e.mul_const(warp, count), e.add(e.mul_const(row, 16), output));
            e.store(parts, at, e.get(*sum));
        }
    }
    e.barrier();
    let rounds = count.div_ceil(THREADS);
    let results = (0..rounds).map(|round| {
        let mine = e.min(e.add_const(e.thread(), (round * THREADS) as i64), e.int(count - 1));
        (0..warps)
            .fold(e.float(0.0), |sum, w| e.fadd(sum, e.load(parts, e.add_const(mine, (w * count) as i64))))
    });
    results.collect()
}

/// The matrix that block `index` of `each` outputs is of: its operand, the block's number in it, its outputs and its
/// first column.
fn section<'c>(e: &Emit<'c>, p: &Product, index: Int<'c>, each: u64) -> (Ptr<'c>, Int<'c>, Int<'c>, Int<'c>) {
    let first = p.matrices[0];
    let (mut matrix, mut local) = (e.operand(first.name), index);
    let (mut out, mut column) = (e.int(first.out), e.int(first.column));
    let mut begin = 0;
    for pair in p.matrices.windows(2) {
        begin += pair[0].out.div_ceil(each);
        let here = e.ge(index, e.int(begin));
        matrix = e.pick_ptr(here, e.operand(pair[1].name), matrix);
        local = e.pick(here, e.add_const(index, -(begin as i64)), local);
        out = e.pick(here, e.int(pair[1].out), out);
        column = e.pick(here, e.int(pair[1].column), column);
    }
    (matrix, local, out, column)
}

/// Blocks of `each` outputs over all matrices.
fn blocks(p: &Product, each: u64) -> u64 {
    p.matrices.iter().map(|m| m.out.div_ceil(each)).sum()
}

/// The kernel for few rows: `eights` times eight a block.
fn few<'c>(
    k: &mut Kernel<'c, '_>,
    part: &str,
    p: &Product,
    eights: u64,
    (least, most): (u64, u64),
    store: Store<'_, 'c>,
) {
    let spec = k.spec;
    let grid = [Extent::fixed(blocks(p, 16)), k.rows(1, 8 * eights)];
    let weights = 1 + u64::from(p.up.is_some());
    let shared = strip_shared(weights, eights);
    k.function(
        Function::new(part, grid, THREADS).when(when(spec, least, most)).shared_bytes(shared).waits_itself(),
        |e| {
            let ring = strip_ring(e, weights, eights);
            let (matrix, block, out, column) = section(e, p, e.block_x(), 16);
            let first_row = e.mul_const(e.block_y(), 8 * eights);
            let outputs = strip_offset(e, block, p.inn);
            let weights = [Some(matrix), p.up.map(|name| e.operand(name))];
            let strip = Strip {
                weights: weights.into_iter().flatten().map(|w| e.byte_offset(w, outputs)).collect(),
                far: None,
                rows: packed_row(e, p.rows_at, first_row, p.inn),
                eights,
                first: e.div_rem(e.thread(), 32).0,
                step: WARPS,
                tiles: k_tiles(p.inn),
                early: true,
            };
            let sums = strip.sums(e, &ring);
            let parts = e.shared(WARPS * 128 * eights);
            let mut results = reduce(e, &sums[0], parts, WARPS);
            if let Some(up) = sums.get(1) {
                e.barrier();
                let ups = reduce(e, up, parts, WARPS);
                results = results.iter().zip(ups).map(|(gate, up)| e.fmul(e.silu(*gate), up)).collect();
            }
            for (round, value) in results.iter().enumerate() {
                let mine = e.add_const(e.thread(), (round as u64 * THREADS) as i64);
                let (row, output) = e.div_rem(mine, 16);
                let local = e.add(e.mul_const(block, 16), output);
                let row_inside =
                    e.and(e.lt(row, e.int(8 * eights)), e.lt(e.add(first_row, row), row_count(e, spec)));
                e.when(e.and(row_inside, e.lt(local, out)), |e| {
                    store(e, e.add(first_row, row), e.add(column, local), *value);
                });
            }
        },
    );
}

/// Byte offset (i64) of block `block` of 16 outputs in a matrix of tiles.
pub fn strip_offset<'c>(e: &Emit<'c>, block: Int<'c>, inn: u64) -> Int<'c> {
    let (tile, quarter) = e.div_rem(block, 4);
    e.add(e.mul_const(e.wide(tile), k_tiles(inn) * TILE_BYTES), e.wide(e.mul_const(quarter, 2048)))
}

/// The address of packed row `row` in the first of its tiles, the rows being at `at` in scratch.
pub fn packed_row<'c>(e: &Emit<'c>, at: u64, row: Int<'c>, inn: u64) -> Ptr<'c> {
    tile_row(e, e.at(e.scratch(), e.int(at)), row, inn)
}

/// The address of row `row` of a matrix of tiles in the first of its tiles.
pub fn tile_row<'c>(e: &Emit<'c>, matrix: Ptr<'c>, row: Int<'c>, inn: u64) -> Ptr<'c> {
    let (tile, place) = e.div_rem(row, TILE);
    let tile = e.mul_const(e.wide(tile), k_tiles(inn) * TILE_BYTES);
    e.byte_offset(e.byte_offset(matrix, tile), e.mul_const(place, 128))
}

/// The kernel for many rows.
fn many<'c>(k: &mut Kernel<'c, '_>, part: &str, p: &Product, least: u64, most: u64, store: Store<'_, 'c>) {
    let spec = k.spec;
    // With two weights a block has half the outputs of each, side by side.
    let each = if p.up.is_some() { MANY_OUT / 2 } else { MANY_OUT };
    let grid = [k.rows(1, MANY_ROWS), Extent::fixed(blocks(p, each))];
    let rows_bytes = MANY_ROWS / TILE * TILE_BYTES;
    let stage_bytes = rows_bytes + MANY_OUT / TILE * TILE_BYTES;
    let shared = STAGES * stage_bytes + SHARED_SLACK;
    k.function(
        Function::new(part, grid, 2 * 128 + 32).when(when(spec, least, most)).shared_bytes(shared),
        |e| {
            let memory = e.shared_address(e.dynamic_shared());
            let ring = Ring::new(e, STAGES, 2);
            let (matrix, block, out, column) = section(e, p, e.block_y(), each);
            let group = e.div_rem(e.thread(), 128).0;
            let tiles = k_tiles(p.inn);
            e.when(e.eq(e.thread(), e.int(256)), |e| {
                let packed = e.byte_offset(
                    e.at(e.scratch(), e.int(p.rows_at)),
                    e.mul_const(e.wide(e.block_x()), rows_bytes * tiles),
                );
                let last = e.add_const(e.div_rem(e.add_const(out, TILE as i64 - 1), TILE).0, -1);
                // The tiles of each 64 outputs of the block.
                let places: Vec<Ptr<'c>> = (0..MANY_OUT / TILE)
                    .map(|i| {
                        let half = each / TILE;
                        let (from, i) = match p.up {
                            Some(up) if i >= half => (e.operand(up), i - half),
                            Some(_) | None => (matrix, i),
                        };
                        let row = e.min(e.add_const(e.mul_const(block, each / TILE), i as i64), last);
                        e.byte_offset(from, e.mul_const(e.wide(row), tiles * TILE_BYTES))
                    })
                    .collect();
                e.each(e.int(0), e.int(tiles), 1, |e, k| {
                    let at = e.mul_const(e.wide(k), TILE_BYTES);
                    ring.produce(e, stage_bytes, |e, stage, full| {
                        let to = e.add(memory, e.mul_const(stage, stage_bytes));
                        for i in 0..MANY_ROWS / TILE {
                            let from = e.add_const(at, (i * tiles * TILE_BYTES) as i64);
                            let to = e.add_const(to, (i * TILE_BYTES) as i64);
                            e.bulk_copy(to, e.byte_offset(packed, from), TILE_BYTES, full);
                        }
                        for (i, from) in places.iter().enumerate() {
                            let to = e.add_const(to, (rows_bytes + i as u64 * TILE_BYTES) as i64);
                            e.bulk_copy(to, e.byte_offset(*from, at), TILE_BYTES, full);
                        }
                    });
                });
            });
            e.when(e.lt(group, e.int(2)), |e| {
                let sums: Vec<Var<'c>> = (0..MANY_OUT / 2).map(|_| e.float_var(0.0)).collect();
                let leader = e.eq(e.and(e.thread(), e.int(127)), e.int(0));
                let steps: Vec<(u64, u64)> = (0..4).map(|i| (32 * i, 32 * i)).collect();
                let before = e.var(e.minus_one().into());
                e.each(e.int(0), e.int(tiles), 1, |e, _| {
                    let stage = ring.full(e);
                    let base = e.add(memory, e.mul_const(stage, stage_bytes));
                    let a = e.descriptor(e.add(base, e.mul_const(group, TILE_BYTES)));
                    let b = e.descriptor(e.add_const(base, rows_bytes as i64));
                    e.wgmma_start(&sums, a, b, &steps);
                    e.wgmma_wait(&sums, 1);
                    let old = e.get(before).into_int_value();
                    ring.release_stage(e, old, e.and(leader, e.ge(old, e.int(0))));
                    e.set(before, stage.into());
                    ring.advance(e);
                });
                e.wgmma_wait(&sums, 0);
                let (g, t) = e.lane_pair();
                let warp = e.and(e.div_rem(e.thread(), 32).0, e.int(3));
                let in_block = e.add(e.add(e.mul_const(group, 64), e.mul_const(warp, 16)), g);
                let first = e.add(e.mul_const(e.block_x(), MANY_ROWS), in_block);
                let rows = row_count(e, spec);
                let value = |e: &Emit<'c>, i: usize| match p.up {
                    Some(_) => e.fmul(e.silu(e.get_float(sums[i])), e.get_float(sums[i + sums.len() / 2])),
                    None => e.get_float(sums[i]),
                };
                for j in 0..each as usize / 8 {
                    let local = e.add(e.mul_const(block, each), e.add_const(e.mul_const(t, 2), 8 * j as i64));
                    for i in 0..4 {
                        let row = e.add_const(first, 8 * (i as i64 / 2));
                        let local = e.add_const(local, i as i64 % 2);
                        e.when(e.and(e.lt(row, rows), e.lt(local, out)), |e| {
                            store(e, row, e.add(column, local), value(e, 4 * j + i));
                        });
                    }
                }
            });
        },
    );
}
