//! Whole models on a GPU: against PyTorch's golden tensors where there are some, else against the plan
//! interpreter; other chunks, decode and ragged batches; and the trained model's planted keys.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use hyc::diff::{Found, Options, diff};
use hyc::interp::Interpreter;
use hyc_plan::{KvCodec, Layout, Plan, Step, StepOp, ops};
use hyc_runtime::{GpuOptions, LoadOptions, Model, Session, SessionOptions};
use hyc_tests::parity::{check_caches, check_selections, run, run_batch, run_pieces, tokens};
use hyc_tests::retrieval::{Other, Prompts, decode};
use hyc_tests::{Golden, Table, each_artefact, relative_error, root_mean_square, text};

/// Compare GPU artefacts with PyTorch's tensors and with the plan interpreter
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts
    #[arg(default_value = "target/gpu/models")]
    folder: PathBuf,
    /// The repository, for its golden tensors
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
    /// Make up the weights of artefacts compiled with `--no-weights`
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    /// Prompts of the trained model
    #[arg(long, default_value_t = 100)]
    prompts: usize,
}

/// Relative errors of logits that count as equal.
struct Limits {
    /// Against PyTorch.
    golden: f64,
    /// Against the interpreter, and of one schedule against another.
    own: f64,
}

// Each limit is twice what an H100 measured.

/// All arithmetic is in f32.
const F32: Limits = Limits { golden: 4e-6, own: 3e-6 };
/// The same where appends round keys and values to bf16: now and then another way than the interpreter.
const F32_BF16_KV: Limits = Limits { golden: 4e-6, own: 1e-3 };
/// Products round their inputs to bf16, or appends round keys and values.
const BF16: Limits = Limits { golden: 2e-2, own: 2e-2 };
/// The same where rounding changes what is chosen: near ties between blocks.
const BF16_BLOCKS: Limits = Limits { golden: 1.2e-1, own: 1.2e-1 };
/// Or keys and values between codes of E4M3, which are an eighth apart.
const BF16_FP8_KV: Limits = Limits { golden: 5.6e-2, own: 5.6e-2 };
/// Or between experts.
const BF16_EXPERTS: Limits = Limits { golden: 1.6e-1, own: 1.6e-1 };
/// Products round rows to E4M3: a number that another rounding has moved past the middle of two is then an eighth off. Steps of
/// fewer rows do not.
const FP8_ROWS: Limits = Limits { golden: 2.6e-1, own: 2.6e-1 };
/// PyTorch's token may be another where it was less than this above the next, all arithmetic being in f32.
const TIE: f32 = 1e-3;
/// Tokens of a model that has no golden tensors.
const TOKENS: usize = 600;

fn main() -> ExitCode {
    let args = Args::parse();
    each_artefact(&args.folder, &args.filter, &mut |path, name, table| model(&args, path, name, table))
}

/// Whether products round their inputs to bf16.
fn rounds_products(plan: &Plan) -> bool {
    plan.weights.iter().any(|w| matches!(w.format.layout, Layout::Tiles { .. } | Layout::Strips { .. }))
        || plan.caches.iter().any(|cache| cache.order == hyc_plan::KvOrder::Tiles)
}

/// Whether the plan's arithmetic rounds to bf16 anywhere.
fn rounds(plan: &Plan) -> bool {
    rounds_products(plan) || plan.caches.iter().any(|cache| cache.codec != KvCodec::F32)
}

/// A model compiled with `--activations f32` is named after its description with this behind.
const F32_NAME: &str = "-f32";

fn limits(plan: &Plan) -> Limits {
    let blocks = |step: &Step| {
        matches!(step.op, StepOp::OracleAttention(ops::OracleAttention { select, .. })
        if select.blocks * select.block < plan.model.max_context)
    };
    let experts = |step: &Step| matches!(step.op, StepOp::Router(ops::Router { experts, active, .. }) if active < experts);
    match rounds_products(plan) {
        true if plan.steps.iter().any(|step| step.op.fp8_rows().is_some()) => FP8_ROWS,
        true if plan.steps.iter().any(experts) => BF16_EXPERTS,
        true if plan.steps.iter().any(blocks) => BF16_BLOCKS,
        true if plan.caches.iter().any(|cache| cache.codec == KvCodec::Fp8) => BF16_FP8_KV,
        true => BF16,
        false if rounds(plan) => F32_BF16_KV,
        false => F32,
    }
}

