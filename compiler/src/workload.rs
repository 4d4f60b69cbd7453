//! What the oracles of a trained model would select and its routers choose, made up: random weights do neither as a trained
//! model does, and the time of sparse layers and of experts depends on it.

use std::collections::HashSet;

/// How selections of neighbouring tokens overlap. Distinct blocks of N neighbours, in units of k, at blocks of 64:
///
/// ```text
/// N            2      4      8      16     32     64
/// pretrained   1.3    1.6    2.1    2.7    3.6    4.8     measured: 1.28 1.62 2.08 2.67 3.43 4.45 (SmolLM2-135M)
/// tiny         1.4    1.9    2.5    3.5    4.8    6.5     measured: 1.40 1.96 2.71 3.66 4.88 6.42 (examples/tiny-hysparse)
/// uniform      2.0    3.8    7.2    12.8   20.4   27.8    of 512 blocks
/// ```
/// The same at every context: nothing longer was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Selection {
    /// As a pretrained model's
    Pretrained,
    /// As the trained tiny model's
    Tiny,
    /// Each block as likely as any other
    Uniform,
}

/// How tokens are spread over experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// As many for each, as a trained router's losses aim at
    Balanced,
    /// Expert e as often as 1 / (e + 1)
    Skewed,
}

/// What replaces the choices of steps in a prefill.
#[derive(Debug, Clone, Copy, Default)]
pub struct Workload {
    /// Of oracles.
    pub selection: Option<Selection>,
    /// Of routers.
    pub routing: Option<Routing>,
}

/// Tokens after which a slot's favourite block moves on, on average.
const DRIFT: u64 = 1024;

impl Selection {
    /// Zipf's exponent and offset of the ranks that a slot takes: distinct values of N draws grow as N^(1/exponent)
    /// (Heaps's law), which is how the measured overlaps grow.
    fn zipf(self) -> Option<(f64, f64)> {
        match self {
            Selection::Pretrained => Some((3.0, 1.0)),
            Selection::Tiny => Some((2.4, 0.9)),
            Selection::Uniform => None,
        }
    }

    /// The blocks of each KV head for positions `begin..end`: `[position][kv_heads][k]`, -1 where fewer are visible.
    pub fn blocks(self, (begin, end): (u64, u64), kv_heads: u64, k: u64, block: u64) -> Vec<i32> {
        let ranks = self.zipf().map(|zipf| Ranks::new(zipf, 4096));
        let mut list = Vec::new();
        for (position, head) in (begin..end).flat_map(|p| (0..kv_heads).map(move |h| (p, h))) {
            let visible = position / block + 1;
            if visible <= k {
                list.extend((0..k).map(|i| if i < visible { i as i32 } else { -1 }));
                continue;
            }
            match &ranks {
                Some(ranks) => list.extend((0..k).map(|slot| {
                    // A slot has every k-th block: no two slots meet.
                    let own = (visible - slot).div_ceil(k);
                    let favourite = mix(&[head, slot, (position + mix(&[head, slot]) % DRIFT) / DRIFT]);
                    let rank = ranks.draw(mix(&[position, head, slot])).min(own - 1);
                    (((favourite % own + rank) % own) * k + slot) as i32
                })),
                None => {
                    let mut seen = HashSet::new();
                    let draws = (0u64..).map(|i| mix(&[position, head, i]) % visible);
                    list.extend(draws.filter(|b| seen.insert(*b)).take(k as usize).map(|b| b as i32));
                }
            }
        }
        list
    }
}

impl Routing {
    /// The experts of each position: `[position][active]`, no expert twice.
    pub fn experts(self, (begin, end): (u64, u64), experts: u64, active: u64) -> Vec<i32> {
        let ranks = Ranks::new((1.0, 1.0), experts);
        let mut list = Vec::new();
        for position in begin..end {
            let mut seen = HashSet::new();
            let draws = (0u64..).map(|i| {
                let draw = mix(&[position, i]);
                match self {
                    Routing::Balanced => draw % experts,
                    Routing::Skewed => ranks.draw(draw),
                }
            });
            list.extend(draws.filter(|e| seen.insert(*e)).take(active as usize).map(|e| e as i32));
        }
        list
    }
}

