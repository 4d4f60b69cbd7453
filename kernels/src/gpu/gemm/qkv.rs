//! `QkvAppend`, `Append`. Reference: `reference::linear::qkv_append`, `reference::pointwise`.
//!
//! Two functions: the projections of all heads, a panel a block, to scratch `[rows][all heads' columns]`; then
//! a warp a (row, head) normalises, rotates, and stores q or appends to the cache.

use std::mem::offset_of;

use hyc_plan::abi::StepContext;
use hyc_plan::ops::QkvAppend;
use hyc_plan::{Extent, Layout, PANEL};

use super::large_m::{large_m, large_m_with};
use super::matrices::{Matrix, Product, Rows, To};
use super::panel::{self, THREADS, input, mine, panel_at, tile};
use super::product::{MANY_ROWS_OF_STRIPS, WGMMA, few_rows, pack_x};
use super::projections::{Part, Projection, gates};
use super::rope::{angles, rotated};
use super::small_m::small_m;
use super::stored::Stored;
use super::wgmma::WIDE;
use super::wgmma_strips::strips_large_m;
use super::{qkv_large_m, qkv_small_m, qkv_wgmma_strips};
use crate::gpu::function::{Function, Kernel, NO_PRODUCT};
use crate::gpu::isa::WARP;
use crate::gpu::paged_kv::{key_store, value_store};
use crate::tiles::{ends_in_registers, qkv_tile};

/// What an op projects to, in the order of the columns.
pub fn parts(c: &QkvAppend) -> Vec<Part> {
    let s = c.shape;
    let mut projections = vec![(Projection::Query, s.heads, s.qk_dim)];
    if c.own_kv {
        projections.push((Projection::Key, s.kv_heads, s.qk_dim));
        projections.push((Projection::Value, s.kv_heads, s.v_dim));
    }
    projections.extend(gates(c).map(|(i, _)| (Projection::Gate(i), s.heads, s.v_dim)));
    let mut columns = 0;
    let mut part = |(projection, heads, dim)| {
        // Gates' logits are rows of their own.
        let column = if let Projection::Gate(_) = projection { 0 } else { columns };
        columns += heads * dim;
        Part { projection, heads, dim, column }
    };
    projections.into_iter().map(&mut part).collect()
}

/// Makes `QkvAppend`.
pub fn qkv_append(k: &mut Kernel<'_, '_>, c: &QkvAppend) {
    let spec = k.spec;
    let parts = parts(c);
    let columns: u64 = parts.iter().map(|part| part.heads * part.dim).sum();
    let layout = k.layout("wq");
    let tiled = matches!(layout, Layout::Tiles { .. });
    let fused = (tiled || matches!(layout, Layout::Strips { .. })) && ends_in_registers(c);
    let whole = qkv_tile(c).filter(|_| fused);
    // No function is left that has its results finished by another.
    let alone = fused && (!tiled || whole.is_some());
    let scratch = if alone { 0 } else { k.scratch(4 * columns * spec.max_rows) };
    match layout {
        Layout::Tiles { .. } | Layout::Strips { .. } => {
            let matrix =
                |p: &Part| Matrix { name: p.projection.weight(), out: p.heads * p.dim, column: p.column };
            let stored = Stored::of(k.format("wq"));
            let product = Product {
                in_features: c.in_features,
                matrices: parts.iter().map(matrix).collect(),
                stored,
                up: None,
                inputs: pack_x(k, c.in_features, (c.norm, c.fp8_rows.is_some()), (stored, &[WGMMA])),
                to: To::Rows(if alone {
                    Rows::Operand("q")
                } else {
                    Rows::Scratch { at: scratch, stride: columns }
                }),
                plus: None,
            };
            if fused {
                qkv_small_m::launches(k, c, &parts, (product.inputs, stored));
            } else {
                for (variant, feed) in few_rows(stored) {
                    small_m(k, variant, &product, feed);
                }
            }
            if let Stored::Strips(codec) = stored {
                if fused {
                    qkv_wgmma_strips::launches(k, c, &product, codec);
                } else {
                    for tile in MANY_ROWS_OF_STRIPS {
                        strips_large_m(k, tile, (&product, codec));
                    }
                }
            } else if let Some(width) = whole {
                let ends = qkv_large_m::Ends::new(k, c, product);
                large_m_with(k, WGMMA, width, &ends.query, &|e, tile, row, staging| {
                    ends.begin(e, (tile, row, staging))
                });
            } else {
                large_m(k, WGMMA, WIDE, &product);
            }
        }
        Layout::Panels { .. } => project(k, c, &parts, columns, scratch),
        Layout::Rows { .. } | Layout::Vector { .. } => return k.refuse(NO_PRODUCT),
    }
    if alone {
        return;
    }
    let heads: u64 = parts.iter().map(|p| p.heads).sum();
    let grid = [k.rows(1, 1), Extent::fixed(heads)];
    let variants: &[&str] = if fused { &[WGMMA] } else { &[] };
    // Positions and pages are looked up before the projections are through.
    k.function(Function::new("_append", grid, WARP).of(variants).waits_itself(), |e| {
        let (row, head) = (e.block_x(), e.block_y());
        let all = e.at(e.at(e.scratch(), e.int(scratch)), e.mul_const(row, columns));
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
        let table = angles(e, c.rope);
        let mut begin = 0;
        for part in &parts {
            let here = e.and(e.ge(head, e.int(begin)), e.lt(head, e.int(begin + part.heads)));
            let local = e.add_const(head, -(begin as i64));
            begin += part.heads;
            let x = e.at(all, e.add_const(e.mul_const(local, part.dim), part.column as i64));
            e.when(here, |e| match part.projection {
                Projection::Query => {
                    let to = e.add(e.mul_const(row, e.stride("q")), e.mul_const(local, part.dim));
                    let to = e.at(e.operand("q"), to);
                    let norm = c.qk_norm.map(|eps| (eps, e.operand("q_norm")));
                    e.wait_for_inputs();
                    rotated(e, x, part.dim, norm, Some((c.rope, table, position)), |e, d, y| {
                        e.store(to, d, y.into());
                    });
                }
                Projection::Key => {
                    let norm = c.qk_norm.map(|eps| (eps, e.operand("k_norm")));
                    let store = key_store(e, row, position, local);
                    e.wait_for_inputs();
                    rotated(e, x, part.dim, norm, Some((c.rope, table, position)), store);
                }
                Projection::Value => {
                    let store = value_store(e, row, position, local);
                    e.wait_for_inputs();
                    rotated(e, x, part.dim, None, None, store);
                }
                // Those are whole.
                Projection::Gate(_) => {}
            });
        }
    });
}

