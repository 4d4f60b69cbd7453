//! Changes of a plan behind its code's back, each in a whole and rightly signed artefact, and what becomes of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyc::driver;
use hyc::interp::Interpreter;
use hyc::output::{Kept, Target};
use hyc::source::{WeightSource, Weights};
use hyc::write::{self, Artefact};
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::Plan;
use hyc_plan::bind;
use hyc_runtime::{ErrorKind, LoadOptions, Model, Result, Session, SessionOptions};
use serde_json::{Value, json};

use crate::{relative_error, root};

/// Tokens of the prompt: more than one chunk, more than one window.
const PROMPT: u32 = 150;
/// Tokens after it.
const TOKENS: usize = 8;

/// What a mutant did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An error, with its sentence.
    Refused(String),
    /// The tokens of the plan as it was; with logits that the interpreter of the changed plan gives too.
    Same,
    /// Other tokens, or no numbers, as the interpreter of the changed plan has them: another program.
    Another,
    /// Other numbers than the plan means.
    Wrong(String),
}

/// A compiled model whose plan is to be changed.
pub struct Subject {
    plan: Plan,
    code: Vec<u8>,
    weights: Weights,
    folder: PathBuf,
    tokens: Vec<u32>,
}

impl Subject {
    /// Compiles one of tests/golden and runs it as it is; artefacts go to `folder`.
    pub fn of(name: &str, folder: &Path) -> Subject {
        let model = root().join("tests/golden").join(name).join("model.toml");
        let text = std::fs::read_to_string(&model).expect("a model.toml");
        let desc =
            hyc::frontend::parse_model(&model, &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let level = CpuTarget::host().level;
        let lowered =
            driver::lower(hyc::frontend::build_graph(&desc), level, &mut |_| Ok(())).expect("lowers");
        let mut plan = lowered.plan;
        let code = driver::generate_code(&mut plan, level, false, &|| Ok(())).expect("generates code").blob;
        let weights = Weights::Files(WeightSource::open(&desc.weights.files).expect("opens the weights"));
        let mut subject = Subject { plan, code, weights, folder: folder.to_path_buf(), tokens: Vec::new() };
        let whole = subject.write(&subject.plan, &subject.code);
        // SAFETY: made here, and nobody changes it.
        let model = Arc::new(unsafe { Model::load(whole, &LoadOptions::default()) }.expect("loads"));
        subject.tokens = Run::of(&mut Session::new(model.clone(), &options()), None).expect("runs").tokens;
        subject
    }

    /// The plan as it was compiled.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    fn write(&self, plan: &Plan, code: &[u8]) -> PathBuf {
        let path = self.folder.join("mutant.hyc");
        let artefact = Artefact::bare(&self.plan, code);
        let target = Target::new(&path, &Kept::default()).expect("can be written");
        write::artefact_stating(&target, &artefact, plan, &self.weights, &mut |_| Ok(())).expect("writes");
        path
    }

    /// Loads and runs an artefact that states `plan` beside the code as it was; `renew`: with the plan's digest in the
    /// code made anew as well, so that the verifier and the kernels' digests stand alone.
    pub fn outcome(&self, plan: &Plan, renew: bool) -> Outcome {
        let mut code = self.code.clone();
        if renew {
            bind::seal_plan(plan, &mut code);
        }
        let path = self.write(plan, &code);
        // SAFETY: none; this is what is tried.
        let model = match unsafe { Model::load(path, &LoadOptions::default()) } {
            Ok(model) => Arc::new(model),
            Err(error) => return Outcome::Refused(error.message),
        };
        // Its memory is free again before the interpreter wants as much.
        let ran = Run::of(&mut Session::new(model.clone(), &options()), None);
        match ran {
            Err(error) if error.kind != ErrorKind::BadNumbers => Outcome::Refused(error.message),
            ran => means(&model, ran, &self.tokens),
        }
    }
}

fn options() -> SessionOptions {
    SessionOptions { threads: Some(1), max_tokens: Some(512), ..SessionOptions::default() }
}

/// What a session made of the prompt and [`TOKENS`] greedy tokens after it.
struct Run {
    tokens: Vec<u32>,
    /// After the prompt and after each token.
    logits: Vec<f32>,
}

impl Run {
    /// `told`: the tokens to take, where they are not the likeliest.
    fn of(session: &mut Result<Session>, told: Option<&[u32]>) -> Result<Run> {
        let session = session.as_mut().map_err(|error| error.clone())?;
        let m = session.model().plan().model.clone();
        let vocab = m.vocab.min(u64::from(u32::MAX)) as u32;
        let id = session.add_sequence()?;
        let length = u64::from(PROMPT).min(m.max_context.saturating_sub(TOKENS as u64)).max(1) as u32;
        session.feed(id, &(0..length).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect::<Vec<_>>())?;
        let mut run = Run { tokens: Vec::new(), logits: Vec::new() };
        for i in 0..=TOKENS {
            let logits = loop {
                if let Some((_, logits)) = session.step()?.logits.into_iter().next() {
                    break logits?;
                }
            };
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or(0);
            run.logits.extend(logits);
            if i < TOKENS {
                let token = told.and_then(|told| told.get(i)).copied().unwrap_or(best as u32);
                run.tokens.push(token);
                session.feed(id, &[token])?;
            }
        }
        Ok(run)
    }
}

