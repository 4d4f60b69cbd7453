//! Products of many rows: bound by the tensor cores.
//!
//! ```text
//! block: 128 rows x 256 outputs, two warp groups of 64 rows; one warp keeps a ring of k tiles full with bulk copies:
//! rows 2 x 8 KiB, outputs 4 x 8 KiB a stage, as they lie
//! ```

use hyc_plan::{Extent, TILE};

use super::matrices::{Product, Store, blocks, section};
use super::pack_rows::{BLOCK_ROWS, k_tiles};
use crate::gpu::function::{Function, Kernel, part};
use crate::gpu::isa::{Emit, Ptr, SHARED_SLACK, Var};
use crate::gpu::tile::TILE_BYTES;
use crate::gpu::tile::pipeline::Ring;
use crate::gpu::work_item::row_count;

/// Outputs of a block.
pub const BLOCK_OUT: u64 = 256;

/// k tiles under way.
pub const STAGES: u64 = 4;

/// Adds the function of a variant.
pub fn wgmma<'c>(k: &mut Kernel<'c, '_>, variant: &str, p: &Product, store: Store<'_, 'c>) {
    let spec = k.spec;
    // With two weights a block has half the outputs of each, side by side.
    let each = if p.up.is_some() { BLOCK_OUT / 2 } else { BLOCK_OUT };
    let grid = [k.rows(1, BLOCK_ROWS), Extent::fixed(blocks(p, each))];
    let rows_bytes = BLOCK_ROWS / TILE * TILE_BYTES;
    let stage_bytes = rows_bytes + BLOCK_OUT / TILE * TILE_BYTES;
    let shared = STAGES * stage_bytes + SHARED_SLACK;
    k.function(Function::new(&part(variant), grid, 2 * 128 + 32).of(&[variant]).shared_bytes(shared), |e| {
        let memory = e.shared_address(e.dynamic_shared());
        let ring = Ring::new(e, STAGES, 2);
        let (matrix, block, out, column) = section(e, p, e.block_y(), each);
        let group = e.div_rem(e.thread(), 128).0;
        let tiles = k_tiles(p.in_features);
        e.when(e.eq(e.thread(), e.int(256)), |e| {
            let packed = e.byte_offset(
                e.at(e.scratch(), e.int(p.rows_at)),
                e.mul_const(e.wide(e.block_x()), rows_bytes * tiles),
            );
            let last = e.add_const(e.div_rem(e.add_const(out, TILE as i64 - 1), TILE).0, -1);
            // The tiles of each 64 outputs of the block.
            let places: Vec<Ptr<'c>> = (0..BLOCK_OUT / TILE)
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
                    for i in 0..BLOCK_ROWS / TILE {
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
            let sums: Vec<Var<'c>> = (0..BLOCK_OUT / 2).map(|_| e.float_var(0.0)).collect();
            let leader = e.eq(e.and(e.thread(), e.int(127)), e.int(0));
            let steps: Vec<(u64, u64)> = (0..4).map(|i| (32 * i, 32 * i)).collect();
            let before = e.var(e.minus_one().into());
            e.each(e.int(0), e.int(tiles), 1, |e, _| {
                let stage = ring.full(e);
                let base = e.add(memory, e.mul_const(stage, stage_bytes));
                let a = e.descriptor(e.add(base, e.mul_const(group, TILE_BYTES)));
                let b = e.descriptor(e.add_const(base, rows_bytes as i64));
                e.wgmma_start(&sums, a, b, &steps, true);
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
            let first = e.add(e.mul_const(e.block_x(), BLOCK_ROWS), in_block);
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
    });
}