/// The projections of weights in panels, a panel a block.
fn project(k: &mut Kernel<'_, '_>, c: &QkvAppend, parts: &[Part], columns: u64, scratch: u64) {
    let spec = k.spec;
    let q = parts[0];
    let panels: u64 = parts.iter().map(|p| p.heads * p.panels()).sum();
    let grid = [Extent::fixed(panels), k.rows(1, tile(spec))];
    k.function(Function::new("_project", grid, THREADS), |e| {
        let (input, first) = input(e, spec, c.in_features, c.norm);
        let all = e.at(e.scratch(), e.int(scratch));
        // Which part this block's panel is of; all weights have one element type.
        let (mut begin, mut matrix, mut local) = (0, e.operand(q.projection.weight()), e.block_x());
        let (mut dim, mut head_panels, mut column) = (e.int(q.dim), e.int(q.panels()), e.int(0));
        for (i, part) in parts.iter().enumerate().skip(1) {
            begin += parts[i - 1].heads * parts[i - 1].panels();
            let here = e.ge(e.block_x(), e.int(begin));
            matrix = e.pick_ptr(here, e.operand(part.projection.weight()), matrix);
            local = e.pick(here, e.add_const(e.block_x(), -(begin as i64)), local);
            dim = e.pick(here, e.int(part.dim), dim);
            head_panels = e.pick(here, e.int(part.panels()), head_panels);
            column = e.pick(here, e.int(part.column), column);
        }
        let elem = e.elem(q.projection.weight());
        let (place, sum) = panel::panel(e, elem, panel_at(e, elem, matrix, local, c.in_features), &input);
        let head = e.quotient(local, head_panels);
        let inside_head = e.add(e.mul_const(e.sub(local, e.mul(head, head_panels)), PANEL), place.column);
        let (inside, row) = mine(e, spec, first, &place);
        e.when(e.and(inside, e.lt(inside_head, dim)), |e| {
            let at = e.add(e.add(column, e.mul(head, dim)), inside_head);
            e.store(all, e.add(e.mul_const(row, columns), at), sum.into());
        });
    });
}

/// Makes `Append`.
pub fn append(k: &mut Kernel<'_, '_>, kv_heads: u64, qk_dim: u64, v_dim: u64) {
    let grid = [k.rows(1, 1), Extent::fixed(kv_heads)];
    k.function(Function::new("", grid, WARP), |e| {
        let (row, head) = (e.block_x(), e.block_y());
        let at = |name: &str, dim: u64| {
            e.at(e.operand(name), e.add(e.mul_const(row, e.stride(name)), e.mul_const(head, dim)))
        };
        let position = e.load_int(e.list(offset_of!(StepContext, positions)), row);
        rotated(e, at("k", qk_dim), qk_dim, None, None, key_store(e, row, position, head));
        rotated(e, at("v", v_dim), v_dim, None, None, value_store(e, row, position, head));
    });
}