/// Whether the interpreter, which executes the plan and no code, makes the same of it: every step's logits, or none.
/// `first`: the tokens of the plan as it was.
fn means(model: &Arc<Model>, ran: Result<Run>, first: &[u32]) -> Outcome {
    let mut session = Session::with_kernels(model.clone(), Box::new(Interpreter), &options());
    let theirs = Run::of(&mut session, ran.as_ref().ok().map(|run| &run.tokens[..]));
    match (ran, theirs) {
        (Ok(ours), Ok(theirs)) => {
            let same = ours.logits.len() == theirs.logits.len();
            let error = if same { relative_error(&ours.logits, &theirs.logits) } else { f64::INFINITY };
            match error < 1e-3 {
                true if ours.tokens == first => Outcome::Same,
                true => Outcome::Another,
                false => {
                    Outcome::Wrong(format!("the code's logits and the interpreter's differ by {error:.1e}"))
                }
            }
        }
        (Err(_), Err(theirs)) if theirs.kind == ErrorKind::BadNumbers => Outcome::Another,
        (Ok(_), Err(theirs)) => {
            Outcome::Wrong(format!("the interpreter refuses what the code does: {theirs}"))
        }
        (Err(ours), _) => Outcome::Wrong(format!("the interpreter does what the code does not: {ours}")),
    }
}

/// The parts that are changed, as often as they stand here.
const PARTS: [&str; 10] =
    ["/model", "/steps", "/steps", "/steps", "/kernels", "/kernels", "/buffers", "/buffers", "/caches", ""];

/// A plan with one to three changes, and what they are; `next(n)` draws from `0..n`. `None`: what came out is no plan, or
/// the same one.
pub fn mutate(plan: &Plan, next: &mut dyn FnMut(usize) -> usize) -> Option<(Plan, String)> {
    let mut value = serde_json::to_value(plan).ok()?;
    let mut what = Vec::new();
    for _ in 0..1 + next(3) {
        let part = PARTS[next(PARTS.len())];
        let mut paths = Vec::new();
        walk(value.pointer(part)?, part.to_string(), &mut paths);
        let path = paths.get(next(paths.len().max(1)))?.clone();
        what.push(change(&mut value, &path, next)?);
    }
    let mutant: Plan = serde_json::from_value(value).ok()?;
    (mutant != *plan).then(|| (mutant, what.join("; ")))
}

/// Pointers to whatever can be changed: leaves, and lists of more than one.
fn walk(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, format!("{path}/{key}"), out)),
        Value::Array(list) => {
            if list.len() > 1 {
                out.push(path.clone());
            }
            list.iter().enumerate().for_each(|(i, value)| walk(value, format!("{path}/{i}"), out));
        }
        _ => out.push(path),
    }
}

fn change(root: &mut Value, path: &str, next: &mut dyn FnMut(usize) -> usize) -> Option<String> {
    // What the same field of another entry says, where there is one.
    let sibling = sibling(path, next).and_then(|other| root.pointer(&other).cloned());
    let value = root.pointer_mut(path)?;
    let before = value.to_string();
    if let Value::Array(list) = value {
        let (a, b) = (next(list.len()), next(list.len()));
        let how = ["swapped", "repeated", "dropped", "replaced"][next(4)];
        match how {
            "swapped" => list.swap(a, b),
            "repeated" => list.insert(b, list[a].clone()),
            "dropped" => drop(list.remove(a)),
            _ => list[a] = list[b].clone(),
        }
        return Some(format!("{path}: {a} and {b} {how}"));
    }
    *value = match (&*value, sibling) {
        (_, Some(sibling)) if next(3) == 0 => sibling,
        (Value::Number(n), _) => match n.as_u64() {
            Some(n) => json!(number(n, next)),
            None => json!(n.as_f64()? * [0.5, 2.0, -1.0, 0.0][next(4)]),
        },
        (Value::Bool(b), _) => json!(!b),
        (Value::String(_), _) => {
            json!(["f32", "bf16", "i32", "tokens", "outputs", "growing", "cpu", "one", "x"][next(9)])
        }
        _ => return None,
    };
    Some(format!("{path}: {before} -> {value}"))
}

/// The same field of another entry of the list that `path` goes through last but one.
fn sibling(path: &str, next: &mut dyn FnMut(usize) -> usize) -> Option<String> {
    let mut parts: Vec<String> = path.split('/').map(str::to_string).collect();
    let at = parts.iter().rposition(|part| part.parse::<usize>().is_ok())?;
    parts[at] = next(parts[at].parse::<usize>().ok()? + 8).to_string();
    Some(parts.join("/"))
}

fn number(n: u64, next: &mut dyn FnMut(usize) -> usize) -> u64 {
    match next(14) {
        0 => 0,
        1 => 1,
        2 => n.wrapping_add(1),
        3 => n.wrapping_sub(1),
        4 => n.wrapping_mul(2),
        5 => n / 2,
        6 => n.wrapping_add(64),
        7 => n.wrapping_sub(64),
        8 => n.wrapping_mul(4),
        9 => i32::MAX as u64,
        10 => 1 << 45,
        11 => u64::MAX,
        12 => next(64) as u64,
        _ => next(1 << 16) as u64,
    }
}
