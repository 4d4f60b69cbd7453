//! What oracle layers choose for a text, and how much of their readers' attention the choice holds.
//!
//! **Recall** of a layer that reads a selection, for a token and a query head: the share of the softmax mass of the
//! layer's own query over all visible keys of the cache that it reads which falls into the selected blocks. Of the oracle
//! itself the same with its own queries. A sink has no key, and counts for neither.
//!
//! The plan interpreter runs the text, and each attention is looked at behind its step, while its operands are there: some
//! hundreds of tokens of a small model take seconds, and recall grows with the square.

use std::collections::HashMap;
use std::sync::Arc;

use hyc_plan::{AttnShape, BufferId, CacheId, Kind, Operand, Plan, SelectShape, Step};
use hyc_runtime::{Engine, Model, Session, SessionOptions, Values};

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interpreter;

/// What was chosen for a text.
#[derive(Debug, Default)]
pub struct Chosen {
    /// Tokens that were run.
    pub tokens: usize,
    /// Tokens of the text that were not.
    pub left_out: usize,
    /// The layers that select, ascending.
    pub oracles: Vec<Oracle>,
    /// The layers that read a selection, the oracles among them, in the order of their steps.
    pub readers: Vec<Reader>,
}

/// What a layer chose.
#[derive(Debug)]
pub struct Oracle {
    /// The layer.
    pub layer: u32,
    /// What is selected.
    pub select: SelectShape,
    /// By KV head and token: blocks, best first.
    pub heads: Vec<Vec<Vec<u32>>>,
}

impl Oracle {
    /// The first token that sees a block more than are selected.
    pub fn first_that_chooses(&self) -> usize {
        self.select.blocks.saturating_mul(self.select.block) as usize
    }
}

/// A layer that reads a selection.
#[derive(Debug)]
pub struct Reader {
    /// The layer.
    pub layer: u32,
    /// The layer that selected.
    pub oracle: u32,
    /// By query head and token.
    pub recall: Vec<Vec<f32>>,
}

/// Whether [`observe`] can run the model. Errors: an artefact of a GPU.
pub fn runs_here(model: &Model) -> Result<()> {
    if model.plan().target.is_host() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the interpreter runs artefacts of a processor alone")
        .help("compile the model for target `cpu`, and give that artefact"))
}

