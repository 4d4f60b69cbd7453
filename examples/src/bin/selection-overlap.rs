//! How much the selections of neighbouring tokens, of KV heads and of oracle layers overlap, in any artefact.
//!
//! `selection-overlap MODEL.hyc PLOT.svg NAME=FILE ...`: FILE is text, or a safetensors file with `prompts`
//! (u16, 65535 fills the end). Prints a Markdown table; the plot has distinct blocks by neighbours.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyc_runtime::plan::{Operand, StepOp, ops};
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions, Tokenizer, Values};
use safetensors::SafeTensors;

const CONTEXTS: [usize; 3] = [1024, 2048, 4096];
const NEIGHBOURS: [usize; 3] = [8, 32, 64];
/// Prompts of a source that are run, and tokens before each context's end that are looked at.
const PROMPTS: usize = 4;
const LAST: usize = 256;

type AnyError = Box<dyn std::error::Error>;

/// `[token][kv_head]` sets of blocks of one oracle layer.
type Selected = Vec<Vec<BTreeSet<i32>>>;

/// Sums of a measure.
#[derive(Default, Clone, Copy)]
struct Mean(f64, f64);

impl Mean {
    fn add(&mut self, x: f64) {
        self.0 += x;
        self.1 += 1.0;
    }

    fn get(self) -> f64 {
        self.0 / self.1.max(1.0)
    }
}

fn main() -> Result<(), AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, plot, sources @ ..] = &args[..] else {
        return Err("usage: selection-overlap MODEL.hyc PLOT.svg NAME=FILE ...".into());
    };
    // SAFETY: whoever names the artefact asks for this program to be run.
    let model = Arc::new(unsafe { Model::load(model, &LoadOptions::default()) }?);
    let mut table = String::from(
        "| source | context | layer | KV head | distinct of 8 | of 32 | of 64 | (uniform) | other head | other layer |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut curves: BTreeMap<String, [Mean; 3]> = BTreeMap::new();
    for source in sources {
        let (name, file) = source.split_once('=').ok_or("a source is NAME=FILE")?;
        let prompts = prompts(&model, file)?;
        for context in CONTEXTS {
            let runs: Vec<_> = prompts
                .iter()
                .filter(|prompt| prompt.len() + 32 >= context)
                .map(|prompt| run(&model, &prompt[..context.min(prompt.len())]))
                .collect::<Result<_, _>>()?;
            if !runs.is_empty() {
                table.push_str(&rows(&model, name, context, &runs, &mut curves));
            }
        }
    }
    println!("{table}");
    std::fs::write(plot, svg(&curves))?;
    Ok(())
}

fn prompts(model: &Model, file: &str) -> Result<Vec<Vec<u32>>, AnyError> {
    let bytes = std::fs::read(file).map_err(|e| format!("{file}: {e}"))?;
    let longest = CONTEXTS[CONTEXTS.len() - 1];
    if let Ok(tensors) = SafeTensors::deserialize(&bytes) {
        let view = tensors.tensor("prompts")?;
        let width = *view.shape().last().ok_or("prompts have no shape")?;
        let ids: Vec<u32> =
            view.data().chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))).collect();
        let rows = ids.chunks(width).take(PROMPTS);
        return Ok(rows.map(|row| row.iter().copied().filter(|id| *id != 65535).collect()).collect());
    }
    let tokens = Tokenizer::of(model)?.encode(std::str::from_utf8(&bytes)?)?;
    Ok(tokens.chunks_exact(longest).take(PROMPTS).map(<[u32]>::to_vec).collect())
}

/// The selections of every oracle layer over one prompt.
fn run(model: &Arc<Model>, prompt: &[u32]) -> Result<BTreeMap<u32, Selected>, AnyError> {
    let mut session =
        Session::new(model.clone(), &SessionOptions { max_sequences: Some(1), ..Default::default() })?;
    let id = session.add_sequence()?;
    session.feed(id, prompt)?;
    let mut selected: BTreeMap<u32, Selected> = BTreeMap::new();
    while session.pending(id)? > 0 {
        session.step_observed(&mut |step, engine| {
            let (StepOp::OracleAttention(ops::OracleAttention { select, .. }), Some(layer)) =
                (step.op, step.layer)
            else {
                return;
            };
            let Some(Operand::Buffer(at)) = step.operands.last() else { return };
            let Ok(Values::I32(list)) = engine.buffer(*at) else { return };
            let tokens = list.chunks((select.kv_heads * select.blocks) as usize);
            let sets = |token: &[i32]| {
                let heads = token.chunks(select.blocks as usize);
                heads.map(|head| head.iter().copied().filter(|block| *block >= 0).collect()).collect()
            };
            selected.entry(layer).or_default().extend(tokens.map(sets));
        })?;
    }
    Ok(selected)
}

