//! The variants of each kernel: which steps each can compute, and which it is usually taken for. `compile` makes them.

use hyc_plan::abi::COUNTER_BYTES;
use hyc_plan::{
    AttnShape, Codec, Elem, Epilogue, Format, Gpu, KernelSpec, Layout, OperandSpec, RowRange, StepOp, TILE,
    Variant, ops,
};

use super::attention::limits::{
    CLUSTERS, FLASH, LISTS, NO_LISTS, PARTS, PARTS_ROWS, SHARED_PAGES, SIMT, SPLIT_KV, SPLIT_KV_LAST,
    SPLIT_KV_ROWS,
};
use super::attention::{flash_prefill, limits, simt, sparse_cluster, split_kv};
use super::gemm::feed::MOST_WHOLE;
use super::gemm::pack_rows::BLOCK_ROWS;
use super::gemm::product::{FP8_ROWS_VARIANTS, M1, M8, M16, M32, MANY_ROWS_OF_STRIPS, WGMMA, WGMMA128};
use super::gemm::{large_m, panel, wgmma_strips};
use super::moe::dispatch::{BY_ROW, GROUPED};
use super::moe::grouped_gemm::BY_ROW_ROWS;
use crate::lists;
use crate::operands;
use crate::slices::MOST_RAW;
use crate::tiles::{MANY_ROWS, beside_fp8_rows, ends_in_registers, qkv_tile, tiles_rows};

/// Most rows that `m8` and `m32` are offered for: beyond them they have lost on every shape that was measured.
const SMALL_M_ROWS: u64 = 256;
const ALL: u64 = u64::MAX;

