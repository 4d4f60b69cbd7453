//! Attentions, each row and head on its own, with every probability in hand (HySparse 2602.03560).

use hyc_plan::{AttnShape, GateMode, ListShape, SelectShape};

use super::lists;
use super::pointwise::sigmoid;
use super::view::{CacheView, Views, dot};

/// Indices of the `k` largest scores, best first, ties to the lower index; fewer where there are fewer.
pub fn select_top(scores: &[f64], k: usize) -> Vec<i32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // Both zeroes are one.
    let score = |i: usize| scores[i] + 0.0;
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
    order.truncate(k);
    order.into_iter().map(|i| i as i32).collect()
}

/// The queries of one row that read one KV head.
struct Group<'a> {
    queries: Vec<Vec<f64>>,
    sinks: Option<Vec<f64>>,
    sequence: u64,
    kv_head: u64,
    cache: &'a CacheView<'a>,
}

impl Group<'_> {
    /// q . k / sqrt(d) at each position, for each head.
    fn logits(&self, positions: &[u64]) -> Vec<Vec<f64>> {
        let mut logits = vec![Vec::with_capacity(positions.len()); self.queries.len()];
        for position in positions {
            let key = self.cache.key(self.sequence, *position, self.kv_head);
            let scale = 1.0 / (key.len() as f64).sqrt();
            for (list, q) in logits.iter_mut().zip(&self.queries) {
                list.push(scale * dot(q, &key));
            }
        }
        logits
    }

    fn sink(&self, head: usize) -> Option<f64> {
        self.sinks.as_ref().map(|sinks| sinks[head])
    }

    /// The softmax of each head's logits; a sink adds exp(sink) to the denominator.
    fn probabilities(&self, logits: &[Vec<f64>]) -> Vec<Vec<f64>> {
        logits.iter().enumerate().map(|(h, logits)| softmax(logits, self.sink(h))).collect()
    }

    /// The logarithm of each block's score, the largest probability over its tokens and the heads (eq. 3): at once,
    /// since a probability may be too small for its logarithm. One head leaves out what all its scores share.
    fn block_scores(&self, logits: &[Vec<f64>], block: usize) -> Vec<f64> {
        let mut scores = vec![f64::NEG_INFINITY; logits[0].len().div_ceil(block)];
        for (h, logits) in logits.iter().enumerate() {
            let shared = if self.queries.len() == 1 { 0.0 } else { log_sum_exp(logits, self.sink(h)) };
            for (score, block) in scores.iter_mut().zip(logits.chunks(block)) {
                *score = block.iter().fold(*score, |most, logit| most.max(logit - shared));
            }
        }
        scores
    }

    /// The values' mean under the probabilities, for each head.
    fn mix(&self, positions: &[u64], probabilities: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut mixed = vec![vec![0.0; self.cache.spec.v_dim as usize]; self.queries.len()];
        for (i, position) in positions.iter().enumerate() {
            let value = self.cache.value(self.sequence, *position, self.kv_head);
            for (mixed, p) in mixed.iter_mut().zip(probabilities) {
                mixed.iter_mut().zip(&value).for_each(|(sum, v)| *sum += p[i] * v);
            }
        }
        mixed
    }

    fn attend(&self, positions: &[u64]) -> Vec<Vec<f64>> {
        self.mix(positions, &self.probabilities(&self.logits(positions)))
    }
}

fn softmax(logits: &[f64], sink: Option<f64>) -> Vec<f64> {
    let max = logits.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().copied().chain(sink).map(|x| (x - max).exp()).sum();
    logits.iter().map(|x| (x - max).exp() / sum).collect()
}

fn log_sum_exp(logits: &[f64], sink: Option<f64>) -> f64 {
    let max = logits.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    max + logits.iter().copied().chain(sink).map(|x| (x - max).exp()).sum::<f64>().ln()
}

fn group<'a>(
    v: &Views,
    shape: AttnShape,
    row: u64,
    kv_head: u64,
    cache: &'a CacheView<'a>,
    sink: Option<&str>,
) -> Group<'a> {
    let size = shape.heads / shape.kv_heads;
    let heads = kv_head * size..(kv_head + 1) * size;
    let q = v.tensor("q");
    let query = |head: u64| (0..shape.qk_dim).map(|d| q.get(row, head * shape.qk_dim + d)).collect();
    let sinks = sink.map(|name| heads.clone().map(|head| v.weight(name).get(0, head)).collect());
    Group { queries: heads.map(query).collect(), sinks, sequence: v.sequence(row), kv_head, cache }
}

/// Stores the heads of a group.
fn store(v: &Views, row: u64, kv_head: u64, heads: &[Vec<f64>]) {
    let out = v.tensor("out");
    for (values, head) in heads.iter().zip(kv_head * heads.len() as u64..) {
        for (value, col) in values.iter().zip(head * values.len() as u64..) {
            out.set(row, col, *value);
        }
    }
}

