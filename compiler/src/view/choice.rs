//! What the oracle layers chose for a text: a map of tokens by blocks for each KV head, how alike neighbours choose, and
//! how much of its readers' attention the choice holds.

use std::collections::BTreeSet;

use super::facts::{Facts, thousands};
use super::html::Html;
use super::memory::bar;
use crate::chosen::{Chosen, Oracle, Reader};

/// Maps that are drawn: of more heads the figures alone are told.
const MOST_MAPS: usize = 32;
/// Neighbouring tokens whose blocks are counted together.
const NEIGHBOURS: [usize; 3] = [8, 32, 64];

/// The section.
pub fn section(h: &mut Html, facts: &Facts<'_>, chosen: &Chosen) {
    h.el("section", &[("id", &"chosen"), ("aria-labelledby", &"h-chosen")], |h| {
        h.leaf("h2", &[("id", &"h-chosen")], "What was chosen");
        let more = match chosen.left_out {
            0 => String::new(),
            n => format!(" of a text whose other {} were left out", thousands(n as u64)),
        };
        h.leaf(
            "p",
            &[("class", &"about")],
            format!("{} tokens{more}, run by the plan interpreter.", thousands(chosen.tokens as u64)),
        );
        if chosen.oracles.is_empty() {
            h.leaf("p", &[], "No layer of this model selects.");
            return;
        }
        recall(h, facts, chosen);
        likeness(h, chosen);
        maps(h, chosen);
    });
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// The first token for which not every block can be kept.
fn first_choice(chosen: &Chosen, reader: &Reader) -> usize {
    let oracle = chosen.oracles.iter().find(|oracle| oracle.layer == reader.oracle);
    oracle.map_or(0, Oracle::first_that_chooses)
}

fn recall(h: &mut Html, facts: &Facts<'_>, chosen: &Chosen) {
    h.leaf("h3", &[], "Recall");
    h.leaf(
        "p",
        &[("class", &"about")],
        "The share of the softmax mass of a layer's own queries, over all visible keys of the cache that \
         it reads, which falls into the selected blocks: the mean over heads and over those tokens that \
         cannot keep every block.",
    );
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                for head in ["layer", "selection of", "recall", "worst head", "worst token", "each head"] {
                    h.leaf("th", &[], head);
                }
            });
            for reader in &chosen.readers {
                row(h, facts, reader, first_choice(chosen, reader));
            }
        });
    });
}