fn model(args: &Args, path: &Path, name: &str, table: &mut Table) -> Result<(), String> {
    let options = LoadOptions { random_weights: args.random_weights, ..LoadOptions::default() };
    // SAFETY: tests/gpu/build.sh made it.
    let model = Arc::new(unsafe { Model::load(path, &options) }.map_err(text)?);
    if name.starts_with("tiny-hysparse") {
        return planted(args, &model, name, table);
    }
    let limits = limits(model.plan());
    let described = name.strip_suffix(F32_NAME).unwrap_or(name);
    let tensors = |folder: &str| args.root.join(folder).join(described).join("golden.safetensors");
    // A checkpoint's golden tensors are its logits, no more.
    let checkpoint = tensors("tests/families").exists();
    let golden = tensors(if checkpoint { "tests/families" } else { "tests/golden" });
    let golden = golden.exists().then(|| Golden::open(&golden));
    let tokens = golden.as_ref().map_or_else(|| random_tokens(model.plan()), tokens);
    let mut session = Session::new(model.clone(), &SessionOptions::default()).map_err(text)?;
    let whole = run(&mut session, &tokens).map_err(text)?;
    let mut right = true;
    if let Some(golden) = &golden {
        let (_, want) = golden.f32("logits").ok_or("there are no golden logits")?;
        right &= table.error(name, "logits, PyTorch", relative_error(&whole.logits, &want), limits.golden);
    }
    if let (Some(golden), false, true) = (&golden, checkpoint, limits.golden == F32.golden) {
        let same = check_selections(&whole, golden, 1e-4).map(|lists| format!("{lists:?}"));
        table.row(name, "selections, PyTorch", same);
        let caches = check_caches(&session, golden, tokens.len() as u64, limits.golden);
        table.row(name, "caches, PyTorch", caches.map(|error| format!("{error:.1e}")));
    }
    let mut interpreter =
        Session::with_kernels(model.clone(), Box::new(Interpreter), &SessionOptions::default())
            .map_err(text)?;
    let reference = run(&mut interpreter, &tokens).map_err(text)?;
    if whole.hidden.len() != reference.hidden.len() {
        return Err(format!(
            "{} numbers of a hidden state of {}",
            whole.hidden.len(),
            reference.hidden.len()
        ));
    }
    if !reference.hidden.is_empty() {
        let error = relative_error(&whole.hidden, &reference.hidden);
        right &= table.error(name, "hidden, interpreter", error, limits.own);
    }
    let want = reference.logits;
    right &= table.error(name, "logits, interpreter", relative_error(&whole.logits, &want), limits.own);
    let (usual, ones) = (SessionOptions::default(), vec![1; tokens.len()]);
    let sliced = GpuOptions { slices: true, ..GpuOptions::default() };
    let sliced = SessionOptions { gpu: sliced, ..SessionOptions::default() };
    let slices = (!model.plan().slices.is_empty()).then(|| ("slices, interpreter", &sliced, ones.clone()));
    let checks = [
        ("decode, interpreter", &usual, ones),
        ("pieces, interpreter", &usual, vec![7, 64, 1, 1, 50, 80, tokens.len()]),
    ];
    for (check, options, pieces) in checks.into_iter().chain(slices) {
        let logits = run_pieces(&model, options, &tokens, &pieces).map_err(text)?;
        right &= table.error(name, check, relative_error(&logits, &want), limits.own);
    }
    let part = |from: usize, to: usize| &tokens[tokens.len() * from / 20..tokens.len() * to / 20];
    let parts = [part(0, 9), &tokens[5..6], part(10, 17)];
    let together = run_batch(&model, &parts, &tokens[..3]).map_err(text)?;
    let mut worst = 0f64;
    for (part, together) in parts.iter().zip(&together) {
        let alone = run_batch(&model, &[part], &tokens[..3]).map_err(text)?;
        let error = relative_error(together, &alone[0]);
        // `max` would drop a NaN.
        worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
    }
    right &= table.error(name, "ragged batch, alone", worst, limits.own);
    let worst = shared_beginnings(&model, &tokens, &whole.logits).map_err(text)?;
    right &= table.error(name, "fork, truncate, prefix", worst, limits.own);
    if !right {
        println!("{:<16} {}", "", first_difference(&model, limits.own));
    }
    Ok(())
}

