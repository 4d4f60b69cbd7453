//! Which layers of a model with full attention select best for those behind them: `hyc import --pattern auto`.
//!
//! A text is run with full attention. `R(o, l)`, for a token and a query head, is the share of the softmax mass of layer
//! l's query over all visible keys that lies in the blocks which layer o selects for the token (HySparse, 2602.03560, eq. 3).
//! Of all sets of N layers that have the first and the last one, that is chosen whose other layers lose least: the sum of
//! 1 - R(o, l), where o is the nearest layer of the set before l.
//!
//! What sparse layers do to the hidden state is not in it: each layer is looked at as if all before it were full. Sinks
//! have no key, and are left out.

use std::sync::Arc;

use hyc_plan::{AttnShape, Operand, Step, StepOp};
use hyc_runtime::{Engine, Model, Session, SessionOptions, Values};

use crate::error::{Error, ErrorKind, Result};

/// Most tokens whose queries are looked at: evenly those that see more blocks than are selected.
const QUERIES: usize = 256;

/// `R(o, l)` by `[o][l - o]`, as means over query heads and tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalls(Vec<Vec<f64>>);

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
pub fn recalls(
    model: &Arc<Model>,
    tokens: &[u32],
    selected: Selected,
    check: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Recalls> {
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
        sums: Recalls::zeros(layers),
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
    if let Some(layer) = seen.layers.iter().position(|layer| layer.queries == 0) {
        return Err(Error::new(ErrorKind::Unsupported, format!("layer {layer} has no full attention"))
            .help("name the layers that select, as `--pattern 0,4,8`"));
    }
    let queries = seen.layers[0].queries as f64;
    seen.sums.0.iter_mut().flatten().for_each(|sum| *sum /= queries);
    Ok(seen.sums)
}

/// What was seen of the text.
struct Seen {
    selected: Selected,
    first: usize,
    stride: usize,
    layers: Vec<Layer>,
    sums: Recalls,
}

/// What was seen of a layer.
#[derive(Default, Clone)]
struct Layer {
    /// Of all positions, `[position][kv_heads][qk_dim]`.
    keys: Vec<f32>,
    /// Queries that were looked at, over all heads.
    queries: usize,
    /// Of the tokens of the step in hand that are looked at, by KV head: blocks.
    lists: Vec<Vec<Vec<usize>>>,
}

impl Seen {
    /// Takes an attention's queries and keys of the rows from position `begin` on.
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
            let (keys, _) = engine.cache_kv(cache, 0, position as u64)?;
            self.layers[layer].keys.extend(keys);
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

    /// The blocks that a layer selects for a token, and what lies of its attention in those of each layer before it.
    fn token(&mut self, layer: usize, shape: AttnShape, queries: &[f32], position: usize) {
        let (dim, kv_heads) = (shape.qk_dim as usize, shape.kv_heads as usize);
        let group = shape.heads as usize / kv_heads;
        let keys = &self.layers[layer].keys[..(position + 1) * kv_heads * dim];
        let heads: Vec<Blocks> = queries
            .chunks(dim)
            .enumerate()
            .map(|(head, query)| {
                let own = head / group * dim;
                let keys = keys.chunks(kv_heads * dim).map(|keys| &keys[own..own + dim]);
                Blocks::of(query, keys, self.selected.block)
            })
            .collect();
        let best = heads.chunks(group).map(|group| best(group, self.selected.top_k / self.selected.block));
        let lists: Vec<Vec<usize>> = best.collect();
        let at = self.layers[layer].lists.len();
        self.layers[layer].lists.push(lists);
        self.layers[layer].queries += heads.len();
        for oracle in 0..=layer {
            let Some(lists) = self.layers[oracle].lists.get(at) else { continue };
            let inside = heads.iter().enumerate().flat_map(|(head, blocks)| {
                let list = lists.get(head / group).into_iter().flatten();
                list.map(|block| f64::from(blocks.mass[*block]))
            });
            self.sums.0[oracle][layer - oracle] += inside.sum::<f64>();
        }
    }
}

/// A query's softmax by block.
struct Blocks {
    /// The sum.
    mass: Vec<f32>,
    /// The greatest.
    most: Vec<f32>,
}

impl Blocks {
    fn of<'a>(query: &[f32], keys: impl Iterator<Item = &'a [f32]>, block: usize) -> Blocks {
        let scale = 1.0 / (query.len() as f32).sqrt();
        let mut p: Vec<f32> =
            keys.map(|key| scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>()).collect();
        let most = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        p.iter_mut().for_each(|p| *p = (*p - most).exp());
        let all: f32 = p.iter().sum();
        let mass = p.chunks(block).map(|p| p.iter().sum::<f32>() / all).collect();
        let most = p.chunks(block).map(|p| p.iter().copied().fold(0.0, f32::max) / all).collect();
        Blocks { mass, most }
    }
}

