//! Products of many rows, one below the other, on the tiles of [`wgmma_strips`](super).

use hyc_plan::Codec;

use super::{Begin, Job, ManyRows, Turns, WARPS, outputs, wgmma_strips};
use crate::gpu::function::{Kernel, part};
use crate::gpu::gemm::epilogue::Line;
use crate::gpu::gemm::matrices::{Product, Rows, To, blocks, section};
use crate::gpu::gemm::product::FP8_ROWS_VARIANTS;
use crate::gpu::gemm::turned::Turned;
use crate::gpu::gemm::wgmma::Tile;
use crate::gpu::isa::{Emit, Int};
use crate::gpu::tile::TiledRows;
use crate::gpu::work_item::row_count;

/// Adds the function of a variant of a product, whose tiles have `width` rows. Results go where the product says.
pub fn strips_large_m(k: &mut Kernel<'_, '_>, tile: (&str, u64), (p, codec): (&Product, Codec)) {
    strips_large_m_with(k, tile, (p, codec), None, &|_, tile, first| {
        Box::new(move |e, sums| finish(e, p, &tile, first, sums))
    });
}

/// The same with an end of its own, and heads that turn.
pub fn strips_large_m_with<'f, 'c: 'f>(
    k: &mut Kernel<'c, '_>,
    (variant, width): (&str, u64),
    (p, codec): (&Product, Codec),
    turns: Option<Turns>,
    begin: Begin<'_, 'f, 'c>,
) {
    let (spec, two) = (k.spec, p.up.is_some());
    let each = outputs(two, WARPS);
    let columns = blocks(p, each);
    // Rows of e4m3 are multiplied by the variants that a step of so many takes.
    let fp8 = p.inputs.fp8.filter(|_| FP8_ROWS_VARIANTS.contains(&variant));
    let rows = fp8.map_or(ManyRows::Bf16(p.inputs.tiles), ManyRows::Fp8);
    let job = Job {
        in_features: p.in_features,
        rows,
        width,
        list: None,
        codec,
        two,
        turns,
        count: &|e| {
            let row_blocks = e.div_rem(e.add_const(row_count(e, spec), width as i64 - 1), width).0;
            e.mul_const(row_blocks, columns)
        },
        tile: &|e, index| {
            let (row, column) = e.div_rem(index, columns);
            Tile {
                section: section(e, p, column, each),
                up: p.up.map(|up| e.operand(up)),
                outputs: column,
                row: e.mul_const(row, width),
                rows: row_count(e, spec),
                place: e.int(0),
            }
        },
        begin,
        warps: WARPS,
    };
    wgmma_strips(k, &part(variant), &[variant], &job);
}

/// Writes a warp's results, from output `first` of the section on.
pub fn finish<'c>(e: &Emit<'c>, p: &Product, tile: &Tile<'c>, first: Int<'c>, sums: &Turned<'_, 'c>) {
    // Where there are none, their addresses are those of others.
    let first = e.pick(e.lt(e.int(0), sums.left), first, e.int(0));
    let first = e.add(tile.section.column, first);
    let to = match p.to {
        To::Rows(to) => to,
        To::Tiles(name) => {
            return sums.write_tiles(e, (TiledRows::Operand(name), e.stride(name)), &|e, row| {
                let row = e.add(tile.row, row);
                (e.lt(row, tile.rows), row, first)
            });
        }
    };
    let strides = [Some(to), p.plus.map(Rows::Operand)].into_iter().flatten().map(|rows| rows.stride(e));
    let sizes = p.matrices.iter().flat_map(|m| [m.column, m.out]);
    let aligned = strides.chain(sizes).all(|n| n.is_multiple_of(4));
    sums.write_rows(e, aligned, &|e, row| {
        let (row, inside) = tile.row_of(e, row);
        let at = |rows: Rows| rows.at(e, row, first);
        Line { inside, to: at(to), plus: p.plus.map(Rows::Operand).map(at) }
    });
}
