//! How well a model does on a text: perplexity, keys that were planted in it, what its selections hold of attention, and how
//! far all of it is from a reference's.

mod against;
mod perplexity;

use std::fmt;
use std::sync::Arc;

use hyc_plan::eval::{EvalGates, RANGES};
use hyc_runtime::{Model, Session, Tokenizer};
use serde_json::{Value, json};

use crate::chosen::{Chosen, Reader};
use crate::error::{Error, ErrorKind, Result};
use crate::report::table;

pub use against::{Comparison, compare, fit};
pub use perplexity::{Perplexity, perplexity};

/// A key that was planted in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it was planted: 0 is the beginning of the text, 1 its end.
    pub depth: f64,
    /// Whether the model's likeliest tokens name it.
    pub found: bool,
}

/// Plants a number in `context` tokens of the text, at `count` depths one after the other, and asks for it at the end. The
/// text is repeated where it is too short. Errors: a context that has no room for the question; those of the session.
pub fn keys(
    session: &mut Session,
    tokenizer: &Tokenizer,
    (begin, tokens): (&[u32], &[u32]),
    (context, count): (usize, u32),
    seen: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<Key>> {
    session.set_all_logits(false);
    let question =
        tokenizer.encode_bare("\n\nQuestion: what is the secret number?\nAnswer: the secret number is")?;
    let mut keys = Vec::new();
    for i in 0..count {
        // Numbers of five digits that share no beginning.
        let number = 10_000 + (u64::from(i) * 40_503 + 7_919) % 90_000;
        let needle = tokenizer.encode_bare(&format!("\nThe secret number is {number}. Remember it.\n"))?;
        let answer = tokenizer.encode_bare(&format!(" {number}"))?;
        let around = begin.len() + needle.len() + question.len() + answer.len();
        let filler = context.checked_sub(around).filter(|_| !tokens.is_empty()).ok_or_else(|| {
            let message = format!("a context of {context} tokens has no room for a key and its question");
            Error::new(ErrorKind::Usage, message).help(format!("give more than {around}, and a text"))
        })?;
        let depth = (f64::from(i) + 0.5) / f64::from(count);
        let before = (depth * filler as f64) as usize;
        let mut filler = tokens.iter().copied().cycle().take(filler);
        let mut prompt = begin.to_vec();
        prompt.extend(filler.by_ref().take(before));
        prompt.extend(&needle);
        prompt.extend(filler);
        prompt.extend(&question);
        keys.push(Key { depth, found: names(session, &prompt, &answer, seen)? });
    }
    Ok(keys)
}

/// Whether each token of `answer` is the likeliest behind `prompt` and those before it.
fn names(
    session: &mut Session,
    prompt: &[u32],
    answer: &[u32],
    seen: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<bool> {
    let id = session.add_sequence()?;
    session.feed(id, prompt)?;
    let mut found = true;
    for token in answer {
        let mut logits = Vec::new();
        while session.pending(id)? > 0 {
            let step = session.step()?;
            seen(step.tokens)?;
            if let Some((_, row)) = step.logits.into_iter().next() {
                logits = row.map_err(|error| Error::input(error.message))?;
            }
        }
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        found = best == Some(*token as usize);
        if !found {
            break;
        }
        session.feed(id, &[*token])?;
    }
    session.remove_sequence(id)?;
    Ok(found)
}

/// What a layer's attention keeps of its mass in the blocks that it is given, where some were left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Recall {
    /// The layer, and the one that selected.
    pub layer: u32,
    pub oracle: u32,
    /// Over all heads and tokens; of the head that has least.
    pub mean: f64,
    pub worst_head: f64,
    /// Tokens that count.
    pub tokens: usize,
}

/// The recall of each layer that reads a selection. `None` of a layer for which no token of the text had more blocks than it
/// is given: it keeps all.
pub fn recalls(chosen: &Chosen) -> Vec<Option<Recall>> {
    let one = |reader: &Reader| {
        let oracle = chosen.oracles.iter().find(|oracle| oracle.layer == reader.oracle)?;
        let first = oracle.first_that_chooses();
        let heads: Vec<f64> = (reader.recall.iter())
            .filter_map(|head| head.get(first..).filter(|tail| !tail.is_empty()))
            .map(|tail| tail.iter().map(|x| f64::from(*x)).sum::<f64>() / tail.len() as f64)
            .collect();
        let tokens = reader.recall.first().map_or(0, |head| head.len().saturating_sub(first));
        let worst_head = heads.iter().copied().reduce(f64::min)?;
        let mean = heads.iter().sum::<f64>() / heads.len() as f64;
        Some(Recall { layer: reader.layer, oracle: reader.oracle, mean, worst_head, tokens })
    };
    chosen.readers.iter().map(one).collect()
}

/// What must hold: `recall=0.9`, `keys=0.8` at least, `perplexity=12` at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// Of each layer's mean.
    Recall(f64),
    /// The share of keys that are found.
    Keys(f64),
    Perplexity(f64),
}