/// One variant: name, the rows that it can compute and is usually taken for (`(1, 0)`: none), rows of a pass, launches.
type Row = (&'static str, (u64, u64), (u64, u64), u64, u32);

/// The variants of the kernel for this on this GPU. Errors: why there is none.
pub fn candidates(spec: &KernelSpec, gpu: &Gpu) -> Result<Vec<Variant>, String> {
    check(spec)?;
    let tensor_cores = limits::takes(spec);
    Ok(match spec.op {
        StepOp::Linear(op) if in_strips(spec) => {
            let two = op.epilogue == Epilogue::SwiGlu;
            let usual = wgmma_strips::usual_rows(op.out_features, two, u64::from(gpu.multiprocessors));
            let launches = if in_rows(spec, "x") { 2 } else { 1 };
            of(spec, &of_strips(spec, (op.in_features, usual), (launches, op.fp8_rows)))
        }
        StepOp::QkvAppend(op) if in_strips(spec) => {
            let packs = u32::from(in_rows(spec, "x"));
            let launches = packs + if ends_in_registers(&op) { 1 } else { 2 };
            let usual = wgmma_strips::usual_rows(columns(&op), false, u64::from(gpu.multiprocessors));
            of(spec, &of_strips(spec, (op.in_features, usual), (launches, op.fp8_rows)))
        }
        StepOp::Linear(op) if in_tiles(spec) => {
            // Narrow tiles are for rows that make no more wide ones than half the multiprocessors.
            let narrow = large_m::narrow_rows(&op, u64::from(gpu.multiprocessors));
            let launches = if in_rows(spec, "x") { 2 } else { 1 };
            let mut rows = product(spec, op.in_features, [launches, launches]).to_vec();
            let wide = rows.iter_mut().filter(|row| row.0 == WGMMA);
            wide.for_each(|(_, _, usual, ..)| usual.0 = usual.0.max(narrow + 1));
            rows.push((WGMMA128, (1, ALL), (MANY_ROWS, narrow), BLOCK_ROWS, launches));
            of(spec, &rows)
        }
        StepOp::QkvAppend(op) if in_tiles(spec) => {
            // One more function appends, where that is not a part of the product.
            let packs = u32::from(in_rows(spec, "x"));
            let launches = |fused| packs + if fused { 1 } else { 2 };
            let launches = [ends_in_registers(&op), qkv_tile(&op).is_some()].map(launches);
            of(spec, &product(spec, op.in_features, launches))
        }
        StepOp::Linear(_) => vec![Variant::only("panel", spec, panel::tile(spec))],
        StepOp::QkvAppend(_) => {
            vec![Variant { launches: 2, ..Variant::only("panel", spec, panel::tile(spec)) }]
        }
        StepOp::ExpertsUp(_) | StepOp::ExpertsDown(_) if in_tiles(spec) || in_strips(spec) => {
            let combine = u32::from(matches!(spec.op, StepOp::ExpertsDown(_)));
            let packs = u32::from(in_rows(spec, if combine == 1 { "h" } else { "x" }));
            of(
                spec,
                &[
                    (BY_ROW, (1, BY_ROW_ROWS), (1, BY_ROW_ROWS), 1, 1 + packs),
                    (GROUPED, (1, ALL), (BY_ROW_ROWS + 1, ALL), ALL, 3 + combine),
                ],
            )
        }
        StepOp::ExpertsUp(_) | StepOp::ExpertsDown(_) => vec![Variant::only("panel", spec, 1)],
        StepOp::FullAttention(ops::FullAttention { shape, .. })
        | StepOp::OracleAttention(ops::OracleAttention { shape, .. })
            if tensor_cores =>
        {
            let few = split_kv::most_rows_in_parts(shape, u64::from(gpu.multiprocessors));
            of(
                spec,
                &[
                    (SPLIT_KV, (1, few), (1, few), 1, 2),
                    (SPLIT_KV_LAST, (1, SPLIT_KV_ROWS), (few + 1, SPLIT_KV_ROWS), 1, 1),
                    (FLASH, (1, ALL), (SPLIT_KV_ROWS + 1, ALL), flash_prefill::rows_of_a_block(shape), 1),
                ],
            )
        }
        StepOp::WindowAttention(ops::WindowAttention { shape, window, .. }) if tensor_cores => {
            let shares = lists::takes(shape).then_some((1, lists::LEAST));
            of(spec, &selected(shape, window.div_ceil(TILE) + 1, shares, gpu))
        }
        StepOp::SparseAttention(ops::SparseAttention { shape, lists, .. })
        | StepOp::HybridAttention(ops::HybridAttention { shape, lists, .. })
            if tensor_cores =>
        {
            let shares = lists.filter(|_| lists::takes(shape)).map(|lists| (lists.least, lists.least));
            of(spec, &selected(shape, u64::MAX, shares, gpu))
        }
        StepOp::PageLists(ops::PageLists { lists, .. }) => {
            let (all, variant) = (RowRange::new(1, spec.max_rows), Variant::only(LISTS, spec, lists.tile));
            let with = |name: &str, rows: RowRange, launches| {
                let rows = rows.overlap(all)?;
                Some(Variant { name: name.to_string(), rows, usual: Some(rows), launches, ..variant.clone() })
            };
            let none = with(NO_LISTS, RowRange::new(1, lists.least - 1), 0);
            none.into_iter().chain(with(LISTS, RowRange::new(lists.least, ALL), 1)).collect()
        }
        StepOp::FullAttention(_)
        | StepOp::OracleAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_) => vec![Variant::only(SIMT, spec, 1)],
        StepOp::Embed(_)
        | StepOp::RmsNorm(_)
        | StepOp::Rope(_)
        | StepOp::Append(_)
        | StepOp::QuantiseKv(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::Router(_)
        | StepOp::GatherRows(_)
        | StepOp::Sample(_) => vec![Variant::only("row_wise", spec, 1)],
    })
}

/// Those of a product of tiles, with the launches of small ones and of the large one.
fn product(spec: &KernelSpec, in_features: u64, [small, large]: [u32; 2]) -> [Row; 4] {
    let raw = in_rows(spec, "x");
    let one = u64::from(in_features <= if raw { MOST_RAW } else { MOST_WHOLE });
    [
        (M1, (1, one), (1, one), 1, small - u32::from(raw)),
        (M8, (1, SMALL_M_ROWS), (1 + one, 8), 8, small),
        (M32, (1, SMALL_M_ROWS), (9, 64), 32, small),
        (WGMMA, (1, ALL), (MANY_ROWS, ALL), BLOCK_ROWS, large),
    ]
}

/// Those of a product of strips; `usual`: the most rows that tiles of 64 and of 128 are for. `fp8_rows`: whether tiles of 128 and 256
/// are of rows of e4m3, which one more launch makes.
fn of_strips(
    spec: &KernelSpec,
    (in_features, usual): (u64, [u64; 2]),
    (launches, fp8_rows): (u32, Option<u64>),
) -> Vec<Row> {
    let [one, few, ..] = product(spec, in_features, [launches; 2]);
    // Where there are no tiles of 64, blocks of 16 go on.
    let some = if usual[0] == 0 { MANY_ROWS - 1 } else { 16 };
    let rows = [(some + 1, usual[0]), (MANY_ROWS, usual[1]), (usual[1].max(MANY_ROWS - 1) + 1, ALL)];
    let tiles = MANY_ROWS_OF_STRIPS.into_iter().zip(rows);
    let tiles = tiles.map(|((name, tile), usual)| (name, (1, ALL), usual, tile, launches));
    let mut all: Vec<Row> =
        [one, few, (M16, (1, SMALL_M_ROWS), (9, some), 16, launches)].into_iter().chain(tiles).collect();
    if let Some(least) = fp8_rows {
        for (name, rows, _, _, launches) in &mut all {
            let fp8 = FP8_ROWS_VARIANTS.contains(name);
            *rows = if fp8 { (least, ALL) } else { (1, rows.1.min(least - 1)) };
            *launches += u32::from(fp8);
        }
    }
    all
}

/// Those of an attention over selected blocks, or over a window alone of so many pages. `shares`: the fewest rows that can share pages, and that
/// usually do; `None`: none do.
fn selected(shape: AttnShape, pages: u64, shares: Option<(u64, u64)>, gpu: &Gpu) -> Vec<Row> {
    let most = shares.map_or(ALL, |(_, usual)| usual.saturating_sub(1));
    let mut rows: Vec<Row> = Vec::new();
    // Blocks without a page are no help.
    let clusters = CLUSTERS.iter().filter(|(_, blocks)| *blocks <= pages);
    let mut next = 1;
    for &(variant, blocks) in clusters {
        let last = sparse_cluster::usual_rows(shape, blocks, u64::from(gpu.multiprocessors)).min(most);
        if blocks == PARTS.1 {
            // Clusters of four that fill most of the multiprocessors wait for each other's places.
            let able = PARTS_ROWS.min(COUNTER_BYTES / 4 / shape.kv_heads);
            rows.push((PARTS.0, (1, able), (next, last.min(able)), 1, 1));
            next = next.max(last.min(able) + 1);
        }
        rows.push((variant, (1, ALL), (next, last), 1, 1));
        next = next.max(last.saturating_add(1));
    }
    let tile = lists::rows_of_a_tile(shape);
    rows.extend(shares.map(|(least, usual)| (SHARED_PAGES, (least, ALL), (usual, ALL), tile, 1)));
    rows
}

/// Variants on tensor cores that can compute some of the spec's steps.
fn of(spec: &KernelSpec, rows: &[Row]) -> Vec<Variant> {
    let variant = |(name, able, usual, pass_rows, launches): &Row| {
        let part = |(least, most): (u64, u64)| RowRange::new(least, most).up_to(spec.max_rows);
        let only = Variant::only(name, spec, *pass_rows);
        let (usual, launches) = (part(*usual), *launches);
        Some(Variant { rows: part(*able)?, usual, launches, tensor_cores: true, ..only })
    };
    rows.iter().filter_map(variant).collect()
}

/// What is projected to, in all.
fn columns(op: &ops::QkvAppend) -> u64 {
    let s = op.shape;
    (s.heads + s.kv_heads) * s.qk_dim + (s.kv_heads + op.gates * s.heads) * s.v_dim
}

/// Whether the weights of a product are in tiles.
fn in_tiles(spec: &KernelSpec) -> bool {
    any_weight(spec, |layout| matches!(layout, Layout::Tiles { .. }))
}

/// Whether those are in strips.
fn in_strips(spec: &KernelSpec) -> bool {
    any_weight(spec, |layout| matches!(layout, Layout::Strips { .. }))
}

/// Whether some weights are in panels.
fn in_panels(spec: &KernelSpec) -> bool {
    any_weight(spec, |layout| matches!(layout, Layout::Panels { .. }))
}

fn any_weight(spec: &KernelSpec, is: fn(&Layout) -> bool) -> bool {
    spec.operands.iter().any(|operand| matches!(operand, OperandSpec::Weight(format) if is(&format.layout)))
}

/// Whether a tensor lies in rows.
fn in_rows(spec: &KernelSpec, name: &str) -> bool {
    let operand = spec.at(name).and_then(|at| spec.operands.get(at));
    matches!(operand, Some(OperandSpec::Tensor { elem: Elem::F32 | Elem::I32, .. }))
}

/// Why the kernels for this do not read or write tiles, where one of its tensors lies in them.
fn check_tiles(spec: &KernelSpec) -> Result<(), String> {
    let any =
        spec.operands.iter().any(|operand| matches!(operand, OperandSpec::Tensor { elem: Elem::Bf16, .. }));
    if any && !tiles_rows(&spec.op, in_tiles(spec) || in_strips(spec)) {
        return Err(format!("rows in tiles: this `{}` is not computed on tensor cores", spec.op.name()));
    }
    Ok(())
}

/// Errors: matrices of one op of which some are in strips and some are not, or in strips of another codec.
fn check_strips(spec: &KernelSpec) -> Result<(), String> {
    let mut codecs: Vec<Codec> = matrices(spec).map(|format| format.codec).collect();
    codecs.dedup();
    match (in_strips(spec), &codecs[..]) {
        (true, [first, second, ..]) => Err(format!(
            "matrices of `{}` in {first} and in {second}: the GPU kernels take those of one format",
            spec.op.name()
        )),
        _ => Ok(()),
    }
}

/// Errors: rows of e4m3 from another number of them on than kernels have, or beside weights that no e4m3 multiplies.
fn check_fp8_rows(spec: &KernelSpec) -> Result<(), String> {
    let (StepOp::Linear(ops::Linear { fp8_rows: Some(least), in_features, .. })
    | StepOp::QkvAppend(ops::QkvAppend { fp8_rows: Some(least), in_features, .. })) = spec.op
    else {
        return Ok(());
    };
    let other = matrices(spec).find(|format| !beside_fp8_rows(**format, in_features));
    match other {
        Some(other) => Err(format!(
            "rows of fp8 beside a matrix of {}: the GPU kernels take them beside fp8 with a scale a row",
            other.codec
        )),
        None if least != MANY_ROWS => {
            Err(format!("rows of fp8 from {least} on: the GPU kernels take them from {MANY_ROWS} on"))
        }
        None => Ok(()),
    }
}

/// The formats of a product's matrices, not of its norms.
fn matrices(spec: &KernelSpec) -> impl Iterator<Item = &Format> {
    spec.operands.iter().filter_map(|operand| match operand {
        OperandSpec::Weight(Format { layout: Layout::Vector { .. }, .. }) => None,
        OperandSpec::Weight(format) => Some(format),
        OperandSpec::Tensor { .. } | OperandSpec::Cache(_) => None,
    })
}

/// The reason why there is no kernel for this on this GPU, where there is none.
fn check(spec: &KernelSpec) -> Result<(), String> {
    operands::check(spec)?;
    check_tiles(spec)?;
    check_strips(spec)?;
    check_fp8_rows(spec)?;
    let wide = |what: &str, n: u64, most: u64| {
        if n > most { Err(format!("{what} of {n}: the GPU kernels take {most} at most")) } else { Ok(()) }
    };
    for operand in &spec.operands {
        match operand {
            OperandSpec::Weight(format) => match &format.layout {
                Layout::Panels { count, out_features: out, in_features, .. } => {
                    // Indices inside a matrix are 32 bits.
                    wide("a matrix", count.saturating_mul(*out).saturating_mul(*in_features) / 16, 1 << 31)?;
                }
                Layout::Vector { .. }
                | Layout::Rows { .. }
                | Layout::Tiles { .. }
                | Layout::Strips { .. } => {}
            },
            OperandSpec::Cache(cache) => {
                wide("a head", cache.qk_dim.max(cache.v_dim), 256)?;
                wide("a page", cache.page, 128)?;
            }
            // So are those inside a tensor, whose rows are taken in tiles.
            OperandSpec::Tensor { stride, .. } => {
                let elements = (spec.max_rows + 128).saturating_mul(*stride);
                wide("the rows of a tensor, in elements,", elements, (1 << 31) - 1)?;
            }
        }
    }
    if let Some(shape) = spec.op.attention() {
        wide("a group", shape.heads / shape.kv_heads, 32)?;
        if !limits::takes(spec) {
            let bytes = simt::shared_bytes(spec, shape);
            wide("queries and sums in shared memory, in bytes,", bytes, 48 << 10)?;
        }
    }
    match spec.op {
        StepOp::QkvAppend(_) if in_tiles(spec) && in_panels(spec) => {
            Err("projections of which some are in tiles and some in panels".to_string())
        }
        StepOp::QkvAppend(op)
            if op.gates > 0 && !((in_tiles(spec) || in_strips(spec)) && qkv_tile(&op).is_some()) =>
        {
            Err("gates beside projections that do not end in registers".to_string())
        }
        StepOp::QkvAppend(op) => {
            let elements = (spec.max_rows + 128).saturating_mul(columns(&op));
            wide("projections, in elements,", elements, (1 << 31) - 1)
        }
        StepOp::ExpertsUp(ops::ExpertsUp { active, shared, .. })
        | StepOp::ExpertsDown(ops::ExpertsDown { active, shared, .. }) => {
            // A grid's second axis, which on tensor cores only few rows have.
            let tensor_cores = in_tiles(spec) || in_strips(spec);
            let rows = if tensor_cores { BY_ROW_ROWS.min(spec.max_rows) } else { spec.max_rows };
            if shared && !tensor_cores {
                return Err("a shared expert beside those that are chosen, in weights for no tensor cores"
                    .to_string());
            }
            wide("rows times chosen experts", rows.saturating_mul(active + u64::from(shared)), 65535)
        }
        StepOp::Router(ops::Router { experts, active, .. }) => {
            wide("a router", experts, 4096)?;
            wide("a router's choice", active, 64)
        }
        StepOp::PageLists(ops::PageLists { lists, .. }) => wide("rows of a tile", lists.tile, 1024),
        StepOp::Embed(_)
        | StepOp::RmsNorm(_)
        | StepOp::Linear(_)
        | StepOp::Rope(_)
        | StepOp::Append(_)
        | StepOp::QuantiseKv(_)
        | StepOp::Add(_)
        | StepOp::Bias(_)
        | StepOp::SiluMul(_)
        | StepOp::Gate(_)
        | StepOp::FullAttention(_)
        | StepOp::OracleAttention(_)
        | StepOp::WindowAttention(_)
        | StepOp::SparseAttention(_)
        | StepOp::HybridAttention(_)
        | StepOp::GatherRows(_)
        | StepOp::Sample(_) => Ok(()),
    }
}
