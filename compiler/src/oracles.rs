//! Which layers of a model with full attention select best for those behind them: `hyc import --pattern auto`.
//!
//! A text is run with full attention. For a token, layer l and an oracle o before it, the error E(o, l) is
//! |a' - a|^2 / |a|^2, where a are the results of all heads of l's attention over all visible keys, and a' those over the
//! blocks which o selects for the token. Of all sets of N layers that have the first and the last one, that is chosen whose
//! other layers are off least: the sum of E(o, l), where o is the nearest layer of the set before l. The share of the softmax
//! mass that lies in those blocks (HySparse, 2602.03560, eq. 3) is measured beside it, and chooses worse: mass that lies thin
//! on many keys is lost with less harm than what it is (BENCHMARKS.md).
//!
//! What sparse layers do to the hidden state is not in it: each layer is looked at as if all before it were full. Sinks
//! have no key, and are left out.

use std::sync::Arc;

use hyc_plan::{AttnShape, Operand, Step, StepOp};
use hyc_runtime::{Engine, Model, Session, SessionOptions, Values};

use crate::error::{Error, ErrorKind, Result};

/// Most tokens whose queries are looked at: evenly those that see more blocks than are selected.
const QUERIES: usize = 256;

/// How a layer fares with what another one selects, as means over tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// The share of its softmax mass that is selected, a mean over query heads too.
    pub recall: f64,
    /// The square of what its results are off by, in units of their own.
    pub error: f64,
}

/// Of layer l with what layer o selects, by `[o][l - o]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Readings(Vec<Vec<Reading>>);

/// What would be selected, in tokens.
#[derive(Debug, Clone, Copy)]
pub struct Selected {
    /// Tokens of all blocks of a query.
    pub top_k: usize,
    /// Tokens of a block.
    pub block: usize,
}