/// Runs the first tokens of a text, at most `most` of them and as many as the context holds. `check` may end it between two
/// passes. Errors: an artefact of a GPU; no tokens; those of a session.
pub fn observe(
    model: &Arc<Model>,
    tokens: &[u32],
    most: usize,
    check: &dyn Fn() -> Result<()>,
) -> Result<Chosen> {
    runs_here(model)?;
    if tokens.is_empty() {
        return Err(Error::input("there is nothing to run: the text is empty").help("give a token at least"));
    }
    let context = usize::try_from(model.plan().model.max_context).unwrap_or(usize::MAX);
    let run = tokens.len().min(most).min(context);
    let options =
        SessionOptions { max_sequences: Some(1), max_tokens: Some(run as u64), ..SessionOptions::default() };
    let mut session = Session::with_kernels(model.clone(), Box::new(Interpreter), &options)?;
    let id = session.add_sequence()?;
    session.feed(id, &tokens[..run])?;
    let mut found = Chosen { tokens: run, left_out: tokens.len() - run, ..Chosen::default() };
    let mut makers: HashMap<BufferId, u32> = HashMap::new();
    while session.pending(id)? > 0 {
        check()?;
        let begin = run as u64 - session.pending(id)?;
        let mut failed = None;
        session.step_observed(&mut |step, engine| {
            if failed.is_none() {
                failed = look(&mut found, &mut makers, step, engine, begin).err();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(found)
}

/// An attention that makes or reads a selection.
struct Look {
    layer: u32,
    shape: AttnShape,
    select: SelectShape,
    makes: bool,
    list: BufferId,
    queries: BufferId,
    cache: CacheId,
}

fn attention(step: &Step) -> Option<Look> {
    let (layer, shape, roles) = (step.layer?, step.op.attention()?, step.op.roles());
    let named = |name: &str| step.operands.get(roles.iter().position(|role| role.name == name)?).copied();
    let (role, operand) =
        roles.iter().zip(&step.operands).find(|(role, _)| matches!(role.kind, Kind::Selection { .. }))?;
    let Kind::Selection { shape: select, over } = role.kind else { return None };
    match (*operand, named("q")?, named(over)?) {
        (Operand::Buffer(list), Operand::Buffer(queries), Operand::Cache(cache)) => {
            Some(Look { layer, shape, select, makes: role.writes(), list, queries, cache })
        }
        _ => None,
    }
}

/// Takes what a step chose or read for its rows, of which the first stands at position `begin`.
fn look(
    found: &mut Chosen,
    makers: &mut HashMap<BufferId, u32>,
    step: &Step,
    engine: &Engine,
    begin: u64,
) -> Result<()> {
    let Some(at) = attention(step) else { return Ok(()) };
    let Values::F32(queries) = engine.buffer(at.queries)? else {
        return Err(Error::new(ErrorKind::Internal, format!("{} has no queries", step.name)));
    };
    let chosen = lists(&at, step, engine)?;
    if at.makes {
        makers.insert(at.list, at.layer);
        keep(&mut found.oracles, &at, &chosen);
    }
    let oracle = makers.get(&at.list).copied().unwrap_or(at.layer);
    let place = found.readers.iter().position(|reader| reader.layer == at.layer);
    let place = place.unwrap_or_else(|| {
        let recall = vec![Vec::new(); at.shape.heads as usize];
        found.readers.push(Reader { layer: at.layer, oracle, recall });
        found.readers.len() - 1
    });
    let keys: Vec<Vec<f32>> = (0..begin + chosen.len() as u64)
        .map(|position| engine.cache_kv(at.cache, 0, position).map(|(keys, _)| keys))
        .collect::<std::result::Result<_, _>>()?;
    let (dim, group) = (at.shape.qk_dim as usize, (at.shape.heads / at.shape.kv_heads) as usize);
    let width = at.shape.heads as usize * dim;
    for (row, (lists, queries)) in chosen.iter().zip(queries.chunks(width)).enumerate() {
        let keys = &keys[..=begin as usize + row];
        for (head, (recall, query)) in
            found.readers[place].recall.iter_mut().zip(queries.chunks(dim)).enumerate()
        {
            let kv_head = head / group;
            recall.push(share(query, keys, kv_head * dim, &lists[kv_head], at.select.block));
        }
    }
    Ok(())
}

/// The layers of a plan that select, and what; in the order of their steps.
pub fn selecting(plan: &Plan) -> Vec<(u32, SelectShape)> {
    let makes = plan.steps.iter().filter_map(attention).filter(|at| at.makes);
    makes.map(|at| (at.layer, at.select)).collect()
}

/// Adds what a step that has just run has chosen for its rows, where it selects. Errors: the engine's.
pub fn collect(oracles: &mut Vec<Oracle>, step: &Step, engine: &Engine) -> Result<()> {
    if let Some(at) = attention(step).filter(|at| at.makes) {
        keep(oracles, &at, &lists(&at, step, engine)?);
    }
    Ok(())
}

/// The blocks of the selection of a step that has just run, by its rows and KV heads.
fn lists(at: &Look, step: &Step, engine: &Engine) -> Result<Vec<Vec<Vec<u32>>>> {
    let Values::I32(lists) = engine.buffer(at.list)? else {
        return Err(Error::new(ErrorKind::Internal, format!("{} reads no selection", step.name)));
    };
    let rows = lists.chunks((at.select.kv_heads * at.select.blocks) as usize);
    Ok(rows.map(|row| row.chunks(at.select.blocks as usize).map(visible).collect()).collect())
}

/// Adds the lists of rows to those of their layer.
fn keep(oracles: &mut Vec<Oracle>, at: &Look, rows: &[Vec<Vec<u32>>]) {
    let place = oracles.iter().position(|oracle| oracle.layer == at.layer).unwrap_or_else(|| {
        let heads = vec![Vec::new(); at.select.kv_heads as usize];
        oracles.push(Oracle { layer: at.layer, select: at.select, heads });
        oracles.len() - 1
    });
    for row in rows {
        oracles[place].heads.iter_mut().zip(row).for_each(|(head, list)| head.push(list.clone()));
    }
}

/// The blocks of a list, whose end is -1 where fewer are visible.
fn visible(list: &[i32]) -> Vec<u32> {
    list.iter().filter_map(|block| u32::try_from(*block).ok()).collect()
}

/// The share of the softmax mass of `query` over keys, each beginning at `from`, that lies in the blocks of `list`.
fn share(query: &[f32], keys: &[Vec<f32>], from: usize, list: &[u32], block: u64) -> f32 {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let logit = |key: &Vec<f32>| {
        let products = query.iter().zip(&key[from..]).map(|(q, k)| f64::from(*q) * f64::from(*k));
        scale * products.sum::<f64>()
    };
    let logits: Vec<f64> = keys.iter().map(logit).collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut all, mut inside) = (0.0, 0.0);
    for (position, logit) in logits.iter().enumerate() {
        let mass = (logit - most).exp();
        all += mass;
        if list.contains(&((position as u64 / block.max(1)) as u32)) {
            inside += mass;
        }
    }
    (inside / all) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_the_mass() {
        // Four keys of a head whose logits are 0, 0, ln 2 and ln 4: masses of 1, 1, 2 and 4 eighths.
        let keys: Vec<Vec<f32>> = [0.0, 0.0, 2f32.ln(), 4f32.ln()].iter().map(|k| vec![9.0, *k]).collect();
        let of = |list: &[u32]| (8.0 * share(&[1.0], &keys, 1, list, 2)).round();
        assert_eq!([of(&[]), of(&[0]), of(&[1]), of(&[1, 0])], [0.0, 2.0, 6.0, 8.0]);
        assert_eq!(visible(&[3, 0, -1, -1]), [3, 0]);
    }
}
