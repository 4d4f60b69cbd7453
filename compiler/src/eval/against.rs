//! How far a model's numbers are from a reference's on the same tokens: logits, the next token, selections.
//!
//! a are the model's logits of a token and b the reference's, p and q their softmax. The error is ||a - b|| / ||b||; the
//! Kullback-Leibler divergence of the reference from the model is the sum of q ln(q / p) over the vocabulary, in nats: 0
//! where both are the same. The agreement of a selection is |A ∩ B| / |B|, of the blocks that both chose for a token and a KV
//! head; it counts where more blocks were visible than are selected. Each runs by itself, so that a layer's selection
//! differs by all that differs before it.

use std::collections::VecDeque;

use hyc_plan::SelectShape;
use hyc_plan::sample::{SampleParams, penalise_and_choose_named};
use hyc_runtime::{Model, SequenceId, Session, Tokenizer};
use serde_json::{Value, json};

use super::perplexity::{Perplexity, log_sum, predicted, windows};
use crate::chosen::{self, Oracle};
use crate::error::{Error, Result};
use crate::report::table;
use crate::words::place;

/// How far a model is from a reference, over the tokens that count for perplexity.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Of the model.
    pub perplexity: Perplexity,
    /// Of the reference.
    pub reference: Perplexity,
    /// Of all logits of a window: the sum over windows.
    errors: f64,
    /// The token whose logits are off most.
    pub worst: Worst,
    /// Of the reference from the model, in nats: the sum over tokens.
    divergence: f64,
    /// Tokens behind which both choose the same one at temperature 0.
    same_choice: u64,
    /// Of each layer that selects, in the order of steps; `None` where one of the two models selects nothing.
    pub selections: Option<Vec<Agreement>>,
}

/// The logits that are off most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Worst {
    /// ||a - b|| / ||b||.
    pub error: f64,
    /// The window, from 0.
    pub window: u64,
    /// The token of the window that these logits predict, from 0.
    pub token: usize,
}

/// How much of a layer's selections agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// The layer.
    pub layer: u32,
    /// By KV head: the sum over tokens.
    heads: Vec<f64>,
    /// Tokens that count.
    pub tokens: u64,
}

impl Agreement {
    /// The mean over tokens and KV heads; `None` where no token counts.
    pub fn mean(&self) -> Option<f64> {
        mean(std::slice::from_ref(self))
    }

    /// Of the KV head that agrees least.
    pub fn worst_head(&self) -> Option<f64> {
        let least = self.heads.iter().copied().reduce(f64::min)?;
        (self.tokens > 0).then(|| least / self.tokens as f64)
    }

    /// Adds a window.
    fn add(&mut self, ours: &Oracle, reference: &Oracle) {
        let first = reference.first_that_chooses();
        self.tokens += reference.heads.first().map_or(0, |head| head.len().saturating_sub(first)) as u64;
        for (sum, (a, b)) in self.heads.iter_mut().zip(ours.heads.iter().zip(&reference.heads)) {
            *sum += a.iter().zip(b).skip(first).map(|(a, b)| share(a, b)).sum::<f64>();
        }
    }
}

/// The mean over layers, tokens and KV heads; `None` where no token counts.
fn mean(layers: &[Agreement]) -> Option<f64> {
    let lists: f64 = layers.iter().map(|layer| layer.tokens as f64 * layer.heads.len() as f64).sum();
    let sum: f64 = layers.iter().flat_map(|layer| &layer.heads).sum();
    (lists > 0.0).then(|| sum / lists)
}

/// |A ∩ B| / |B|, of blocks.
fn share(a: &[u32], b: &[u32]) -> f64 {
    b.iter().filter(|block| a.contains(block)).count() as f64 / b.len().max(1) as f64
}

/// ||a - b||^2 and ||b||^2.
fn squares(a: &[f32], b: &[f32]) -> [f64; 2] {
    let pairs = a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    pairs.fold([0.0, 0.0], |[apart, norm], (a, b)| [apart + (a - b).powi(2), norm + b * b])
}

