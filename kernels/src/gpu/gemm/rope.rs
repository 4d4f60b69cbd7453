//! RoPE.

use hyc_plan::RopeSpec;

use crate::gpu::isa::{Emit, Float, Int, LANES, Ptr, WARP};

/// Turns a position of pair i: its frequency over 2 pi.
pub fn angles<'c>(e: &Emit<'c>, rope: RopeSpec) -> Ptr<'c> {
    e.table(&turns(rope))
}

/// The same in 2^-64 turns, for [`Emit::sin_cos_steps`].
pub fn steps<'c>(e: &Emit<'c>, rope: RopeSpec) -> Ptr<'c> {
    let step = |turns: &f64| (turns * 2f64.powi(64)) as u64;
    e.table_of_longs(&turns(rope).iter().map(step).collect::<Vec<_>>())
}

fn turns(rope: RopeSpec) -> Vec<f64> {
    let pairs = (rope.dims / 2).max(1);
    let turn = |i: u64| rope.frequency(i) / std::f64::consts::TAU;
    (0..pairs).map(turn).collect()
}

/// Sine and cosine times the magnitude.
pub fn grown<'c>(e: &Emit<'c>, rope: RopeSpec, (sin, cos): (Float<'c>, Float<'c>)) -> (Float<'c>, Float<'c>) {
    if rope.magnitude() == 1.0 {
        return (sin, cos);
    }
    let magnitude = e.float(rope.magnitude() as f32);
    (e.fmul(sin, magnitude), e.fmul(cos, magnitude))
}

/// Normalises and rotates one head with a warp; `store` gets each element.
pub fn rotated<'c>(
    e: &Emit<'c>,
    x: Ptr<'c>,
    dim: u64,
    norm: Option<(f64, Ptr<'c>)>,
    rope: Option<(RopeSpec, Ptr<'c>, Int<'c>)>,
    store: impl Fn(&Emit<'c>, Int<'c>, Float<'c>),
) {
    let lane = e.thread();
    let scale = norm.map(|(eps, weight)| {
        let sum = e.float_var(0.0);
        e.each(lane, e.int(dim), WARP, |e, d| {
            let x = e.load(x, d);
            e.accumulate(sum, x, x);
        });
        let mean = e.fdiv(e.warp_sum(e.get_float(sum), &LANES), e.float(dim as f32));
        (e.inverse_sqrt(e.fadd(mean, e.float(eps as f32))), weight)
    });
    let load = |e: &Emit<'c>, d: Int<'c>| {
        let value = e.load(x, d);
        match scale {
            Some((scale, weight)) => e.fmul(e.fmul(value, scale), e.load(weight, d)),
            None => value,
        }
    };
    let dims = rope.map_or(0, |(rope, ..)| rope.dims);
    if let Some((rope, table, position)) = rope {
        e.each(lane, e.int(dims / 2), WARP, |e, i| {
            let (sin, cos) = grown(e, rope, e.sin_cos_turns(e.turns(table, i, position)));
            let far = e.add_const(i, (dims / 2) as i64);
            let (a, b) = (load(e, i), load(e, far));
            store(e, i, e.fsub(e.fmul(a, cos), e.fmul(b, sin)));
            store(e, far, e.fadd(e.fmul(b, cos), e.fmul(a, sin)));
        });
    }
    e.each(e.add_const(lane, dims as i64), e.int(dim), WARP, |e, d| store(e, d, load(e, d)));
}