/// FullAttention, and OracleAttention where `select` is given.
pub fn full(v: &Views, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    let cache = v.cache("cache");
    for row in v.rows() {
        let positions: Vec<u64> = (0..=v.position(row)).collect();
        for kv_head in 0..shape.kv_heads {
            let group = group(v, shape, row, kv_head, &cache, sink.then_some("sink"));
            let logits = group.logits(&positions);
            store(v, row, kv_head, &group.mix(&positions, &group.probabilities(&logits)));
            let Some(select) = select else { continue };
            let list = v.tensor("sel");
            let top = select_top(&group.block_scores(&logits, select.block as usize), select.blocks as usize);
            for slot in 0..select.blocks {
                let block = top.get(slot as usize).copied().unwrap_or(-1);
                list.set_int(row, kv_head * select.blocks + slot, block);
            }
        }
    }
}

/// What an oracle selects by, for each KV head of a row: logarithms of its blocks' scores.
pub fn block_scores(v: &Views, shape: AttnShape, sink: bool, select: SelectShape, row: u64) -> Vec<Vec<f64>> {
    let cache = v.cache("cache");
    let positions: Vec<u64> = (0..=v.position(row)).collect();
    let scores = |kv_head| {
        let group = group(v, shape, row, kv_head, &cache, sink.then_some("sink"));
        group.block_scores(&group.logits(&positions), select.block as usize)
    };
    (0..shape.kv_heads).map(scores).collect()
}

fn window_positions(position: u64, window: u64) -> Vec<u64> {
    ((position + 1).saturating_sub(window)..=position).collect()
}

pub fn window(v: &Views, shape: AttnShape, window: u64, sink: bool) {
    let cache = v.cache("cache");
    for row in v.rows() {
        let positions = window_positions(v.position(row), window);
        for kv_head in 0..shape.kv_heads {
            let group = group(v, shape, row, kv_head, &cache, sink.then_some("sink"));
            store(v, row, kv_head, &group.attend(&positions));
        }
    }
}

/// A selection, and its page lists where they are there as well.
pub type Selected = (SelectShape, Option<ListShape>);

/// The tokens of the blocks that the selection lists for a KV head, none after the row's own position. Where a step has page
/// lists they are what is read.
fn selected_positions(v: &Views, row: u64, kv_head: u64, (select, lists): Selected) -> Vec<u64> {
    let listed = lists.and_then(|lists| lists::blocks(v, select, lists, row, kv_head));
    let blocks = listed.unwrap_or_else(|| {
        let list = v.tensor("sel");
        let block = |slot| list.get_int(row, kv_head * select.blocks + slot);
        (0..select.blocks).map(block).filter(|block| *block >= 0).map(|block| block as u64).collect()
    });
    let tokens = |block| block * select.block..(block + 1) * select.block;
    blocks.into_iter().flat_map(tokens).filter(|position| *position <= v.position(row)).collect()
}

pub fn sparse(v: &Views, shape: AttnShape, selected: Selected, sink: bool) {
    let cache = v.cache("cache");
    for row in v.rows() {
        for kv_head in 0..shape.kv_heads {
            let positions = selected_positions(v, row, kv_head, selected);
            let group = group(v, shape, row, kv_head, &cache, sink.then_some("sink"));
            store(v, row, kv_head, &group.attend(&positions));
        }
    }
}

pub fn hybrid(v: &Views, shape: AttnShape, selected: Selected, window: u64, gate: GateMode) {
    let (shared, own) = (v.cache("shared"), v.cache("own"));
    let gates = (gate != GateMode::None).then(|| [v.tensor("gate_select"), v.tensor("gate_window")]);
    for row in v.rows() {
        let near = window_positions(v.position(row), window);
        for kv_head in 0..shape.kv_heads {
            let far = selected_positions(v, row, kv_head, selected);
            let mut a = group(v, shape, row, kv_head, &shared, Some("sink_select")).attend(&far);
            let b = group(v, shape, row, kv_head, &own, Some("sink_window")).attend(&near);
            for ((a, b), head) in a.iter_mut().zip(&b).zip(kv_head * (shape.heads / shape.kv_heads)..) {
                let weights = |d: u64| {
                    let column = match gate {
                        GateMode::None | GateMode::Head => head,
                        GateMode::Elementwise => head * shape.v_dim + d,
                    };
                    gates.map_or([1.0; 2], |gates| gates.map(|gate| sigmoid(gate.get(row, column))))
                };
                for ((a, b), d) in a.iter_mut().zip(b).zip(0..) {
                    let [select, window] = weights(d);
                    *a = select * *a + window * b;
                }
            }
            store(v, row, kv_head, &a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::select_top;

    #[test]
    fn ties_go_to_the_lower_index_and_few_scores_give_few() {
        assert_eq!(select_top(&[0.1, 0.5, 0.5, 0.2], 2), [1, 2]);
        assert_eq!(select_top(&[0.5, 0.1, 0.5, 0.5], 2), [0, 2]);
        assert_eq!(select_top(&[0.3], 4), [0]);
        assert_eq!(select_top(&[-0.0, 0.0, -1.0], 2), [0, 1]);
    }
}