/// The best blocks of a group of heads: of largest probability of any token and head, ties to the lower one.
fn best(group: &[Blocks], count: usize) -> Vec<usize> {
    let score = |block: usize| group.iter().map(|head| head.most[block]).fold(0.0, f32::max);
    let mut blocks: Vec<(f32, usize)> = (0..group[0].most.len()).map(|block| (score(block), block)).collect();
    blocks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    blocks.into_iter().take(count).map(|(_, block)| block).collect()
}

impl Recalls {
    fn zeros(layers: usize) -> Recalls {
        Recalls((0..layers).map(|oracle| vec![0.0; layers - oracle]).collect())
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.0.len()
    }

    /// What the layers `oracle + 1 .. end` lose.
    fn lost(&self, oracle: usize, end: usize) -> f64 {
        self.0[oracle][1..end - oracle].iter().map(|recall| 1.0 - recall).sum()
    }

    /// The set of `count` layers that loses least: 2 at least, and no more than there are. What the layers up to an oracle
    /// lose does not depend on those behind it, so that the best way to each is found from those to the ones before it
    /// (Bellman 1954).
    pub fn choose(&self, count: usize) -> Vec<usize> {
        let layers = self.layers();
        // By oracle: the least loss of the layers up to it with so many oracles, and the oracles.
        let mut best: Vec<Option<(f64, Vec<usize>)>> = vec![None; layers];
        best[0] = Some((0.0, vec![0]));
        for _ in 1..count {
            let way = |oracle: usize| {
                let from = |before: usize| {
                    let (lost, oracles) = best[before].as_ref()?;
                    Some((lost + self.lost(before, oracle), [&oracles[..], &[oracle]].concat()))
                };
                (0..oracle).filter_map(from).min_by(|a, b| a.0.total_cmp(&b.0))
            };
            best = (0..layers).map(way).collect();
        }
        best.pop().flatten().map_or_else(|| (0..layers).collect(), |(_, oracles)| oracles)
    }

    /// What the layers that are no oracles keep: their mean, and the one that keeps least. `None`: all are oracles.
    pub fn kept(&self, oracles: &[usize]) -> Option<(f64, (usize, f64))> {
        let ends = oracles.iter().skip(1).copied().chain([self.layers()]);
        let pairs = oracles.iter().zip(ends).flat_map(|(oracle, end)| {
            (*oracle + 1..end).map(|layer| (layer, self.0[*oracle][layer - *oracle]))
        });
        let pairs: Vec<(usize, f64)> = pairs.collect();
        let least = pairs.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((pairs.iter().map(|(_, recall)| recall).sum::<f64>() / pairs.len() as f64, least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of that many layers, one by one.
    #[test]
    fn the_set_that_loses_least_is_chosen() {
        let layers = 9;
        let mut state = 5u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let recalls = Recalls((0..layers).map(|o| (o..layers).map(|_| next()).collect()).collect());
        let lost = |oracles: &[usize]| recalls.kept(oracles).map_or(0.0, |(mean, _)| 1.0 - mean);
        for count in 2..=layers {
            let sets = (0..1usize << layers).map(|bits| (0..layers).filter(|l| bits >> l & 1 == 1).collect());
            let ends = |set: &Vec<usize>| {
                set.len() == count && set.first() == Some(&0) && set.last() == Some(&(layers - 1))
            };
            let best = sets.filter(ends).min_by(|a, b| lost(a).total_cmp(&lost(b))).unwrap();
            assert_eq!(recalls.choose(count), best, "{count}");
        }
        let (mean, (layer, least)) = recalls.kept(&[0, 2, 8]).unwrap();
        let of = [(1, 0, 1), (3, 2, 1), (4, 2, 2), (5, 2, 3), (6, 2, 4), (7, 2, 5)];
        let of = of.map(|(layer, oracle, behind)| (layer, recalls.0[oracle][behind]));
        assert!((mean - of.iter().map(|x| x.1).sum::<f64>() / 6.0).abs() < 1e-12);
        assert!(of.contains(&(layer, least)) && of.iter().all(|x| x.1 >= least));
    }

    #[test]
    fn blocks_are_ranked_by_any_head_and_ties_go_to_the_lower() {
        // Logits of 0, ln 2, 0, 0, ln 4, 0: masses of 1, 2, 1, 1, 4, 1 tenths.
        let keys = [0.0, 2f32.ln(), 0.0, 0.0, 4f32.ln(), 0.0].map(|k| [k]);
        let of = |query: f32| Blocks::of(&[query], keys.iter().map(|key| &key[..]), 2);
        let tenths: Vec<f32> = of(1.0).mass.iter().map(|mass| (mass * 10.0).round()).collect();
        assert_eq!(tenths, [3.0, 2.0, 5.0]);
        assert_eq!(best(&[of(1.0)], 2), [2, 0]);
        assert_eq!(best(&[of(0.0)], 2), [0, 1]);
        // The block that the first head likes least has the largest probability of all.
        let head = |most: [f32; 3]| Blocks { mass: Vec::new(), most: most.to_vec() };
        assert_eq!(best(&[head([0.3, 0.1, 0.2]), head([0.1, 0.4, 0.1])], 2), [1, 0]);
    }
}
