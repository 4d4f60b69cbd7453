//! What the oracles of a trained model would select and its routers choose, made up: random weights do neither as a trained
//! model does, and the time of sparse layers and of experts depends on it.

use std::collections::HashSet;

/// How selections of neighbouring tokens overlap. Distinct blocks of N neighbours, in units of k:
///
/// ```text
/// N                        2      4      8      16     32     64
/// pretrained, blocks of 16 1.23   1.47   1.79   2.18   2.69   3.36    measured: 1.22 1.49 1.80 2.19 2.69 3.31 (SmolLM2-135M)
/// pretrained, blocks of 32 1.21   1.44   1.73   2.09   2.52   3.10    measured: 1.22 1.47 1.76 2.11 2.54 3.10
/// pretrained, blocks of 64 1.19   1.39   1.64   1.96   2.35   2.81    measured: 1.20 1.43 1.67 1.95 2.30 2.70
/// tiny                     1.4    1.9    2.5    3.5    4.8    6.5     measured: 1.40 1.96 2.71 3.66 4.88 6.42 (examples/tiny-hysparse, 64)
/// uniform                  2.0    3.8    7.2    12.8   20.4   27.8    of 512 blocks
/// ```
/// The same at every context: nothing longer than 8,192 tokens was measured. Blocks of other sizes overlap as those of the
/// nearest that was.
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

/// How the slots of a token's list draw: every other one, or each of them, takes the ranks of Zipf's law around its favourite.
/// Distinct values of N draws grow as N^(1/exponent) (Heaps's law), which is how the measured overlaps grow.
struct Draws {
    /// Whether slots of odd number take their favourite alone. One law for all slots fits a pretrained model's overlaps worse:
    /// few neighbours differ by too little where many differ as measured.
    every_other: bool,
    exponent: f64,
    offset: f64,
}

/// Tokens of a block, Zipf's exponent and offset: fitted to what was measured of SmolLM2-135M at 8,192 tokens, 512 of them
/// selected.
const PRETRAINED: [(u64, f64, f64); 3] = [(16, 4.4, 2.6), (32, 5.0, 2.9), (64, 5.2, 2.7)];

impl Selection {
    fn draws(self, block: u64) -> Option<Draws> {
        match self {
            Selection::Pretrained => {
                let (_, exponent, offset) = *PRETRAINED.iter().min_by_key(|(of, ..)| of.abs_diff(block))?;
                Some(Draws { every_other: true, exponent, offset })
            }
            Selection::Tiny => Some(Draws { every_other: false, exponent: 2.4, offset: 0.9 }),
            Selection::Uniform => None,
        }
    }

    /// The blocks of each KV head for positions `begin..end`: `[position][kv_heads][k]`, -1 where fewer are visible.
    pub fn blocks(self, (begin, end): (u64, u64), kv_heads: u64, k: u64, block: u64) -> Vec<i32> {
        let draws = self.draws(block);
        let ranks = draws.map(|draws| (draws.every_other, Ranks::new((draws.exponent, draws.offset), 4096)));
        let mut list = Vec::new();
        for (position, head) in (begin..end).flat_map(|p| (0..kv_heads).map(move |h| (p, h))) {
            let visible = position / block + 1;
            if visible <= k {
                list.extend((0..k).map(|i| if i < visible { i as i32 } else { -1 }));
                continue;
            }
            match &ranks {
                Some((every_other, ranks)) => list.extend((0..k).map(|slot| {
                    // A slot has every k-th block: no two slots meet.
                    let own = (visible - slot).div_ceil(k);
                    let favourite = mix(&[head, slot, (position + mix(&[head, slot]) % DRIFT) / DRIFT]);
                    let rank = match every_other & (slot % 2 == 1) {
                        true => 0,
                        false => ranks.draw(mix(&[position, head, slot])).min(own - 1),
                    };
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

    const NEIGHBOURS: [u64; 6] = [2, 4, 8, 16, 32, 64];

    /// Of 2,048 tokens that select 1,024 each.
    fn overlaps(selection: Selection, from: u64) -> Vec<f64> {
        let blocks = selection.blocks((from, from + 2048), 8, 16, 64);
        NEIGHBOURS.iter().filter_map(|n| overlap(&blocks, 8, 16, *n)).collect()
    }

    fn near(made: &[f64], wanted: &[f64], within: f64, of: &str) {
        assert_eq!(made.len(), wanted.len(), "{of}");
        for (n, (made, wanted)) in NEIGHBOURS.iter().zip(made.iter().zip(wanted)) {
            assert!((made / wanted - 1.0).abs() < within, "{of}: {made:.2} of {n}, measured {wanted}");
        }
    }

    #[test]
    fn selections_overlap_as_those_that_were_measured() {
        let tiny = overlaps(Selection::Tiny, 32768 - 2048);
        near(&tiny, &[1.40, 1.96, 2.71, 3.66, 4.88, 6.42], 0.12, "tiny");
        let uniform = overlaps(Selection::Uniform, 32768 - 2048);
        near(&uniform, &[1.97, 3.82, 7.18, 12.8, 20.4, 27.8], 0.12, "uniform");
        // The same at a longer context.
        near(&overlaps(Selection::Tiny, 128000), &tiny, 0.1, "tiny at 128k");
    }

    /// Against the rows of BENCHMARKS.md, "How much selections overlap": of 8,192 tokens 512 selected.
    #[test]
    fn pretrained_selections_overlap_as_the_table_of_figures_says() {
        let figures = include_str!("../../BENCHMARKS.md");
        for (block, ..) in PRETRAINED {
            let row = format!("| SmolLM2 | 8,192 | {block} | 512 | ");
            let row = figures.lines().find_map(|line| line.strip_prefix(&row)).unwrap();
            // "1.22 (1.9) |": what was measured, and uniform choice.
            let cells = row.split('|').filter_map(|cell| cell.split_whitespace().next());
            let measured: Vec<f64> = cells.map(|cell| cell.parse().unwrap()).collect();
            let k = 512 / block;
            for from in [8192 - 2048, 128_000] {
                let blocks = Selection::Pretrained.blocks((from, from + 2048), 8, k, block);
                let made: Vec<f64> = NEIGHBOURS.iter().filter_map(|n| overlap(&blocks, 8, k, *n)).collect();
                near(&made, &measured, 0.06, &format!("blocks of {block} from {from}"));
            }
        }
        for (block, nearest) in [(8, 16), (20, 16), (40, 32), (128, 64)] {
            let of = |block| Selection::Pretrained.draws(block).unwrap().exponent;
            assert_eq!(of(block), of(nearest), "{block}");
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
