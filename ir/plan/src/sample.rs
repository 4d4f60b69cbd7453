//! From a row of logits to a token: the arithmetic that the host, the reference and a GPU's kernel share, to the
//! last bit.
//!
//! A token's weight is `2^30 * exp((logit - most) / temperature)` as an integer, so that sums do not depend on
//! their order. Tokens are ordered by their logit, the largest first, equal ones by their id. The filters keep a
//! prefix of that order: top-k the first k; top-p the first whose weights reach its share of all that are left.
//! Min-p keeps weights above a least one. The draw picks a place in the sum of what is kept, in order. Tokens less
//! likely than 2^-30 of the likeliest have no weight.
//!
//! Before all that, penalties change the logits of the tokens that a sequence has seen ([`penalised`]): at
//! temperature 0 too.

/// How one row is sampled. A row of [`StepContext::sampling`](crate::abi::StepContext::sampling).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SampleParams {
    /// `log2(e) / temperature`; 0: the largest logit, whatever the filters say.
    pub scale: f32,
    /// Tokens kept by rank; 0: all.
    pub top_k: u32,
    /// The share of all weights that is kept; 1 and more: all.
    pub top_p: f32,
    /// The least weight kept.
    pub least: u32,
    /// A uniform number: the place in the sum of kept weights, in 2^-64ths.
    pub draw: u64,
    /// The row's tokens that are penalised: so many of [`StepContext::seen`](crate::abi::StepContext::seen) from
    /// `first_seen` on, at most [`MAX_PENALTY_WINDOW`](crate::sampling::MAX_PENALTY_WINDOW), whose ids ascend.
    pub first_seen: u32,
    /// How many; 0: none, and what follows has no meaning.
    pub seen: u32,
    /// Divides a logit above 0 and multiplies another one; above 0.
    pub repeat: f32,
    /// Taken from the logit of a token that was generated.
    pub presence: f32,
    /// Taken from it once for each time.
    pub frequency: f32,
    /// Fills the row.
    pub unused: u32,
}

/// A token that penalties find in a sequence.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Its id.
    pub id: u32,
    /// How often it was generated; 0: it is the prompt's alone.
    pub generated: u32,
}

/// The weight of the largest logit.
pub const ONE: u32 = 1 << 30;
/// Below this power of two a weight is none.
pub const FLOOR: f32 = -30.0;
/// 2^x for |x| <= 1/2, by powers of x from the sixth down; relative error below 3e-8 (Cephes' exp2f).
pub const EXP2: [f32; 7] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, std::f32::consts::LN_2, 1.0];