/// Runs a text of a model whose layers all have full attention. `check` is told of tokens that are through, and may end it.
/// Errors: a layer with other attention; a text of which no token sees more blocks than are selected; those of a session.
pub fn readings(
    model: &Arc<Model>,
    tokens: &[u32],
    selected: Selected,
    check: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Readings> {
    let layers = model.plan().model.layers as usize;
    // The first token whose block is one more than are selected.
    let first = selected.top_k / selected.block * selected.block;
    if tokens.len() <= first {
        let message = format!("the text has {} tokens, and all of them would be selected", tokens.len());
        return Err(Error::input(message).help(format!("give more than {first} tokens of text")));
    }
    let stride = (tokens.len() - first).div_ceil(QUERIES);
    let mut seen = Seen {
        selected,
        first,
        stride,
        layers: vec![Layer::default(); layers],
        sums: Readings::zeros(layers),
    };
    let options = SessionOptions {
        max_sequences: Some(1),
        max_tokens: Some(tokens.len() as u64),
        ..SessionOptions::default()
    };
    let mut session = Session::new(model.clone(), &options)?;
    let id = session.add_sequence()?;
    session.feed(id, tokens)?;
    while session.pending(id)? > 0 {
        let begin = tokens.len() - session.pending(id)? as usize;
        let mut failed = None;
        session.step_observed(&mut |step, engine| {
            if failed.is_none() {
                failed = seen.look(step, engine, begin).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        check((tokens.len() - begin) as u64 - session.pending(id)?)?;
    }
    if let Some(layer) = seen.layers.iter().position(|layer| layer.tokens == 0) {
        return Err(Error::new(ErrorKind::Unsupported, format!("layer {layer} has no full attention"))
            .help("name the layers that select, as `--pattern 0,4,8`"));
    }
    let looked_at = seen.layers[0].tokens as f64;
    for sum in seen.sums.0.iter_mut().flatten() {
        *sum = Reading { recall: sum.recall / looked_at, error: sum.error / looked_at };
    }
    Ok(seen.sums)
}

/// What was seen of the text.
struct Seen {
    selected: Selected,
    first: usize,
    stride: usize,
    layers: Vec<Layer>,
    sums: Readings,
}

/// What was seen of a layer.
#[derive(Default, Clone)]
struct Layer {
    /// Of all positions, `[position][kv_heads][qk_dim]`.
    keys: Vec<f32>,
    /// The same, `[position][kv_heads][v_dim]`.
    values: Vec<f32>,
    /// Tokens that were looked at.
    tokens: usize,
    /// Of the tokens of the step in hand that are looked at, by KV head: blocks.
    lists: Vec<Vec<Vec<usize>>>,
}

impl Seen {
    /// Takes an attention's queries, keys and values of the rows from position `begin` on.
    fn look(&mut self, step: &Step, engine: &Engine, begin: usize) -> Result<()> {
        let (Some(layer), StepOp::FullAttention(op)) = (step.layer, step.op) else { return Ok(()) };
        let (layer, shape, roles) = (layer as usize, op.shape, step.op.roles());
        let named = |name: &str| step.operands.get(roles.iter().position(|role| role.name == name)?).copied();
        let (Some(Operand::Buffer(q)), Some(Operand::Cache(cache))) = (named("q"), named("cache")) else {
            return Err(Error::new(ErrorKind::Internal, format!("{} has no queries", step.name)));
        };
        let Values::F32(queries) = engine.buffer(q)? else {
            return Err(Error::new(ErrorKind::Internal, format!("{} has no queries of f32", step.name)));
        };
        let width = (shape.heads * shape.qk_dim) as usize;
        for position in begin..begin + queries.len() / width {
            let (keys, values) = engine.cache_kv(cache, 0, position as u64)?;
            self.layers[layer].keys.extend(keys);
            self.layers[layer].values.extend(values);
        }
        self.layers[layer].lists.clear();
        for (row, queries) in queries.chunks(width).enumerate() {
            let position = begin + row;
            if position >= self.first && (position - self.first).is_multiple_of(self.stride) {
                self.token(layer, shape, queries, position);
            }
        }
        Ok(())
    }

    /// The blocks that a layer selects for a token, and how it fares with those of each layer before it.
    fn token(&mut self, layer: usize, shape: AttnShape, queries: &[f32], position: usize) {
        let (kv_heads, block) = (shape.kv_heads as usize, self.selected.block);
        let group = shape.heads as usize / kv_heads;
        let seen = &mut self.layers[layer];
        let heads: Vec<Blocks> = queries
            .chunks(shape.qk_dim as usize)
            .enumerate()
            .map(|(head, query)| {
                let of = |all, dim| of_head(all, kv_heads, head / group, dim).take(position + 1);
                Blocks::of(query, of(&seen.keys, query.len()), of(&seen.values, shape.v_dim as usize), block)
            })
            .collect();
        let best = heads.chunks(group).map(|group| best(group, self.selected.top_k / block));
        let lists: Vec<Vec<usize>> = best.collect();
        let at = seen.lists.len();
        seen.lists.push(lists);
        seen.tokens += 1;
        let whole: Vec<Vec<f32>> = heads.iter().map(|head| head.result(0..head.mass.len()).1).collect();
        let square: f64 = whole.iter().flatten().map(|x| f64::from(x * x)).sum();
        for oracle in 0..=layer {
            let Some(lists) = self.layers[oracle].lists.get(at) else { continue };
            let sum = &mut self.sums.0[oracle][layer - oracle];
            let mut off = 0.0;
            for (head, blocks) in heads.iter().enumerate() {
                let list = lists.get(head / group).into_iter().flatten();
                let (mass, result) = blocks.result(list.copied());
                sum.recall += f64::from(mass) / heads.len() as f64;
                let pairs = result.iter().zip(&whole[head]);
                off += pairs.map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
            }
            sum.error += off / square.max(f64::MIN_POSITIVE);
        }
    }
}

/// The keys or values of a KV head, of `[position][kv_heads][dim]`.
fn of_head(all: &[f32], kv_heads: usize, head: usize, dim: usize) -> impl Iterator<Item = &[f32]> {
    all.chunks(kv_heads * dim).map(move |heads| &heads[head * dim..(head + 1) * dim])
}

/// A query's softmax by block.
struct Blocks {
    /// The sum.
    mass: Vec<f32>,
    /// The greatest.
    most: Vec<f32>,
    /// The sum of values, each as often as its key's share says.
    values: Vec<Vec<f32>>,
}

impl Blocks {
    fn of<'a>(
        query: &[f32],
        keys: impl Iterator<Item = &'a [f32]>,
        values: impl Iterator<Item = &'a [f32]>,
        block: usize,
    ) -> Blocks {
        let scale = 1.0 / (query.len() as f32).sqrt();
        let mut p: Vec<f32> =
            keys.map(|key| scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>()).collect();
        let most = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        p.iter_mut().for_each(|p| *p = (*p - most).exp());
        let all: f32 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= all);
        let mass = p.chunks(block).map(|p| p.iter().sum()).collect();
        let most = p.chunks(block).map(|p| p.iter().copied().fold(0.0, f32::max)).collect();
        let mut sums: Vec<Vec<f32>> = Vec::new();
        for (position, (p, value)) in p.iter().zip(values).enumerate() {
            if position % block == 0 {
                sums.push(vec![0.0; value.len()]);
            }
            sums[position / block].iter_mut().zip(value).for_each(|(sum, x)| *sum += p * x);
        }
        Blocks { mass, most, values: sums }
    }

    /// What attention over blocks of a list alone gives, and their share of the softmax mass.
    fn result(&self, list: impl Iterator<Item = usize>) -> (f32, Vec<f32>) {
        let (mut mass, mut sum) = (0.0, vec![0.0; self.values[0].len()]);
        for block in list {
            mass += self.mass[block];
            sum.iter_mut().zip(&self.values[block]).for_each(|(sum, x)| *sum += x);
        }
        sum.iter_mut().for_each(|sum| *sum /= mass.max(f32::MIN_POSITIVE));
        (mass, sum)
    }
}

/// The best blocks of a group of heads: of largest probability of any token and head, ties to the lower one.
fn best(group: &[Blocks], count: usize) -> Vec<usize> {
    let score = |block: usize| group.iter().map(|head| head.most[block]).fold(0.0, f32::max);
    let mut blocks: Vec<(f32, usize)> = (0..group[0].most.len()).map(|block| (score(block), block)).collect();
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    blocks.into_iter().take(count).map(|(_, block)| block).collect()
}

impl Readings {
    fn zeros(layers: usize) -> Readings {
        Readings((0..layers).map(|oracle| vec![Reading::default(); layers - oracle]).collect())
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.0.len()
    }

    /// What the layers `oracle + 1 .. end` are off by.
    fn off(&self, oracle: usize, end: usize) -> f64 {
        self.0[oracle][1..end - oracle].iter().map(|reading| reading.error).sum()
    }

    /// The set of `count` layers whose others are off least: 2 at least, and no more than there are. What the layers up to an
    /// oracle are off by does not depend on those behind it, so that the best way to each is found from those to the ones before it
    /// (Bellman 1954).
    pub fn choose(&self, count: usize) -> Vec<usize> {
        let layers = self.layers();
        // By oracle: the least that the layers up to it are off by with so many oracles, and the oracles.
        let mut best: Vec<Option<(f64, Vec<usize>)>> = vec![None; layers];
        best[0] = Some((0.0, vec![0]));
        for _ in 1..count {
            let way = |oracle: usize| {
                let from = |before: usize| {
                    let (off, oracles) = best[before].as_ref()?;
                    Some((off + self.off(before, oracle), [&oracles[..], &[oracle]].concat()))
                };
                (0..oracle).filter_map(from).min_by(|a, b| a.0.total_cmp(&b.0))
            };
            best = (0..layers).map(way).collect();
        }
        best.pop().flatten().map_or_else(|| (0..layers).collect(), |(_, oracles)| oracles)
    }

    /// How the layers that are no oracles fare: their means, and the one that is off most. `None`: all are oracles.
    pub fn of(&self, oracles: &[usize]) -> Option<(Reading, (usize, Reading))> {
        let ends = oracles.iter().skip(1).copied().chain([self.layers()]);
        let pairs = oracles.iter().zip(ends).flat_map(|(oracle, end)| {
            (*oracle + 1..end).map(|layer| (layer, self.0[*oracle][layer - *oracle]))
        });
        let pairs: Vec<(usize, Reading)> = pairs.collect();
        let most = pairs.iter().copied().max_by(|a, b| a.1.error.total_cmp(&b.1.error))?;
        let mean =
            |of: fn(&Reading) -> f64| pairs.iter().map(|(_, r)| of(r)).sum::<f64>() / pairs.len() as f64;
        Some((Reading { recall: mean(|r| r.recall), error: mean(|r| r.error) }, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of that many layers, one by one.
    #[test]
    fn the_set_that_is_off_least_is_chosen() {
        let layers = 9;
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let mut reading = |_| Reading { recall: next(), error: next() };
        let readings = Readings((0..layers).map(|o| (o..layers).map(&mut reading).collect()).collect());
        let off = |oracles: &[usize]| readings.of(oracles).map_or(0.0, |(mean, _)| mean.error);
        for count in 2..=layers {
            let sets = (0..1usize << layers).map(|bits| (0..layers).filter(|l| bits >> l & 1 == 1).collect());
            let ends = |set: &Vec<usize>| {
                set.len() == count && set.first() == Some(&0) && set.last() == Some(&(layers - 1))
            };
            let best = sets.filter(ends).min_by(|a, b| off(a).total_cmp(&off(b))).unwrap();
            assert_eq!(readings.choose(count), best, "{count}");
        }
        let (mean, (layer, most)) = readings.of(&[0, 2, 8]).unwrap();
        let of = [(1, 0, 1), (3, 2, 1), (4, 2, 2), (5, 2, 3), (6, 2, 4), (7, 2, 5)];
        let of = of.map(|(layer, oracle, behind)| (layer, readings.0[oracle][behind]));
        assert!((mean.error - of.iter().map(|x| x.1.error).sum::<f64>() / 6.0).abs() < 1e-12);
        assert!((mean.recall - of.iter().map(|x| x.1.recall).sum::<f64>() / 6.0).abs() < 1e-12);
        assert!(of.contains(&(layer, most)) && of.iter().all(|x| x.1.error <= most.error));
    }

    #[test]
    fn blocks_are_ranked_by_any_head_and_ties_go_to_the_lower() {
        // Logits of 0, ln 2, 0, 0, ln 4, 0: masses of 1, 2, 1, 1, 4, 1 tenths.
        let keys = [0.0, 2f32.ln(), 0.0, 0.0, 4f32.ln(), 0.0].map(|k| [k]);
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(|v| [v]);
        let of = |query: f32| {
            Blocks::of(&[query], keys.iter().map(|key| &key[..]), values.iter().map(|value| &value[..]), 2)
        };
        let tenths: Vec<f32> = of(1.0).mass.iter().map(|mass| (mass * 10.0).round()).collect();
        assert_eq!(tenths, [3.0, 2.0, 5.0]);
        // (1 + 2 * 2 + 3 + 4 + 4 * 5 + 6) / 10 of all, (1 + 2 * 2 + 4 * 5 + 6) / 8 of the best two blocks.
        for (list, share, result) in [(vec![0, 1, 2], 1.0, 3.8), (vec![2, 0], 0.8, 3.875), (vec![], 0.0, 0.0)]
        {
            let (mass, got) = of(1.0).result(list.iter().copied());
            assert!(
                (mass - share).abs() < 1e-6 && (got[0] - result).abs() < 1e-6,
                "{list:?}: {mass} {got:?}"
            );
        }
        assert_eq!(best(&[of(1.0)], 2), [2, 0]);
        assert_eq!(best(&[of(0.0)], 2), [0, 1]);
        // The block that the first head likes least has the largest probability of all.
        let head = |most: [f32; 3]| Blocks { mass: Vec::new(), most: most.to_vec(), values: Vec::new() };
        assert_eq!(best(&[head([0.3, 0.1, 0.2]), head([0.1, 0.4, 0.1])], 2), [1, 0]);
    }
}
