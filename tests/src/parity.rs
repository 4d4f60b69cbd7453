//! A model's results against golden tensors, and against each other under another schedule.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyc_plan::{CacheId, CachePolicy, Operand, StepOp};
use hyc_runtime::{Model, Result, Session, SessionOptions, Values};

use crate::{Golden, relative_error};

/// Logits of all positions, and by oracle layer the selections of all tokens.
pub struct Run {
    /// `[tokens][vocab]`
    pub logits: Vec<f32>,
    /// `[tokens][kv_heads][blocks]` of each oracle.
    pub selected: BTreeMap<u32, Vec<i32>>,
    /// The last token's hidden state; nothing where the model keeps none.
    pub hidden: Vec<f32>,
}

/// The logits of every token, in a session of its own.
pub fn logits(model: &Arc<Model>, tokens: &[u32]) -> Vec<f32> {
    let mut session = Session::new(Arc::clone(model), &SessionOptions::default()).expect("starts");
    run(&mut session, tokens).expect("runs").logits
}

/// Feeds a new sequence all tokens, looking at every step.
pub fn run(session: &mut Session, tokens: &[u32]) -> Result<Run> {
    let id = session.add_sequence()?;
    session.set_all_logits(true);
    session.feed(id, tokens)?;
    let mut run = Run { logits: Vec::new(), selected: BTreeMap::new(), hidden: Vec::new() };
    while session.pending(id)? > 0 {
        let selected = &mut run.selected;
        let output = session.step_observed(&mut |step, engine| {
            if let (StepOp::OracleAttention(_), Some(Operand::Buffer(at)), Some(layer)) =
                (step.op, step.operands.last(), step.layer)
                && let Ok(Values::I32(list)) = engine.buffer(*at)
            {
                selected.entry(layer).or_default().extend(list);
            }
        })?;
        for (_, row) in output.logits {
            run.logits.extend(row?);
        }
    }
    run.hidden = session.output(id, "hidden").unwrap_or_default();
    Ok(run)
}

/// Logits of all positions where a new session gets the tokens in pieces of these lengths.
pub fn run_pieces(
    model: &Arc<Model>,
    options: &SessionOptions,
    tokens: &[u32],
    pieces: &[usize],
) -> Result<Vec<f32>> {
    let mut session = Session::new(model.clone(), options)?;
    let id = session.add_sequence()?;
    session.set_all_logits(true);
    let (mut rest, mut logits) = (tokens, Vec::new());
    for piece in pieces {
        let (now, later) = rest.split_at(*piece.min(&rest.len()));
        rest = later;
        session.feed(id, now)?;
        while session.pending(id)? > 0 {
            for (_, row) in session.step()?.logits {
                logits.extend(row?);
            }
        }
    }
    Ok(logits)
}

/// The last rows of logits of several sequences that share steps, and then get `next` one by one.
pub fn run_batch(model: &Arc<Model>, parts: &[&[u32]], next: &[u32]) -> Result<Vec<Vec<f32>>> {
    let mut session = Session::new(model.clone(), &SessionOptions::default())?;
    let ids = parts.iter().map(|_| session.add_sequence()).collect::<Result<Vec<_>>>()?;
    for (id, part) in ids.iter().zip(parts) {
        session.feed(*id, part)?;
    }
    let mut logits = vec![Vec::new(); parts.len()];
    let last = [None];
    for token in next.iter().map(Some).chain(last) {
        loop {
            let mut busy = false;
            for id in &ids {
                busy |= session.pending(*id)? > 0;
            }
            if !busy {
                break;
            }
            for (id, row) in session.step()?.logits {
                let row = row?;
                ids.iter().zip(&mut logits).filter(|(i, _)| **i == id).for_each(|(_, l)| l.extend(&row));
            }
        }
        if let Some(token) = token {
            ids.iter().try_for_each(|id| session.feed(*id, &[*token]))?;
        }
    }
    Ok(logits)
}

/// The tokens that the golden tensors are of.
pub fn tokens(golden: &Golden) -> Vec<u32> {
    golden.i32("tokens").map_or(Vec::new(), |(_, tokens)| tokens.into_iter().map(|t| t as u32).collect())
}

/// How lists were compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    /// All lists.
    pub count: usize,
    /// Those whose k-th and (k+1)-th scores are closer than rounding.
    pub skipped: usize,
    /// Those whose k-th and (k+1)-th scores are the very same: the lower block belongs in the list.
    pub tied: usize,
}

/// Lists must be equal as sets wherever the k-th and (k+1)-th scores differ by more than `tie`, or not at all. Few
/// may be skipped: one in a hundred.
pub fn check_selections(run: &Run, golden: &Golden, tie: f32) -> std::result::Result<Lists, String> {
    let mut lists = Lists::default();
    for (layer, got) in &run.selected {
        let (Some((shape, want)), Some((_, margin))) =
            (golden.i32(&format!("layer{layer}.selected")), golden.f32(&format!("layer{layer}.margin")))
        else {
            return Err(format!("layer {layer} has no golden selection"));
        };
        if got.len() != want.len() {
            return Err(format!("layer {layer}: {} indices for {}", got.len(), want.len()));
        }
        for (i, (got, want)) in got.chunks(shape[2]).zip(want.chunks(shape[2])).enumerate() {
            let (mut a, mut b) = (got.to_vec(), want.to_vec());
            a.sort_unstable();
            b.sort_unstable();
            let skipped = margin[i] > 0.0 && margin[i] <= tie;
            if a != b && !skipped {
                return Err(format!("layer {layer}, list {i}: {got:?}, golden {want:?}"));
            }
            lists.count += 1;
            lists.skipped += usize::from(skipped);
            lists.tied += usize::from(margin[i] == 0.0);
        }
    }
    if lists.skipped * 100 > lists.count {
        return Err(format!("too many near ties to tell anything: {lists:?}"));
    }
    Ok(lists)
}

/// Keys and values of all positions that each cache still holds of its first sequence of `count` tokens; the
/// largest error.
pub fn check_caches(
    session: &Session,
    golden: &Golden,
    count: u64,
    limit: f64,
) -> std::result::Result<f64, String> {
    let mut worst = None::<f64>;
    for (i, cache) in session.model().plan().caches.iter().enumerate() {
        let (Some((_, k)), Some((_, v))) =
            (golden.f32(&format!("layer{}.k", cache.owner)), golden.f32(&format!("layer{}.v", cache.owner)))
        else {
            continue;
        };
        let first = match cache.policy {
            CachePolicy::Growing => 0,
            CachePolicy::Ring { window, .. } => count - window.min(count),
        };
        let (mut ours_k, mut ours_v) = (Vec::new(), Vec::new());
        for position in first..count {
            let read = session.engine().cache_kv(CacheId(i as u32), 0, position);
            let (k, v) = read.map_err(|e| e.to_string())?;
            ours_k.extend(k);
            ours_v.extend(v);
        }
        let from = |dim: u64| (first * cache.kv_heads * dim) as usize;
        let errors = (
            relative_error(&ours_k, &k[from(cache.qk_dim)..]),
            relative_error(&ours_v, &v[from(cache.v_dim)..]),
        );
        // Each by itself: `max` would drop a NaN.
        let error = errors.0.max(errors.1);
        if !(errors.0 < limit && errors.1 < limit) {
            return Err(format!("cache of layer {}: {errors:?}", cache.owner));
        }
        worst = Some(worst.unwrap_or(0.0).max(error));
    }
    worst.ok_or_else(|| "no cache was compared".to_string())
}