/// ||a - b|| / ||b||.
fn relative([apart, norm]: [f64; 2]) -> f64 {
    (apart / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// The sum of q ln(q / p), in nats, where a and b are the logits of p and q, and `sums` their [`log_sum`].
fn divergence(a: &[f32], b: &[f32], sums: [f64; 2]) -> f64 {
    let terms = a.iter().zip(b).map(|(a, b)| {
        let [ln_p, ln_q] = [f64::from(*a) - sums[0], f64::from(*b) - sums[1]];
        ln_q.exp() * (ln_q - ln_p)
    });
    terms.sum()
}

/// Errors: what does not fit, of two models that shall be compared: vocabulary, layers, or what their layers select. One of
/// them may select nothing.
pub fn fit(model: &Model, reference: &Model) -> Result<()> {
    let (ours, theirs) = (model.plan(), reference.plan());
    let differ = |what: [String; 2]| {
        let [a, b] = [model, reference].map(|model| place(model.path()));
        Err(Error::input(format!("{a} has {}, {b} {}: they cannot be compared", what[0], what[1]))
            .help("give artefacts of one model, which may differ in formats, targets and code"))
    };
    let [a, b] = [&ours.model, &theirs.model];
    if a.vocab != b.vocab {
        return differ([format!("a vocabulary of {}", a.vocab), format!("one of {}", b.vocab)]);
    }
    if a.layers != b.layers {
        return differ([a.layers, b.layers].map(|layers| format!("{layers} layers")));
    }
    let [ours, theirs] = [ours, theirs].map(chosen::selecting);
    if ours.is_empty() || theirs.is_empty() {
        return Ok(());
    }
    let layers = |all: &[(u32, _)]| all.iter().map(|(layer, _)| layer.to_string()).collect::<Vec<_>>();
    if layers(&ours) != layers(&theirs) {
        return differ([ours, theirs].map(|all| format!("selections of layers {}", layers(&all).join(", "))));
    }
    match ours.iter().zip(&theirs).find(|(a, b)| a != b) {
        None => Ok(()),
        Some(((layer, a), (_, b))) => {
            let says = [a, b]
                .map(|s| format!("{} blocks of {} tokens for {} KV heads", s.blocks, s.block, s.kv_heads));
            differ([format!("in layer {layer} selections of {}", says[0]), says[1].clone()])
        }
    }
}

/// One window in a session.
struct Run<'s> {
    session: &'s mut Session,
    id: SequenceId,
    /// Logits that are not compared yet.
    rows: VecDeque<Vec<f32>>,
    /// What was chosen for all tokens so far.
    oracles: Vec<Oracle>,
}

impl Run<'_> {
    fn begin<'s>(session: &'s mut Session, tokens: &[u32]) -> Result<Run<'s>> {
        session.set_all_logits(true);
        let id = session.add_sequence()?;
        session.feed(id, tokens)?;
        Ok(Run { session, id, rows: VecDeque::new(), oracles: Vec::new() })
    }

    /// The next token's logits, `[vocab]`; `None` behind the last one. `seen` is told of tokens that are through.
    fn row(&mut self, seen: &mut dyn FnMut(u64) -> Result<()>) -> Result<Option<Vec<f32>>> {
        while self.rows.is_empty() && self.session.pending(self.id)? > 0 {
            let mut failed = None;
            let step = self.session.step_observed(&mut |step, engine| {
                if failed.is_none() {
                    failed = chosen::collect(&mut self.oracles, step, engine).err();
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            for (_, row) in step.logits {
                let named = |error| Error::from(error).within(&place(self.session.model().path()));
                self.rows.push_back(row.map_err(named)?);
            }
            seen(step.tokens)?;
        }
        Ok(self.rows.pop_front())
    }

    /// The token that the model chooses at temperature 0.
    fn choice(&self, logits: &mut [f32]) -> Option<u32> {
        let model = self.session.model();
        let unnamed = model.text_settings().map_or(&[][..], |settings| &settings.unnamed);
        let choices = model.plan().model.choices();
        penalise_and_choose_named(logits, choices, unnamed, &SampleParams::default(), &[])
    }

    fn end(self) -> Result<Vec<Oracle>> {
        self.session.remove_sequence(self.id)?;
        Ok(self.oracles)
    }
}

/// Runs a text of these tokens by two models that [`fit`], in the [`windows`] of `context` tokens behind `begin`. `seen` is
/// told of the model's tokens that are through, and may end it. Errors: no window has two tokens; those of the sessions.
pub fn compare(
    (model, reference): (&mut Session, &mut Session),
    tokenizer: Option<&Tokenizer>,
    (begin, tokens): (&[u32], &[u32]),
    context: usize,
    seen: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Comparison> {
    let windows = windows(begin, tokens, context)?;
    let select = [&*model, &*reference].map(|session| chosen::selecting(session.model().plan()));
    let agreement = |(layer, select): &(u32, SelectShape)| Agreement {
        layer: *layer,
        heads: vec![0.0; select.kv_heads as usize],
        tokens: 0,
    };
    let mut all = Comparison {
        perplexity: Perplexity::none(tokenizer),
        reference: Perplexity::none(tokenizer),
        errors: 0.0,
        worst: Worst::default(),
        divergence: 0.0,
        same_choice: 0,
        selections: (select.iter().all(|layers| !layers.is_empty()))
            .then(|| select[0].iter().map(agreement).collect()),
    };
    for (number, window) in (0..).zip(windows) {
        let text = [begin, window].concat();
        let [mut ours, mut theirs] = [Run::begin(model, &text)?, Run::begin(reference, &text)?];
        let (mut row, mut whole) = (0, [0.0, 0.0]);
        while let (Some(mut a), Some(mut b)) = (ours.row(seen)?, theirs.row(&mut |_| seen(0))?) {
            if let Some(token) = predicted(begin.len(), window, row) {
                let squares = squares(&a, &b);
                whole = [whole[0] + squares[0], whole[1] + squares[1]];
                let error = relative(squares);
                if all.perplexity.tokens == 0 || error > all.worst.error {
                    all.worst = Worst { error, window: number, token: row + 1 - begin.len() };
                }
                let sums = [&a, &b].map(|logits| log_sum(logits));
                all.perplexity.token(sums[0] - f64::from(a[token as usize]));
                all.reference.token(sums[1] - f64::from(b[token as usize]));
                all.divergence += divergence(&a, &b, sums);
                all.same_choice += u64::from(ours.choice(&mut a) == theirs.choice(&mut b));
            }
            row += 1;
        }
        all.errors += relative(whole);
        // Models that fit have the same layers in the same order.
        let (ours, theirs) = (ours.end()?, theirs.end()?);
        for (layer, (a, b)) in all.selections.iter_mut().flatten().zip(ours.iter().zip(&theirs)) {
            layer.add(a, b);
        }
        all.perplexity.window(tokenizer, window)?;
        all.reference.window(tokenizer, window)?;
    }
    Ok(all)
}

impl Comparison {
    /// ||a - b|| / ||b|| of all logits of a window: the mean over windows.
    pub fn error(&self) -> f64 {
        self.errors / self.perplexity.windows.max(1) as f64
    }

    /// The divergence of the reference from the model, in nats: the mean over tokens.
    pub fn divergence(&self) -> f64 {
        self.divergence / self.perplexity.tokens.max(1) as f64
    }

    /// The share of tokens behind which both choose the same one at temperature 0.
    pub fn same_choice(&self) -> f64 {
        self.same_choice as f64 / self.perplexity.tokens.max(1) as f64
    }

    /// For people.
    pub fn text(&self, reference: &str) -> String {
        let Worst { error, window, token } = self.worst;
        let mut text = format!(
            "against {reference}, whose perplexity is {:.4}:\n  logits: relative error {:.3e}; at worst {error:.3e}, of token {token} in window {window}\n  next token: KL divergence {:.3e} nats; the same greedy choice {:.4}\n",
            self.reference.value(),
            self.error(),
            self.divergence(),
            self.same_choice(),
        );
        let Some(layers) = &self.selections else {
            return text + "  selections: no layer of both models selects\n";
        };
        let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.4}"));
        let row = |layer: &Agreement| {
            let name = format!("  {}", layer.layer);
            vec![name, number(layer.mean()), number(layer.worst_head()), layer.tokens.to_string()]
        };
        let Some(all) = mean(layers) else {
            return text + "  selections: no token of a window sees more blocks than are selected\n";
        };
        let mut rows: Vec<_> = layers.iter().map(row).collect();
        rows.push(vec!["  all".to_string(), number(Some(all)), String::new(), String::new()]);
        text += &table(&["  selection of layer", "agreement", "worst head", "tokens"], &rows);
        text
    }

    /// For programs.
    pub fn json(&self, reference: &str) -> Value {
        let layer = |layer: &Agreement| json!({ "layer": layer.layer, "agreement": layer.mean(), "worst_head": layer.worst_head(), "tokens": layer.tokens });
        let Worst { error, window, token } = self.worst;
        json!({
            "reference": reference,
            "perplexity": self.reference.value(),
            "error": self.error(),
            "worst": { "error": error, "window": window, "token": token },
            "divergence": self.divergence(),
            "same_choice": self.same_choice(),
            "selections": self.selections.as_ref().map(|layers| json!({
                "agreement": mean(layers), "layers": layers.iter().map(layer).collect::<Vec<_>>(),
            })),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_is_in_nats_and_of_the_reference() {
        // p is 1/4, 3/4 and q 1/2, 1/2; other sums of the same softmax change nothing.
        let (a, b) = ([0.0, 3f32.ln()], [7.0, 7.0]);
        let of = |a: &[f32], b: &[f32]| divergence(a, b, [log_sum(a), log_sum(b)]);
        let want = 0.5 * 2f64.ln() + 0.5 * (2.0 / 3.0f64).ln();
        assert!((of(&a, &b) - want).abs() < 1e-7);
        let other_way = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((of(&b, &a) - other_way).abs() < 1e-7 && (want - other_way).abs() > 1e-2);
        assert_eq!(of(&a, &a), 0.0);
        // What the reference excludes counts for nothing, however far away.
        assert_eq!(of(&[0.0, 0.0], &[0.0, -1e5]), 2f64.ln());
    }

    #[test]
    fn an_error_is_in_units_of_the_reference() {
        assert_eq!(relative(squares(&[3.0, 4.0], &[3.0, 0.0])), 4.0 / 3.0);
        assert_eq!(relative(squares(&[1.0, 2.0], &[1.0, 2.0])), 0.0);
        assert_eq!(relative(squares(&[0.0], &[0.0])), 0.0);
    }

    #[test]
    fn selections_agree_where_there_was_a_choice() {
        // Two blocks of two tokens: the first four tokens see no third one.
        let select = SelectShape { kv_heads: 2, block: 2, blocks: 2 };
        let oracle = |heads: [&[&[u32]]; 2]| Oracle {
            layer: 3,
            select,
            heads: heads.map(|head| head.iter().map(|list| list.to_vec()).collect()).into(),
        };
        let before: [&[u32]; 4] = [&[0], &[0], &[0, 1], &[1, 0]];
        let with = |last: [&'static [u32]; 2]| [&before[..], &last[..]].concat();
        let (one, two) = (with([&[2, 0], &[2, 1]]), with([&[0, 2], &[0, 1]]));
        let mut agreement = Agreement { layer: 3, heads: vec![0.0; 2], tokens: 0 };
        assert_eq!((agreement.mean(), agreement.worst_head()), (None, None));
        agreement.add(&oracle([&before, &before]), &oracle([&before, &before]));
        assert_eq!((agreement.mean(), agreement.tokens), (None, 0));
        agreement.add(&oracle([&one, &one]), &oracle([&one, &two]));
        assert_eq!(
            (agreement.mean(), agreement.worst_head(), agreement.tokens),
            (Some(0.875), Some(0.75), 2)
        );
        // Another window, and layers with fewer tokens.
        agreement.add(&oracle([&one, &one]), &oracle([&two, &two]));
        assert_eq!((agreement.mean(), agreement.tokens), (Some(0.8125), 4));
        let other = Agreement { layer: 5, heads: vec![0.0; 2], tokens: 12 };
        assert_eq!(mean(&[agreement, other]), Some(6.5 / 32.0));
    }
}
