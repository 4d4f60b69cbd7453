//! Warps' reductions, conversions, vectors and functions: what one thread or warp does in registers.

use hyc_plan::Elem;
use inkwell::values::BasicValueEnum;

use super::common::{Probe, keep, launch, probe};
use crate::gpu::function::Kernel;
use crate::gpu::isa::LANES;

pub fn all() -> Vec<Probe> {
    vec![
        probe("warp_sum warp_max", 2, reductions),
        probe("redux", 2, redux),
        probe("bf16", 5, bf16),
        probe("load_half", 4, load_half),
        probe("load4 store_words load_chunk", 4, vectors),
        probe("store_matrices_turned", 2, matrices),
        probe("exp exp2", 2, exponentials),
        probe("ln log2 inverse_sqrt", 2, logarithms),
        probe("sigmoid silu", 2, sigmoids),
        probe("sin_cos_turns sin_cos_steps", 2, rotations),
    ]
}

/// Two warps, a value a lane.
fn reductions(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 64, 0, |e| {
        let x = e.load(e.operand_at(0), e.thread());
        let found = [e.warp_sum(x, &LANES), e.warp_sum(x, &[1, 2]), e.warp_max(x)];
        keep(e, e.operand_at(1), 64, &found.map(BasicValueEnum::from));
    });
}

fn redux(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 64, 0, |e| {
        let x = e.load_int(e.operand_at(0), e.thread());
        let found = [e.warp_max_unsigned(x), e.warp_min_unsigned(x)];
        keep(e, e.operand_at(1), 64, &found.map(BasicValueEnum::from));
    });
}

/// 256 numbers to bf16, in pairs and one by one, and back by other threads than those that stored them.
fn bf16(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 128, 0, |e| {
        let first = e.mul_const(e.thread(), 2);
        let second = e.add_const(first, 1);
        let (low, high) = (e.load(e.operand_at(0), first), e.load(e.operand_at(0), second));
        e.store(e.operand_at(1), e.thread(), e.pack_bf16(low, high).into());
        e.store_elem(Elem::Bf16, e.operand_at(2), first, low);
        e.store_elem(Elem::Bf16, e.operand_at(2), second, high);
        e.barrier();
        for (from, to) in [(1, 3), (2, 4)] {
            let back = [0, 128].map(|plus| {
                let at = e.add_const(e.thread(), plus);
                BasicValueEnum::from(e.load_elem(Elem::Bf16, e.operand_at(from), at))
            });
            keep(e, e.operand_at(to), 128, &back);
        }
    });
}

/// Half-columns of panels: 32 of bf16, then 32 of f32.
fn load_half(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 32, 0, |e| {
        for (elem, from, to) in [(Elem::Bf16, 0, 2), (Elem::F32, 1, 3)] {
            let at = e.at_elem(elem, e.operand_at(from), e.mul_const(e.thread(), 8));
            keep(e, e.operand_at(to), 32, &e.load_half(elem, at).map(BasicValueEnum::from));
        }
    });
}

/// Thread i: words 4i .. reversed; words 0 and 3 of them; and the four behind them, read as a chunk.
fn vectors(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 64, 0, |e| {
        let at = e.mul_const(e.thread(), 4);
        let [a, b, c, d] = e.load4(e.operand_at(0), at);
        e.store_words(e.operand_at(1), at, &[d, c, b, a]);
        e.store_words(e.operand_at(2), e.mul_const(e.thread(), 2), &[a, d]);
        let chunk = e.load_chunk(e.operand_at(0), e.wide(e.mul_const(e.thread(), 16)), 16);
        e.store_words(e.operand_at(3), at, &chunk);
    });
}

/// A warp, four words a lane; back by each lane those 16 bytes whose address it gave.
fn matrices(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 32, 0, |e| {
        let (memory, at) = (e.shared(128), e.mul_const(e.thread(), 4));
        let words = e.load4(e.operand_at(0), at);
        e.store_matrices_turned(e.shared_address(e.at(memory, at)), &words);
        e.warp_barrier();
        e.store_words(e.operand_at(1), at, &e.load4(memory, at));
    });
}

fn exponentials(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let x = e.load(e.operand_at(0), e.thread());
        keep(e, e.operand_at(1), 256, &[e.exp(x).into(), e.exp2(x).into()]);
    });
}

fn logarithms(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let x = e.load(e.operand_at(0), e.thread());
        keep(e, e.operand_at(1), 256, &[e.ln(x).into(), e.log2(x).into(), e.inverse_sqrt(x).into()]);
    });
}

fn sigmoids(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let x = e.load(e.operand_at(0), e.thread());
        keep(e, e.operand_at(1), 256, &[e.sigmoid(x).into(), e.silu(x).into()]);
    });
}

/// Turns a position, by thread modulo 4; `blocks::lanes` has the same.
const TURNS: [f64; 4] = [0.159_154_943_091_895_35, 0.01, 1.25e-4, 7.0e-7];

fn rotations(k: &mut Kernel<'_, '_>) {
    launch(k, 1, 256, 0, |e| {
        let table = e.table(&TURNS);
        let position = e.load_int(e.operand_at(0), e.thread());
        let (sin, cos) = e.sin_cos_turns(e.turns(table, e.and(e.thread(), e.int(3)), position));
        let steps = e.table_of_longs(&TURNS.map(|turns| (turns * 2f64.powi(64)) as u64));
        let stepped = e.sin_cos_steps(e.load_long(steps, e.and(e.thread(), e.int(3))), position);
        keep(e, e.operand_at(1), 256, &[sin, cos, stepped.0, stepped.1].map(BasicValueEnum::from));
    });
}