/// Bits of a logit in its order, as an unsigned number; -0 is 0.
pub fn key(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The weight of a logit beside the largest, `most`; 0 for what is out of the sum.
pub fn weight(logit: f32, most: f32, scale: f32) -> u32 {
    let y = (logit - most) * scale;
    // Not a number where infinities meet, which `choose` has ruled out.
    if y.is_nan() || y < FLOOR {
        return 0;
    }
    let whole = y.round_ties_even();
    let rest = y - whole;
    let power = EXP2[1..].iter().fold(EXP2[0], |sum, c| sum.mul_add(rest, *c));
    let mantissa = (power * (1 << 24) as f32) as u32;
    (mantissa << 6) >> (-whole) as u32
}

/// A finite logit of a token that was seen: [`SampleParams::repeat`], then frequency, then presence, each in one f32
/// operation after the other (vLLM's order). It stays finite, so that no penalty takes a row for one of no numbers.
pub fn penalised(logit: f32, generated: u32, params: &SampleParams) -> f32 {
    if !logit.is_finite() {
        return logit;
    }
    let repeated = if logit > 0.0 { logit / params.repeat } else { logit * params.repeat };
    let less_often = repeated - generated as f32 * params.frequency;
    let presence = if generated > 0 { params.presence } else { 0.0 };
    (less_often - presence).clamp(f32::MIN, f32::MAX)
}

/// Penalises a row's logits and chooses its token, of the first `choices`. `seen` is the pass's whole list.
///
/// Panics where the row's part of the list is not inside it, an id is no logit's, or there are more choices than logits.
pub fn penalise_and_choose(
    logits: &mut [f32],
    choices: u64,
    params: &SampleParams,
    seen: &[Seen],
) -> Option<u32> {
    penalise_and_choose_named(logits, choices, &[], params, seen)
}

/// The same, of those choices alone that are in none of the ranges of
/// [`TextSettings::unnamed`](crate::text_settings::TextSettings::unnamed).
pub fn penalise_and_choose_named(
    logits: &mut [f32],
    choices: u64,
    unnamed: &[[u32; 2]],
    params: &SampleParams,
    seen: &[Seen],
) -> Option<u32> {
    for Seen { id, generated } in &seen[params.first_seen as usize..][..params.seen as usize] {
        let logit = &mut logits[*id as usize];
        *logit = penalised(*logit, *generated, params);
    }
    let logits = &logits[..choices as usize];
    if unnamed.is_empty() || logits.iter().any(|x| !x.is_finite()) {
        return choose(logits, params);
    }
    // Ids that are left out change neither the order of the others nor their sum.
    let mut ids = Vec::with_capacity(logits.len());
    let mut next = 0;
    for [first, end] in unnamed {
        ids.extend(next..(*first).min(choices as u32));
        next = *end;
    }
    ids.extend(next..choices as u32);
    let named: Vec<f32> = ids.iter().map(|id| logits[*id as usize]).collect();
    choose(&named, params).map(|at| ids[at as usize])
}

/// The token; `None` where a logit is no finite number or there is none.
pub fn choose(logits: &[f32], params: &SampleParams) -> Option<u32> {
    if logits.is_empty() || logits.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let ids = || 0..logits.len() as u32;
    let order = |id: &u32| (std::cmp::Reverse(key(logits[*id as usize])), *id);
    let first = ids().min_by_key(order)?;
    if params.scale == 0.0 {
        return Some(first);
    }
    let most = logits[first as usize];
    let of = |id: u32| u64::from(weight(logits[id as usize], most, params.scale));
    let mut kept: Vec<u32> = ids().filter(|id| of(*id) > 0).collect();
    kept.sort_unstable_by_key(order);
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        let total: u64 = kept.iter().map(|id| of(*id)).sum();
        let share = (f64::from(params.top_p) * total as f64).ceil() as u64;
        let mut sum = 0;
        let below = kept.iter().take_while(|id| {
            let wanted = sum < share.max(1);
            sum += of(**id);
            wanted
        });
        let count = below.count();
        kept.truncate(count);
    }
    kept.retain(|id| of(*id) >= u64::from(params.least));
    let total: u64 = kept.iter().map(|id| of(*id)).sum();
    let mut left = ((u128::from(params.draw) * u128::from(total)) >> 64) as u64;
    kept.into_iter().find(|id| {
        let weight = of(*id);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What is chosen of named ids is what is chosen where the logits of the others are hopeless.
    #[test]
    fn unnamed_ids_are_never_chosen() {
        let mut state = 7;
        let unnamed = [[0, 2], [5, 6], [6, 9], [30, 40], [200, 300]];
        let is_named = |id: u32| !unnamed.iter().any(|[first, end]| (*first..*end).contains(&id));
        for round in 0..500 {
            let logits: Vec<f32> = (0..50).map(|_| (mix(&mut state) % 64) as f32 / 8.0 - 4.0).collect();
            let params = SampleParams {
                scale: if round % 5 == 0 { 0.0 } else { 1.4 },
                top_k: [0, 1, 7][round % 3],
                top_p: [1.0, 0.6][round % 2],
                draw: mix(&mut state),
                seen: 1,
                repeat: 1.3,
                ..SampleParams::default()
            };
            let seen = [Seen { id: (round % 50) as u32, generated: 1 }];
            let found = penalise_and_choose_named(&mut logits.clone(), 50, &unnamed, &params, &seen);
            let hopeless = |(id, x): (u32, &f32)| if is_named(id) { *x } else { -1e6 };
            let mut others: Vec<f32> = (0..).zip(&logits).map(hopeless).collect();
            assert_eq!(found, penalise_and_choose(&mut others, 50, &params, &seen), "round {round}");
            assert!(found.is_some_and(is_named));
            let all = penalise_and_choose_named(&mut logits.clone(), 50, &[], &params, &seen);
            assert_eq!(all, penalise_and_choose(&mut logits.clone(), 50, &params, &seen));
        }
        let params = SampleParams::default();
        assert_eq!(penalise_and_choose_named(&mut [1.0; 4], 4, &[[0, 4]], &params, &[]), None);
        assert_eq!(penalise_and_choose_named(&mut [f32::NAN, 1.0], 2, &[[0, 1]], &params, &[]), None);
        assert_eq!(
            penalise_and_choose_named(&mut [9.0, 1.0, 2.0], 2, &[[0, 1], [2, 3]], &params, &[]),
            Some(1)
        );
    }

    #[test]
    fn weights_are_powers() {
        assert_eq!(weight(3.0, 3.0, 1.4), ONE);
        for i in 0..3000 {
            let x = -f32::from(i as u16) / 100.0;
            let expected = f64::from(ONE) * f64::from(x).exp2();
            let found = f64::from(weight(x, 0.0, 1.0));
            assert!((found - expected).abs() <= 1.0 + 1e-7 * expected && found >= 1.0, "{x}: {found}");
        }
        assert_eq!([weight(-31.0, 0.0, 1.0), weight(f32::MIN, f32::MAX, f32::MAX)], [0, 0]);
    }

    #[test]
    fn keys_are_ordered() {
        let list = [f32::MIN, -2.0, -1e-40, 0.0, 1e-40, 1.0, f32::MAX];
        assert!(list.windows(2).all(|pair| key(pair[0]) < key(pair[1])));
        assert_eq!(key(0.0), key(-0.0));
    }

    /// How the GPU's kernel finds the token: by bisection over (key, id), without sorting.
    fn search(logits: &[f32], p: &SampleParams) -> Option<u32> {
        let place = |id: usize| (u64::from(key(logits[id])) << 32) | u64::from(!(id as u32));
        let first = (0..logits.len()).map(place).max()?;
        if p.scale == 0.0 {
            return Some(!(first as u32));
        }
        let most = logits[!(first as u32) as usize];
        let ids: Vec<usize> =
            (0..logits.len()).filter(|id| (logits[*id] - most) * p.scale >= FLOOR).collect();
        let sum = |from: u64, unit: bool, least: u32| -> u64 {
            let of = |id: &usize| match weight(logits[*id], most, p.scale) {
                _ if place(*id) < from => 0,
                _ if unit => 1,
                weight if weight < least => 0,
                weight => u64::from(weight),
            };
            ids.iter().map(of).sum()
        };
        let mut cut = 0;
        for stage in 0..3 {
            let (unit, least) = (stage == 0, if stage == 2 { p.least } else { 1 });
            let total = sum(cut, unit, least);
            let target = match stage {
                0 if p.top_k == 0 || u64::from(p.top_k) >= total => continue,
                0 => u64::from(p.top_k) - 1,
                1 if p.top_p >= 1.0 => continue,
                1 => ((f64::from(p.top_p) * total as f64).ceil() as u64).max(1) - 1,
                _ => ((u128::from(p.draw) * u128::from(total)) >> 64) as u64,
            };
            let above = |from: u64| sum(from.max(cut), unit, least) > target;
            let (mut low, mut high) = (0u32, (first >> 32) as u32);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if above(u64::from(middle) << 32) { low = middle } else { high = middle - 1 }
            }
            let base = u64::from(low) << 32;
            let (mut low, mut high) = (!(logits.len() as u32 - 1), u32::MAX);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if above(base | u64::from(middle)) { low = middle } else { high = middle - 1 }
            }
            if stage == 2 {
                return Some(!low);
            }
            cut = base | u64::from(low);
        }
        None
    }

    #[test]
    fn a_search_finds_what_sorting_does() {
        let mut state = 5;
        for round in 0..3000 {
            let count = 1 + (mix(&mut state) % 60) as usize;
            // Few different logits give ties.
            let values = [3, 1000, 1 << 20][round % 3];
            let logits: Vec<f32> =
                (0..count).map(|_| (mix(&mut state) % values) as f32 / values as f32 * 20.0 - 10.0).collect();
            let params = SampleParams {
                scale: [0.0, 0.1, 1.5, 1e20][round % 4],
                top_k: [0, 1, 5, 30, 100][round % 5],
                top_p: [1.0, 0.0, 0.3, 0.9, 0.999_999][round / 4 % 5],
                least: [0, 1 << 20, 1 << 29, ONE][round / 3 % 4],
                draw: [mix(&mut state), 0, u64::MAX][round / 7 % 3],
                ..SampleParams::default()
            };
            let token = choose(&logits, &params);
            assert!(token.is_some());
            assert_eq!(token, search(&logits, &params), "{logits:?} {params:?}");
        }
    }

    #[test]
    fn penalties_are_those_of_the_field() {
        let p = SampleParams { repeat: 2.0, presence: 0.5, frequency: 0.25, ..SampleParams::default() };
        // Seen in the prompt alone: the repeat penalty, towards less likely on both sides of 0.
        assert_eq!([penalised(3.0, 0, &p), penalised(-3.0, 0, &p), penalised(0.0, 0, &p)], [1.5, -6.0, 0.0]);
        assert_eq!([penalised(3.0, 1, &p), penalised(3.0, 4, &p)], [0.75, 0.0]);
        let none = SampleParams { repeat: 1.0, ..SampleParams::default() };
        for logit in [-0.0, 1e-45, f32::MAX, f32::MIN, -7.25] {
            assert_eq!(penalised(logit, 9, &none).to_bits(), logit.to_bits());
        }
        // Each step is rounded to f32 by itself: 1 - 3 * 0.1 is not what one rounding gives.
        let tenth = SampleParams { frequency: 0.1, ..none };
        assert_eq!(penalised(1.0, 3, &tenth).to_bits(), (1.0f32 - (3.0f32 * 0.1f32)).to_bits());
    }

    /// However large logits and penalties are, finite ones stay finite, and others what they are.
    #[test]
    fn penalties_make_no_bad_numbers() {
        let bounds = [0.01, 1.0, 100.0];
        for (repeat, presence, frequency) in bounds.iter().flat_map(|r| [(*r, 2.0, 2.0), (*r, -2.0, -2.0)]) {
            let p = SampleParams { repeat, presence, frequency, ..SampleParams::default() };
            for logit in [f32::MAX, f32::MIN, 1e37, -1e37, 0.0] {
                assert!([0, 1, u32::MAX].into_iter().all(|times| penalised(logit, times, &p).is_finite()));
            }
            assert!(penalised(f32::NAN, 1, &p).is_nan());
            assert_eq!(penalised(f32::NEG_INFINITY, 1, &p), f32::NEG_INFINITY);
        }
    }

    #[test]
    fn each_row_has_its_part_of_the_list() {
        let seen = [(0, 0), (1, 2), (3, 1)].map(|(id, generated)| Seen { id, generated });
        let row = SampleParams { repeat: 10.0, ..SampleParams::default() };
        let chosen = |first_seen, count| {
            let params = SampleParams { first_seen, seen: count, ..row };
            penalise_and_choose(&mut [4.0, 3.0, 2.0, 5.0], 4, &params, &seen)
        };
        assert_eq!(
            [chosen(0, 0), chosen(3, 0), chosen(0, 3), chosen(2, 1), chosen(1, 2)].map(Option::unwrap),
            [3, 3, 2, 0, 0]
        );
    }

    #[test]
    fn what_is_no_number_gives_no_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(choose(&[1.0, bad, 0.0], &SampleParams::default()), None);
        }
        assert_eq!(choose(&[], &SampleParams::default()), None);
    }
}
