//! Attentions, each row and head on its own, with every probability in hand (HySparse 2602.03560).

use hyc_ir::plan::{AttnShape, GateMode, SelectShape};

use super::pointwise::sigmoid;
use super::view::{CacheView, Views};

/// Indices of the `k` largest scores, best first, ties to the lower index; fewer where there are fewer.
pub fn select_top(scores: &[f64], k: usize) -> Vec<i32> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order.truncate(k);
    order.into_iter().map(|i| i as i32).collect()
}

/// One query and the keys that it may see.
struct Query<'a> {
    q: Vec<f64>,
    sequence: u64,
    head: u64,
    cache: &'a CacheView<'a>,
    sink: Option<f64>,
}

impl Query<'_> {
    /// softmax(q . k / sqrt(d)) over the positions; a sink adds exp(sink) to the denominator.
    fn probabilities(&self, positions: &[u64]) -> Vec<f64> {
        let scale = 1.0 / (self.q.len() as f64).sqrt();
        let logit = |position: &u64| {
            let key = |d| self.cache.key(self.sequence, *position, self.head, d);
            scale * self.q.iter().zip(0..).map(|(q, d)| q * key(d)).sum::<f64>()
        };
        let logits: Vec<f64> = positions.iter().map(logit).collect();
        let max = logits.iter().copied().chain(self.sink).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().copied().chain(self.sink).map(|x| (x - max).exp()).sum();
        logits.iter().map(|x| (x - max).exp() / sum).collect()
    }

    /// The values' mean under the probabilities.
    fn mix(&self, positions: &[u64], probabilities: &[f64], v_dim: u64) -> Vec<f64> {
        let element = |d| {
            let value = |position: &u64| self.cache.value(self.sequence, *position, self.head, d);
            positions.iter().zip(probabilities).map(|(position, p)| p * value(position)).sum()
        };
        (0..v_dim).map(element).collect()
    }

    fn attend(&self, positions: &[u64], v_dim: u64) -> Vec<f64> {
        self.mix(positions, &self.probabilities(positions), v_dim)
    }
}

fn query<'a>(
    v: &Views,
    shape: AttnShape,
    row: u64,
    head: u64,
    cache: &'a CacheView<'a>,
    sink: Option<usize>,
) -> Query<'a> {
    let q = (0..shape.qk_dim).map(|d| v.get(0, row, head * shape.qk_dim + d)).collect();
    let group = shape.heads / shape.kv_heads;
    let sink = sink.map(|i| v.weight(i).get(0, head));
    Query { q, sequence: v.sequence(row), head: head / group, cache, sink }
}

fn store(v: &Views, out: usize, row: u64, head: u64, values: &[f64]) {
    for (value, col) in values.iter().zip(head * values.len() as u64..) {
        v.set(out, row, col, *value);
    }
}

/// FullAttention, and OracleAttention where `select` is given.
pub fn full(v: &Views, shape: AttnShape, sink: bool, select: Option<SelectShape>) {
    let out = 2 + usize::from(sink);
    let cache = v.cache(1);
    for row in 0..v.rows() {
        let positions: Vec<u64> = (0..=v.position(row)).collect();
        let mut scores: Vec<Vec<f64>> = Vec::new();
        for head in 0..shape.heads {
            let query = query(v, shape, row, head, &cache, sink.then_some(2));
            let p = query.probabilities(&positions);
            store(v, out, row, head, &query.mix(&positions, &p, shape.v_dim));
            if let Some(select) = select {
                let maximum = |block: &[f64]| block.iter().copied().fold(0.0, f64::max);
                scores.push(p.chunks(select.block as usize).map(maximum).collect());
            }
        }
        if let Some(select) = select {
            selection(v, out + 1, row, &scores, select);
        }
    }
}

/// The best blocks of each group's maximum (eq. 3).
fn selection(v: &Views, out: usize, row: u64, scores: &[Vec<f64>], select: SelectShape) {
    let group = scores.len() / select.kv_heads as usize;
    for (heads, kv_head) in scores.chunks(group).zip(0..) {
        let maximum = |block: usize| heads.iter().map(|head| head[block]).fold(0.0, f64::max);
        let group_scores: Vec<f64> = (0..heads[0].len()).map(maximum).collect();
        let top = select_top(&group_scores, select.blocks as usize);
        for slot in 0..select.blocks {
            let block = top.get(slot as usize).copied().unwrap_or(-1);
            v.set_int(out, row, kv_head * select.blocks + slot, block);
        }
    }
}

fn window_positions(position: u64, window: u64) -> Vec<u64> {
    ((position + 1).saturating_sub(window)..=position).collect()
}

pub fn window(v: &Views, shape: AttnShape, window: u64, sink: bool) {
    let cache = v.cache(1);
    for row in 0..v.rows() {
        let positions = window_positions(v.position(row), window);
        for head in 0..shape.heads {
            let query = query(v, shape, row, head, &cache, sink.then_some(2));
            store(v, 2 + usize::from(sink), row, head, &query.attend(&positions, shape.v_dim));
        }
    }
}

/// The tokens of the blocks that operand 2 lists for a KV head, none after the row's own position.
fn selected_positions(v: &Views, row: u64, kv_head: u64, select: SelectShape) -> Vec<u64> {
    (0..select.blocks)
        .map(|slot| v.get_int(2, row, kv_head * select.blocks + slot))
        .filter(|block| *block >= 0)
        .flat_map(|block| block as u64 * select.block..(block as u64 + 1) * select.block)
        .filter(|position| *position <= v.position(row))
        .collect()
}

pub fn sparse(v: &Views, shape: AttnShape, select: SelectShape, sink: bool) {
    let cache = v.cache(1);
    let group = shape.heads / shape.kv_heads;
    for row in 0..v.rows() {
        for head in 0..shape.heads {
            let positions = selected_positions(v, row, head / group, select);
            let query = query(v, shape, row, head, &cache, sink.then_some(3));
            store(v, 3 + usize::from(sink), row, head, &query.attend(&positions, shape.v_dim));
        }
    }
}

pub fn hybrid(v: &Views, shape: AttnShape, select: SelectShape, window: u64, gate: GateMode) {
    let (shared, own) = (v.cache(1), v.cache(4));
    let out = if gate == GateMode::None { 6 } else { 8 };
    let group = shape.heads / shape.kv_heads;
    for row in 0..v.rows() {
        let near = window_positions(v.position(row), window);
        for head in 0..shape.heads {
            let far = selected_positions(v, row, head / group, select);
            let a = query(v, shape, row, head, &shared, Some(3)).attend(&far, shape.v_dim);
            let b = query(v, shape, row, head, &own, Some(5)).attend(&near, shape.v_dim);
            let weight = |operand: usize, d: u64| match gate {
                GateMode::None => 1.0,
                GateMode::Head => sigmoid(v.get(operand, row, head)),
                GateMode::Elementwise => sigmoid(v.get(operand, row, head * shape.v_dim + d)),
            };
            let mix = |d: u64| weight(6, d) * a[d as usize] + weight(7, d) * b[d as usize];
            store(v, out, row, head, &(0..shape.v_dim).map(mix).collect::<Vec<f64>>());
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
    }
}
