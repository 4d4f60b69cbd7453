//! Random weights of a seed, for measuring speed without a checkpoint.

/// Rows `first .. first + count` of `cols` elements of a tensor: norms are 1, sinks standard normal, matrices
/// normal with variance 1/`cols`. They come as the bytes of f32.
pub fn rows(seed: u64, name: &str, cols: u64, first: u64, count: u64, out: &mut Vec<u8>) {
    out.clear();
    if name.ends_with("norm.weight") {
        (0..count * cols).for_each(|_| out.extend(1f32.to_le_bytes()));
        return;
    }
    let scale = if name.contains("sink") { 1.0 } else { 1.0 / (cols as f32).sqrt() };
    let tensor = name
        .bytes()
        .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    for row in first..first + count {
        let mut state = tensor ^ row.wrapping_mul(0xd134_2543_de82_ef95);
        (0..cols).for_each(|_| out.extend((normal(&mut state) * scale).to_le_bytes()));
    }
}

/// Nearly a standard normal: the sum of four uniforms, scaled to variance 1. Tails do not matter here.
fn normal(state: &mut u64) -> f32 {
    let z = next(state);
    let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 3.0f32.sqrt()
}

/// The next number of a state (splitmix64).
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