/// Distinct blocks that `tokens` neighbours select, in units of k: the mean over KV heads and whole groups of neighbours.
/// `blocks` as [`Selection::blocks`] gives them. `None` where there is no whole group.
pub fn overlap(blocks: &[i32], kv_heads: u64, k: u64, tokens: u64) -> Option<f64> {
    let row = (kv_heads * k) as usize;
    let groups: Vec<&[i32]> = blocks.chunks_exact(row * tokens as usize).collect();
    let distinct = |group: &&[i32], head: u64| {
        let lists = group.chunks_exact(row).map(|row| &row[(head * k) as usize..((head + 1) * k) as usize]);
        lists.flatten().filter(|block| **block >= 0).collect::<HashSet<_>>().len()
    };
    let all: usize = groups.iter().flat_map(|group| (0..kv_heads).map(move |h| distinct(group, h))).sum();
    let lists = groups.len() as u64 * kv_heads;
    (lists > 0).then(|| all as f64 / (lists * k) as f64)
}

/// Ranks with the probabilities of Zipf's law.
struct Ranks {
    /// Up to each rank.
    sums: Vec<f64>,
}

impl Ranks {
    fn new((exponent, offset): (f64, f64), count: u64) -> Ranks {
        let mut sum = 0.0;
        let mut next = |rank: u64| {
            sum += (rank as f64 + offset).powf(-exponent);
            sum
        };
        Ranks { sums: (0..count).map(&mut next).collect() }
    }

    fn draw(&self, random: u64) -> u64 {
        let all = self.sums.last().copied().unwrap_or(0.0);
        let at = (random >> 11) as f64 / (1u64 << 53) as f64 * all;
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len() - 1) as u64
    }
}

/// A number that looks random for each list of numbers (the finalizer of SplitMix64).
fn mix(of: &[u64]) -> u64 {
    of.iter().fold(0x9e37_79b9_7f4a_7c15, |state, x| {
        let mut z = (state ^ x.wrapping_mul(0xff51_afd7_ed55_8ccd)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlaps(selection: Selection, from: u64) -> Vec<f64> {
        let blocks = selection.blocks((from, from + 2048), 8, 16, 64);
        [2, 4, 8, 16, 32, 64].iter().filter_map(|n| overlap(&blocks, 8, 16, *n)).collect()
    }

    #[test]
    fn selections_overlap_as_those_that_were_measured() {
        let measured = [
            (Selection::Pretrained, [1.28, 1.62, 2.08, 2.67, 3.43, 4.45]),
            (Selection::Tiny, [1.40, 1.96, 2.71, 3.66, 4.88, 6.42]),
            (Selection::Uniform, [1.97, 3.82, 7.18, 12.8, 20.4, 27.8]),
        ];
        for (selection, wanted) in measured {
            let made = overlaps(selection, 32768 - 2048);
            for (made, wanted) in made.iter().zip(wanted) {
                assert!((made / wanted - 1.0).abs() < 0.12, "{selection:?}: {made:.2}, measured {wanted}");
            }
        }
        // The same at a longer context.
        for (near, far) in overlaps(Selection::Tiny, 30720).iter().zip(overlaps(Selection::Tiny, 128000)) {
            assert!((near / far - 1.0).abs() < 0.1, "{near:.2} at 32k, {far:.2} at 128k");
        }
    }

    #[test]
    fn what_is_selected_is_visible_and_no_block_is_selected_twice() {
        for selection in [Selection::Pretrained, Selection::Tiny, Selection::Uniform] {
            for from in [0, 1000, 1024, 5000] {
                let blocks = selection.blocks((from, from + 200), 2, 16, 64);
                for (i, list) in blocks.chunks(16).enumerate() {
                    let visible = (from + i as u64 / 2) / 64 + 1;
                    let there: Vec<i32> = list.iter().copied().filter(|b| *b >= 0).collect();
                    assert_eq!(there.len() as u64, visible.min(16), "{selection:?} at {from}");
                    assert!(there.iter().all(|b| (*b as u64) < visible), "{selection:?} at {from}");
                    assert_eq!(
                        there.iter().collect::<HashSet<_>>().len(),
                        there.len(),
                        "{selection:?} at {from}"
                    );
                }
            }
        }
    }

    #[test]
    fn experts_are_spread_as_asked() {
        let counts = |routing: Routing| {
            let chosen = routing.experts((0, 4096), 64, 8);
            assert!(chosen.chunks(8).all(|list| list.iter().collect::<HashSet<_>>().len() == 8));
            let mut counts = vec![0u64; 64];
            chosen.iter().for_each(|expert| counts[*expert as usize] += 1);
            counts
        };
        let (balanced, skewed) = (counts(Routing::Balanced), counts(Routing::Skewed));
        let spread =
            |counts: &[u64]| counts.iter().max().unwrap_or(&0) / counts.iter().min().unwrap_or(&1).max(&1);
        assert!(spread(&balanced) <= 1, "{balanced:?}");
        assert!(spread(&skewed) > 8, "{skewed:?}");
    }
}