impl std::str::FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Gate, String> {
        let (name, value) = text.split_once('=').ok_or("write NAME=NUMBER, as recall=0.9")?;
        let value: f64 = value.parse().map_err(|_| format!("`{value}` is no number"))?;
        let range = RANGES.iter().find(|range| range.key == name);
        if let Some(range) = range.filter(|range| !range.holds(value)) {
            return Err(format!("`{name}` is {}", range.wanted()));
        }
        match name {
            "recall" => Ok(Gate::Recall(value)),
            "keys" => Ok(Gate::Keys(value)),
            "perplexity" => Ok(Gate::Perplexity(value)),
            _ => Err("the gates are `recall`, `keys` and `perplexity`".to_string()),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gate::Recall(least) => write!(f, "recall={least}"),
            Gate::Keys(least) => write!(f, "keys={least}"),
            Gate::Perplexity(most) => write!(f, "perplexity={most}"),
        }
    }
}

/// The gates that an artefact has.
pub fn gates(kept: &EvalGates) -> Vec<Gate> {
    let EvalGates { recall, keys, perplexity, context: _ } = *kept;
    let list = [recall.map(Gate::Recall), keys.map(Gate::Keys), perplexity.map(Gate::Perplexity)];
    list.into_iter().flatten().collect()
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Report {
    pub perplexity: Option<Perplexity>,
    pub keys: Option<Vec<Key>>,
    pub recalls: Option<Vec<Option<Recall>>>,
    /// Beside a reference, and what that is called.
    pub against: Option<(String, Comparison)>,
}

impl Report {
    fn found(&self) -> Option<(usize, usize)> {
        let keys = self.keys.as_ref()?;
        Some((keys.iter().filter(|key| key.found).count(), keys.len()))
    }

    /// Errors: the first thing that does not hold.
    pub fn hold(&self, gates: &[Gate]) -> Result<()> {
        for gate in gates {
            let message = match *gate {
                Gate::Perplexity(most) => {
                    let value = self.perplexity.map_or(f64::INFINITY, |perplexity| perplexity.value());
                    (value > most).then(|| format!("perplexity is {value:.4}, above {most}"))
                }
                Gate::Keys(least) => {
                    let (found, all) = self.found().unwrap_or((0, 1));
                    let short = (found as f64) < least * all as f64;
                    short.then(|| format!("{found} of {all} keys were found, fewer than {least} of them"))
                }
                Gate::Recall(least) => {
                    let short = self.recalls.iter().flatten().flatten().find(|recall| recall.mean < least);
                    short.map(|short| {
                        let Recall { layer, oracle, mean, .. } = short;
                        format!("layer {layer} keeps {mean:.4} of its attention in layer {oracle}'s selection, less than {least}")
                    })
                }
            };
            if let Some(message) = message {
                return Err(Error::new(ErrorKind::Gate, message));
            }
        }
        Ok(())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(p) = &self.perplexity {
            let bits = p.bits_per_byte().map_or(String::new(), |bits| format!("; {bits:.4} bits per byte"));
            let windows = if p.windows == 1 { "window" } else { "windows" };
            let Perplexity { tokens, windows: count, .. } = p;
            text += &format!("perplexity {:.4} of {tokens} tokens in {count} {windows}{bits}\n", p.value());
        }
        if let Some((reference, comparison)) = &self.against {
            text += &comparison.text(reference);
        }
        if let (Some(keys), Some((found, all))) = (&self.keys, self.found()) {
            let missed: Vec<String> =
                keys.iter().filter(|key| !key.found).map(|key| format!("{:.2}", key.depth)).collect();
            let where_ = if missed.is_empty() {
                String::new()
            } else {
                format!("; missed at depth {}", missed.join(", "))
            };
            text += &format!("keys {found} of {all} found{where_}\n");
        }
        match self.recalls.as_deref() {
            None => {}
            Some([]) => text += "recall: no layer reads a selection\n",
            Some(recalls) => {
                let row = |r: &Recall| {
                    let [mean, worst] = [r.mean, r.worst_head].map(|x| format!("{x:.4}"));
                    vec![r.layer.to_string(), r.oracle.to_string(), mean, worst, r.tokens.to_string()]
                };
                let rows: Vec<_> = recalls.iter().flatten().map(row).collect();
                text += &match rows.is_empty() {
                    true => "recall 1: no token of the text sees more blocks than are selected\n".to_string(),
                    false => table(&["layer", "selection of", "recall", "worst head", "tokens"], &rows),
                };
            }
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let recall = |r: &Recall| json!({ "layer": r.layer, "oracle": r.oracle, "recall": r.mean, "worst_head": r.worst_head, "tokens": r.tokens });
        json!({
            "perplexity": self.perplexity.map(|p| json!({
                "value": p.value(), "bits_per_byte": p.bits_per_byte(), "tokens": p.tokens, "windows": p.windows,
            })),
            "keys": self.keys.as_ref().map(|keys| {
                keys.iter().map(|key| json!({ "depth": key.depth, "found": key.found })).collect::<Vec<_>>()
            }),
            "recall": self.recalls.as_ref().map(|all| all.iter().flatten().map(recall).collect::<Vec<_>>()),
            "against": self.against.as_ref().map(|(reference, comparison)| comparison.json(reference)),
        })
    }
}

/// Rows of logits of a pass below which a text takes long.
const FEW_OUTPUTS: u64 = 16;

/// What makes an evaluation slow, where something does.
pub fn slow(model: &Arc<Model>) -> Option<String> {
    let outputs = model.plan().model.max_outputs;
    (outputs < FEW_OUTPUTS).then(|| {
        format!("a pass of this model gives logits of {outputs} tokens at most: with `max_outputs = 256` under [target] perplexity takes a fraction of the time\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_read_and_name_what_fails() {
        let kept = EvalGates { recall: Some(0.9), perplexity: Some(12.0), ..EvalGates::default() };
        assert_eq!(gates(&kept), [Gate::Recall(0.9), Gate::Perplexity(12.0)]);
        for gate in gates(&kept) {
            assert_eq!(gate.to_string().parse(), Ok(gate));
        }
        for bad in
            ["recall", "recall=2", "recall=x", "perplexity=0.5", "perplexity=nan", "speed=1", "keys=-1"]
        {
            assert!(bad.parse::<Gate>().is_err(), "{bad}");
        }
        let recall = |layer, mean| Some(Recall { layer, oracle: 0, mean, worst_head: mean, tokens: 9 });
        let report = Report {
            perplexity: Some(Perplexity { tokens: 10, windows: 1, nats: 23.0, bytes: Some(40) }),
            keys: Some(vec![Key { depth: 0.25, found: true }, Key { depth: 0.75, found: false }]),
            recalls: Some(vec![recall(1, 0.95), None, recall(3, 0.8)]),
            against: None,
        };
        assert!(report.hold(&[Gate::Recall(0.8), Gate::Keys(0.5), Gate::Perplexity(10.0)]).is_ok());
        let says = |gate| report.hold(&[gate]).unwrap_err().message;
        assert!(says(Gate::Recall(0.9)).starts_with("layer 3 keeps 0.8000"));
        assert!(says(Gate::Keys(0.6)).starts_with("1 of 2 keys"));
        assert!(says(Gate::Perplexity(9.0)).starts_with("perplexity is 9.97"));
    }
}