fn row(h: &mut Html, facts: &Facts<'_>, reader: &Reader, from: usize) {
    let tail = |head: &Vec<f32>| -> Vec<f64> { head.iter().skip(from).map(|x| f64::from(*x)).collect() };
    let tails: Vec<Vec<f64>> = reader.recall.iter().map(tail).collect();
    h.el("tr", &[("class", &facts.role(reader.layer).name())], |h| {
        h.el("th", &[], |h| {
            h.leaf("a", &[("href", &format!("#L{}", reader.layer))], format!("L{}", reader.layer));
        });
        h.leaf("td", &[], format!("L{}", reader.oracle));
        if tails.iter().all(Vec::is_empty) {
            h.leaf("td", &[], "every block is kept");
            return;
        }
        let heads: Vec<f64> = tails.iter().map(|tail| mean(tail.iter().copied())).collect();
        let all = mean(heads.iter().copied());
        let least = |values: &mut dyn Iterator<Item = f64>| values.fold(1.0, f64::min);
        h.el("td", &[("class", &"share")], |h| bar(h, all, &format!("{:.1} %", 100.0 * all)));
        h.leaf("td", &[("class", &"n")], percent(least(&mut heads.iter().copied())));
        h.leaf("td", &[("class", &"n")], percent(least(&mut tails.iter().flatten().copied())));
        let each: Vec<String> = heads.iter().take(64).map(|x| format!("{:.0}", 100.0 * x)).collect();
        h.leaf("td", &[("class", &"few")], each.join(" "));
    });
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// How alike neighbours choose, and how evenly blocks are used.
fn likeness(h: &mut Html, chosen: &Chosen) {
    h.leaf("h3", &[], "Neighbours");
    h.leaf(
        "p",
        &[("class", &"about")],
        "Blocks of which the token before kept the same; distinct blocks of neighbouring tokens, over \
         those of one; the entropy of how often each block was kept, beside that of equal use.",
    );
    h.el("div", &[("class", &"scroll")], |h| {
        h.el("table", &[("class", &"facts")], |h| {
            h.el("tr", &[], |h| {
                ["layer", "KV head", "as before"].iter().for_each(|head| h.leaf("th", &[], head));
                NEIGHBOURS.iter().for_each(|n| h.leaf("th", &[("class", &"n")], format!("U({n})")));
                h.leaf("th", &[], "entropy");
            });
            for oracle in &chosen.oracles {
                for (head, tokens) in oracle.heads.iter().enumerate() {
                    h.el("tr", &[("class", &"oracle")], |h| {
                        h.leaf("th", &[], format!("L{}", oracle.layer));
                        h.leaf("td", &[("class", &"n")], head);
                        h.leaf("td", &[("class", &"n")], percent(as_before(tokens)));
                        for n in NEIGHBOURS {
                            h.leaf("td", &[("class", &"n")], distinct(oracle, tokens, n));
                        }
                        let (bits, even) = entropy(tokens);
                        h.leaf("td", &[("class", &"n")], format!("{bits:.2} of {even:.2} bits"));
                    });
                }
            }
        });
    });
}

fn as_before(tokens: &[Vec<u32>]) -> f64 {
    let same = |pair: &[Vec<u32>]| {
        let kept = pair[1].iter().filter(|block| pair[0].contains(block)).count();
        kept as f64 / pair[1].len().max(1) as f64
    };
    mean(tokens.windows(2).map(same))
}

/// Distinct blocks of `n` neighbours over those that one keeps, where there are so many tokens that must choose.
fn distinct(oracle: &Oracle, tokens: &[Vec<u32>], n: usize) -> String {
    let from = (oracle.select.blocks.saturating_mul(oracle.select.block) as usize).min(tokens.len());
    let groups = tokens[from..].chunks_exact(n);
    if groups.len() == 0 {
        return "–".to_string();
    }
    let blocks = |group: &[Vec<u32>]| group.iter().flatten().collect::<BTreeSet<_>>().len() as f64;
    format!("{:.2}", mean(groups.map(blocks)) / oracle.select.blocks.max(1) as f64)
}

/// Bits of the blocks' use, and of equal use of as many blocks.
fn entropy(tokens: &[Vec<u32>]) -> (f64, f64) {
    let blocks = tokens.iter().flatten().max().map_or(0, |block| *block as usize + 1);
    let mut uses = vec![0u64; blocks];
    tokens.iter().flatten().for_each(|block| uses[*block as usize] += 1);
    let all: u64 = uses.iter().sum();
    let part = |uses: &u64| {
        let p = *uses as f64 / all.max(1) as f64;
        if p > 0.0 { -p * p.log2() } else { 0.0 }
    };
    (uses.iter().map(part).sum(), (blocks.max(1) as f64).log2())
}

fn maps(h: &mut Html, chosen: &Chosen) {
    h.leaf("h3", &[], "Maps");
    h.leaf(
        "p",
        &[("class", &"about")],
        "Left to right the tokens, downwards the blocks of the context; the stronger colour is the block \
         that scored best. A block that begins behind a token cannot be kept.",
    );
    let heads =
        chosen.oracles.iter().flat_map(|oracle| oracle.heads.iter().enumerate().map(move |at| (oracle, at)));
    for (oracle, (head, tokens)) in heads.take(MOST_MAPS) {
        let label = format!("layer {}, KV head {head}: tokens by blocks", oracle.layer);
        let blocks = chosen.tokens.div_ceil(oracle.select.block.max(1) as usize).max(1);
        let view = format!("0 0 {} {blocks}", chosen.tokens.max(1));
        h.el("figure", &[], |h| {
            h.leaf("figcaption", &[], &label);
            h.el(
                "svg",
                &[
                    ("class", &"map"),
                    ("viewBox", &view),
                    ("preserveAspectRatio", &"none"),
                    ("height", &(blocks * 6).clamp(48, 240)),
                    ("role", &"img"),
                    ("aria-label", &label),
                ],
                |h| {
                    let all = runs(tokens, blocks, |list, block| list.contains(&block));
                    let best = runs(tokens, blocks, |list, block| list.first() == Some(&block));
                    h.el("path", &[("d", &all)], |_| {});
                    h.el("path", &[("class", &"best"), ("d", &best)], |_| {});
                },
            );
        });
    }
}

/// For each block the tokens in a row that `has` is true of, as rectangles.
fn runs(tokens: &[Vec<u32>], blocks: usize, has: impl Fn(&[u32], u32) -> bool) -> String {
    let mut out = String::new();
    for block in 0..blocks as u32 {
        let mut begin = None;
        for at in 0..=tokens.len() {
            let inside = tokens.get(at).is_some_and(|list| has(list, block));
            match (inside, begin) {
                (true, None) => begin = Some(at),
                (false, Some(from)) => {
                    out.push_str(&format!("M{from} {block}h{}v1h-{}z", at - from, at - from));
                    begin = None;
                }
                _ => {}
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_choice() {
        let tokens = [vec![0], vec![1, 0], vec![1, 2], vec![1, 2]];
        assert_eq!(
            runs(&tokens, 3, |list, block| list.contains(&block)),
            "M0 0h2v1h-2zM1 1h3v1h-3zM2 2h2v1h-2z"
        );
        assert_eq!(as_before(&tokens), (0.5 + 0.5 + 1.0) / 3.0);
        let (bits, even) = entropy(&[vec![0, 1], vec![2, 3]]);
        assert_eq!((bits, even), (2.0, 2.0));
        assert_eq!(entropy(&[]), (0.0, 0.0));
    }
}