/// The worst error of the logits of a fork, of a sequence from which tokens were taken back, and of one that begins with
/// a stored prefix, beside `whole`, those of a sequence that was fed all of `tokens`.
fn shared_beginnings(model: &Arc<Model>, tokens: &[u32], whole: &[f32]) -> hyc_runtime::Result<f64> {
    let vocab = model.plan().model.vocab as usize;
    let options = SessionOptions { prefixes: 1, ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options)?;
    session.set_all_logits(true);
    let feed = |session: &mut Session, id, from: usize, to: usize| {
        session.feed(id, &tokens[from..to])?;
        let mut rows = Vec::new();
        while session.pending(id)? > 0 {
            for (_, row) in session.step()?.logits {
                rows.extend(row?);
            }
        }
        let error = relative_error(&rows, &whole[from * vocab..to * vocab]);
        // `max` would drop a NaN.
        Ok(if error.is_nan() { f64::INFINITY } else { error })
    };
    // Inside a page, whatever its size.
    let (cut, end) = ((tokens.len() / 2) | 1, tokens.len());
    let id = session.add_sequence()?;
    let mut worst: f64 = feed(&mut session, id, 0, cut)?;
    let fork = session.fork(id)?;
    worst = worst.max(feed(&mut session, fork, cut, end)?);
    let back = end.saturating_sub(20).max(cut);
    session.truncate(fork, back as u64)?;
    worst = worst.max(feed(&mut session, fork, back, end)?);
    session.remove_sequence(fork)?;
    session.save_prefix(id, cut as u64)?;
    // The one that was forked from has its own last page.
    worst = worst.max(feed(&mut session, id, cut, end)?);
    session.remove_sequence(id)?;
    let (id, held) = session.add_sequence_with_prefix(tokens)?;
    worst = worst.max(feed(&mut session, id, held as usize, end)?);
    let expected = cut as u64 / model.plan().model.page * model.plan().model.page;
    Ok(if held == expected { worst } else { f64::INFINITY })
}

/// The first step that differs from the interpreter's.
fn first_difference(model: &Arc<Model>, tolerance: f64) -> String {
    let options = Options { tokens: model.plan().model.max_context.min(130), seed: 3, tolerance };
    match diff(model, &SessionOptions::default(), &options) {
        Ok(report) => match report.found {
            Found::Equal => format!("hyc diff: worst {:.1e} in {}", report.worst, report.worst_step),
            first => format!("hyc diff: {first:?}"),
        },
        Err(e) => format!("hyc diff: {e}"),
    }
}

fn random_tokens(plan: &Plan) -> Vec<u32> {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % plan.model.vocab) as u32
    };
    std::iter::repeat_with(next).take(TOKENS.min(plan.model.max_context as usize)).collect()
}

/// Greedy decoding gives PyTorch's tokens, save ties. Where products read bf16, each logit may be off by what
/// [`BF16`] allows, 2 % of their root mean square, and the difference of two by three times the square root of 2 of that.
fn planted(args: &Args, model: &Arc<Model>, name: &str, table: &mut Table) -> Result<(), String> {
    let prompts = Prompts::open(&args.root.join("examples/tiny-hysparse/retrieval.safetensors"));
    let count = args.prompts.min(prompts.prompts.len());
    let mut session = Session::new(model.clone(), &SessionOptions::default()).map_err(text)?;
    let report = decode(&mut session, model, &prompts, count).map_err(text)?;
    let (mut ties, mut wrong) = (Vec::new(), Vec::new());
    for o in &report.others {
        let tie = match rounds(model.plan()) {
            true => {
                let size = size_of_logits(&mut session, &prompts, o).map_err(text)?;
                3.0 * std::f32::consts::SQRT_2 * BF16.own as f32 * size
            }
            false => TIE,
        };
        let line =
            format!("prompt {} token {} {:?} margin {:.3} of {tie:.3}", o.prompt, o.token, o.ids, o.margin);
        if o.margin < tie { &mut ties } else { &mut wrong }.push(line);
    }
    let found = format!(
        "{count} prompts, {} keys right, {} ties: {}",
        report.keys_right,
        ties.len(),
        ties.join(", ")
    );
    let result =
        if wrong.is_empty() { Ok(found) } else { Err(format!("{found}; wrong: {}", wrong.join(", "))) };
    table.row(name, "planted keys, PyTorch", result);
    Ok(())
}

/// Of the logits where a token differs.
fn size_of_logits(session: &mut Session, prompts: &Prompts, other: &Other) -> hyc_runtime::Result<f32> {
    let id = session.add_sequence()?;
    session.feed(id, &prompts.prompts[other.prompt])?;
    session.feed(id, &prompts.expected[other.prompt][..other.token])?;
    let logits = loop {
        if let Some((_, logits)) = session.step()?.logits.into_iter().find(|(sequence, _)| *sequence == id) {
            break logits?;
        }
    };
    session.remove_sequence(id)?;
    Ok(root_mean_square(&logits))
}