fn select_shape(model: &Model) -> (usize, usize) {
    let shape = model.plan().steps.iter().find_map(|step| match step.op {
        StepOp::OracleAttention(ops::OracleAttention { select, .. }) => {
            Some((select.block as usize, select.blocks as usize))
        }
        _ => None,
    });
    shape.unwrap_or((1, 1))
}

fn rows(
    model: &Model,
    name: &str,
    context: usize,
    runs: &[BTreeMap<u32, Selected>],
    curves: &mut BTreeMap<String, [Mean; 3]>,
) -> String {
    let (block, kept) = select_shape(model);
    let uniform = NEIGHBOURS.map(|n| {
        let visible = (context as f64 / block as f64).ceil();
        visible * (1.0 - (1.0 - (kept as f64 / visible).min(1.0)).powi(n as i32))
    });
    let layers: Vec<u32> = runs[0].keys().copied().collect();
    let mut out = String::new();
    for layer in &layers {
        let heads = runs[0][layer][0].len();
        for head in 0..heads {
            let mut distinct = [Mean::default(); 3];
            let (mut other_head, mut other_layer) = (Mean::default(), Mean::default());
            for run in runs {
                let tokens = &run[layer];
                let first = tokens.len().saturating_sub(LAST);
                for (i, n) in NEIGHBOURS.iter().enumerate() {
                    for group in tokens[first..].chunks_exact(*n) {
                        let union: BTreeSet<i32> =
                            group.iter().flat_map(|token| &token[head]).copied().collect();
                        distinct[i].add(union.len() as f64);
                    }
                }
                for t in first..tokens.len() {
                    let shared = |other: &BTreeSet<i32>| {
                        let own = &tokens[t][head];
                        own.intersection(other).count() as f64 / own.len().max(1) as f64
                    };
                    (0..heads).filter(|h| *h != head).for_each(|h| other_head.add(shared(&tokens[t][h])));
                    layers
                        .iter()
                        .filter(|l| *l != layer)
                        .for_each(|l| other_layer.add(shared(&run[l][t][head])));
                }
            }
            let d = distinct.map(Mean::get);
            out.push_str(&format!(
                "| {name} | {context} | {layer} | {head} | {:.1} | {:.1} | {:.1} | {:.1} {:.1} {:.1} | {:.0} % | {:.0} % |\n",
                d[0],
                d[1],
                d[2],
                uniform[0],
                uniform[1],
                uniform[2],
                100.0 * other_head.get(),
                100.0 * other_layer.get()
            ));
            let curve = curves.entry(format!("{name}, {context}")).or_default();
            d.iter().zip(curve.iter_mut()).for_each(|(d, mean)| mean.add(*d));
            let random = curves.entry(format!("uniform, {context}")).or_default();
            uniform.iter().zip(random.iter_mut()).for_each(|(u, mean)| mean.add(*u));
        }
    }
    out
}

/// Distinct blocks by neighbours, one line per source and context.
fn svg(curves: &BTreeMap<String, [Mean; 3]>) -> String {
    let most = curves.values().flatten().map(|m| m.get()).fold(1.0, f64::max);
    let (x, y) = (|i: usize| 60.0 + 130.0 * i as f64, |v: f64| 330.0 - 290.0 * v / most);
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"560\" height=\"380\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"560\" height=\"380\" fill=\"white\"/>\n\
         <text x=\"60\" y=\"20\">distinct blocks chosen by neighbouring tokens (mean over layers and KV heads)</text>\n",
    );
    for (i, n) in NEIGHBOURS.iter().enumerate() {
        out.push_str(&format!("<text x=\"{}\" y=\"350\" text-anchor=\"middle\">{n} tokens</text>\n", x(i)));
    }
    for step in 0..=4 {
        let v = most * f64::from(step) / 4.0;
        out.push_str(&format!(
            "<line x1=\"50\" x2=\"330\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"44\" y=\"{1:.1}\" text-anchor=\"end\">{v:.0}</text>\n",
            y(v),
            y(v) + 4.0
        ));
    }
    for (i, (name, means)) in curves.iter().enumerate() {
        let hue = 360 * i / curves.len().max(1);
        let dash = if name.starts_with("uniform") { " stroke-dasharray=\"4 3\"" } else { "" };
        let points: Vec<String> =
            means.iter().enumerate().map(|(i, m)| format!("{:.1},{:.1}", x(i), y(m.get()))).collect();
        let colour = format!("hsl({hue},70%,40%)");
        out.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n\
             <text x=\"350\" y=\"{}\" fill=\"{colour}\">{name}</text>\n",
            points.join(" "),
            60 + 18 * i
        ));
    }
    out + "</svg>\n"
}
