//! `hyc bench`.

use std::path::PathBuf;
use std::time::Instant;

use hyc_plan::{ModelInfo, TargetKind};
use hyc_runtime::{LoadOptions, SessionOptions};
use serde_json::json;

use super::destination::keep_model;
use crate::error::{Error, ErrorKind, Result};
use crate::measure::{self, Bench, KernelTime, Limits, Point};
use crate::output::{Kept, Sink};
use crate::report::table;
use crate::signal;
use crate::terminal;
use crate::workload::{Routing, Selection, Workload};

/// Measure prefill and decode, beside the machine's own limits
///
/// The limits are measured in the same run: the read bandwidth and the multiply-add rate of a processor, the copy
/// bandwidth of a GPU (bytes read and written, together). The floor of decode is bytes over bandwidth: all
/// weights, and the KV that the step reads. Decode runs on caches that are filled with noise, so that a long
/// context can be measured without its prefill. A GPU's decode steps are replays of a captured graph; its kernels
/// are timed by its own clock, in passes of their own. Sizes above the model's own are measured at its limit.
///
/// Examples:
///   hyc bench model.hyc
///   hyc bench model.hyc --context 512,8192,32768 --batch 1,8,64 --json
///   hyc bench model.hyc --context 32768 --kernels                      where the time goes
///   hyc bench model.hyc --repeat 5                                     the median, with the spread
///   hyc bench big.hyc --random-weights 1 --peak-tflops 989             no weights needed
///   hyc bench clocked.hyc --timeline step.json                         one step, launch by launch
///   hyc bench big.hyc --random-weights 1 --selection pretrained        select as a trained model would
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// Contexts to decode at, in tokens
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    context: Vec<u64>,
    /// Sequences of a decode step, all at the same context
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "SEQUENCES")]
    batch: Vec<u64>,
    /// Prompts to prefill, in tokens
    #[arg(long, value_delimiter = ',', default_value = "512", value_name = "TOKENS")]
    prefill: Vec<u64>,
    /// Decode steps measured at each context; the median counts
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    steps: u32,
    /// Measure everything this many times: the median counts, with the least and the most beside it
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Print the time of each kernel too
    #[arg(long)]
    kernels: bool,
    /// The machine's matrix rate, to set prefill beside; a processor's is measured
    #[arg(long, value_name = "TFLOPS", allow_negative_numbers = true)]
    peak_tflops: Option<f64>,
    #[command(flatten)]
    gpu: super::GpuArgs,
    #[command(flatten)]
    threads: super::ThreadArgs,
    /// Random weights of this seed, for an artefact compiled with --no-weights
    #[arg(long, value_name = "SEED")]
    random_weights: Option<u64>,
    /// Let prefills run on selections of blocks that are made up so: random weights select as no trained model does
    #[arg(long, value_name = "KIND")]
    selection: Option<Selection>,
    /// Let prefills run on choices of experts that are made up so
    #[arg(long, value_name = "KIND")]
    routing: Option<Routing>,
    /// Write the last decode step by the clocks of a GPU's blocks to this file, as a Chrome trace, for an artefact compiled with
    /// --clocks
    #[arg(long, value_name = "FILE")]
    timeline: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// What a machine's rate may be, in TFLOP/s: any other is a slip, and its quotients no numbers.
const PEAKS: std::ops::RangeInclusive<f64> = 1e-6..=1e9;

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {});
    if args.peak_tflops.is_some_and(|peak| !(PEAKS.contains(&peak))) {
        return Err(Error::new(ErrorKind::Usage, "--peak-tflops is not a rate")
            .help("give a number from 0.000001 to 1000000000"));
    }
    let mut kept = Kept::of_process();
    keep_model(&mut kept, &args.model, None);
    let sink = args.timeline.as_deref().map(|file| Sink::new(Some(file), &kept)).transpose()?;
    let start = Instant::now();
    let load = LoadOptions { random_weights: args.random_weights, ..LoadOptions::default() };
    let model = super::load(&args.model, &load, false)?;
    if sink.is_some() && !model.plan().is_clocked() {
        return Err(Error::input("this artefact's code writes down no times of its blocks".to_string())
            .help("compile the model with `--target sm_90a --clocks`"));
    }
    let mut notes = Vec::new();
    let wanted = Wanted::of(&args, &model.plan().model, &mut notes)?;
    let sizes = measure::sizes(&model, &wanted.contexts, &wanted.batches, &wanted.prefill)?;
    let options = SessionOptions {
        threads: args.threads.threads(),
        gpu: args.gpu.options(),
        ..SessionOptions::default()
    };
    let mut bench = Bench::new(&model, &options, sizes, args.peak_tflops.map(|peak| peak * 1e12))?;
    bench.workload = Workload { selection: args.selection, routing: args.routing };
    let load_seconds = start.elapsed().as_secs_f64();
    let (prefill, decode) = points(&mut bench, &args, &wanted)?;
    let timeline = sink
        .zip(decode.last())
        .map(|(sink, last)| timeline(&mut bench, model.plan(), (last.tokens, last.batch), &sink))
        .transpose()?;
    let (info, limits) = (model.plan(), bench.limits);
    let on_gpu = !info.target.is_host();
    notes.extend(made_up(&bench.workload, info, &wanted.prefill));
    notes.extend(too_fast(&prefill, &decode, &limits, args.kernels || args.json, on_gpu));
    if args.json {
        let list = |points: &[Point]| points.iter().map(|p| json_of(p, &limits)).collect::<Vec<_>>();
        return terminal::print(&super::json(json!({
            "model": info.model.name, "target": info.target.kind().name(), "threads": options.thread_count(),
            "load_seconds": load_seconds, "memory_bytes": bench.memory.total(),
            "bytes_per_s": limits.bytes_per_s, "flop_per_s": limits.flop_per_s, "repeat": args.repeat,
            "prefill": list(&prefill), "decode": list(&decode), "notes": notes,
        })));
    }
    let mut out = heading(&info.model.name, info.target.kind(), options.thread_count(), &limits);
    for points in [&prefill, &decode] {
        let Some(first) = points.first() else { continue };
        let rows: Vec<_> = points.iter().map(|p| row(p, &limits, args.repeat > 1)).collect();
        let mut header = match first.batch {
            0 => vec!["prefill", "s", "tok/s", "TFLOP/s", "of peak"],
            _ => vec!["decode at", "batch", "ms per step", "tok/s", "MB per step", "GB/s", "of bandwidth"],
        };
        header.extend((args.repeat > 1).then_some("least to most"));
        out.push_str(&format!("\n{}", table(&header, &rows)));
    }
    for point in prefill.iter().chain(&decode).filter(|_| args.kernels) {
        out.push_str(&format!("\n{}", kernel_table(point, &limits)));
    }
    if let Some(summary) = timeline {
        out.push_str(&format!("\n{summary}"));
    }
    if !notes.is_empty() {
        let lines: Vec<String> = notes.iter().map(|note| format!("note: {note}\n")).collect();
        out.push_str(&format!("\n{}", lines.concat()));
    }
    terminal::print(&out)
}

/// Writes the trace of the last decode step. Returns where its time went. Errors: the file; a device's.
fn timeline(bench: &mut Bench<'_>, plan: &hyc_plan::Plan, last: (u64, u64), sink: &Sink) -> Result<String> {
    let launches = bench.launch_times()?;
    let trace = crate::timeline::trace(plan, &launches);
    sink.write(&(trace.to_string() + "\n").into_bytes())?;
    let (context, batch) = last;
    let bytes = |step: usize| bench.step_bytes(step, context, batch);
    Ok(crate::timeline::summary(&launches, &bytes))
}

/// What is measured.
struct Wanted {
    contexts: Vec<u64>,
    batches: Vec<u64>,
    prefill: Vec<u64>,
}

impl Wanted {
    /// What the arguments ask for, within what the model was compiled for. Errors: sizes of 0.
    fn of(args: &Args, model: &ModelInfo, notes: &mut Vec<String>) -> Result<Wanted> {
        let rows = model.max_batch.min(model.max_outputs).min(model.chunk);
        let mut within = |what: &str, list: &[u64], most: u64| {
            let mut kept: Vec<u64> = Vec::new();
            for n in list {
                if *n == 0 {
                    return Err(Error::new(ErrorKind::Usage, format!("a {what} of 0 cannot be measured"))
                        .help(format!("give 1 to {most}")));
                }
                if *n > most {
                    notes.push(format!(
                        "a {what} of {n} is measured at {most}, which the model was compiled for"
                    ));
                }
                if !kept.contains(n.min(&most)) {
                    kept.push(*n.min(&most));
                }
            }
            Ok(kept)
        };
        Ok(Wanted {
            contexts: within("context", &args.context, model.max_context)?,
            batches: within("batch", &args.batch, rows)?,
            prefill: within("prompt", &args.prefill, model.max_context)?,
        })
    }
}

/// All prefills, then all decode steps.
fn points(bench: &mut Bench<'_>, args: &Args, wanted: &Wanted) -> Result<(Vec<Point>, Vec<Point>)> {
    let (kernels, check) = (args.kernels || args.json, || signal::check("measuring"));
    let mut prefill = Vec::new();
    for n in &wanted.prefill {
        let rounds = (0..args.repeat).map(|_| bench.prefill(*n, kernels, &check)).collect::<Result<_>>()?;
        prefill.extend(measure::median(rounds));
    }
    bench.fill()?;
    let mut decode = Vec::new();
    for (context, batch) in wanted.contexts.iter().flat_map(|c| wanted.batches.iter().map(move |b| (*c, *b)))
    {
        let mut round = || bench.decode(context, batch, args.steps as usize, kernels, &check);
        let rounds = (0..args.repeat).map(|_| round()).collect::<Result<_>>()?;
        decode.extend(measure::median(rounds));
    }
    Ok((prefill, decode))
}

/// What was selected and chosen in prefills where it was made up.
fn made_up(workload: &Workload, plan: &hyc_plan::Plan, prompts: &[u64]) -> Vec<String> {
    let mut notes = Vec::new();
    for tokens in prompts {
        if let Some(overlaps) = workload.overlaps(plan, *tokens) {
            let list: Vec<String> = overlaps.iter().map(|(n, u)| format!("U({n}) {u:.2}")).collect();
            notes.push(format!(
                "made-up selections; distinct blocks of neighbours over those of one, in the last chunk of {tokens}: {}",
                list.join(", ")
            ));
        }
        if let Some((touched, all)) = workload.touched(plan, plan.model.chunk.min(*tokens)) {
            notes.push(format!("made-up routing; {touched} of {all} experts touched in a chunk of {tokens}"));
        }
    }
    notes
}

/// What a share above 100 % comes from; `kernels`: theirs are shown too.
fn too_fast(
    prefill: &[Point],
    decode: &[Point],
    limits: &Limits,
    kernels: bool,
    on_gpu: bool,
) -> Vec<String> {
    let above = |points: &[Point]| {
        let whole = |p: &Point| share(p.batch == 0, p.bytes, p.flop, p.seconds, limits);
        let kernel = |p: &Point, k: &KernelTime| share(p.batch == 0, k.bytes, k.flop, k.seconds, limits);
        let inner =
            |p: &'_ Point| p.kernels.iter().filter(|_| kernels).map(|k| kernel(p, k)).collect::<Vec<_>>();
        let shares = points.iter().flat_map(|p| inner(p).into_iter().chain([whole(p)]));
        // What the table shows as 100 % is no news.
        shares.flatten().any(|share| share >= 1.005)
    };
    let notes = [
        (
            above(decode),
            match on_gpu {
                true => {
                    "above 100 % of bandwidth, weights and KV come from the GPU's L2 cache, where the last step left \
                         them, or are read faster than a copy reads and writes, which the limit was measured on"
                }
                false => {
                    "above 100 % of bandwidth, weights and KV come from the processor's caches, where the last step \
                          left them: they are faster than the memory that the limit was measured on"
                }
            },
        ),
        (
            above(prefill),
            "above 100 % of peak, the rate that was given or measured is less than what the machine can do",
        ),
    ];
    notes.into_iter().filter(|(is, _)| *is).map(|(_, note)| note.to_string()).collect()
}

fn heading(name: &str, kind: TargetKind, threads: usize, limits: &Limits) -> String {
    let (bandwidth, flop) = (limits.bytes_per_s / 1e9, limits.flop_per_s.map(|f| f / 1e9));
    match kind {
        TargetKind::Host => format!(
            "{name}: {threads} threads; this machine reads {bandwidth:.1} GB/s, multiplies and adds {:.1} GFLOP/s \
             (f32x4)\n",
            flop.unwrap_or(0.0)
        ),
        TargetKind::Nvidia(_) => {
            let peak = flop.map(|f| format!(", its peak is given as {:.0} TFLOP/s", f / 1e3));
            format!(
                "{name}: on {kind}; this GPU copies {bandwidth:.0} GB/s (read and written){}\n",
                peak.unwrap_or_default()
            )
        }
    }
}

fn tokens_per_s(p: &Point) -> f64 {
    if p.batch == 0 { p.tokens as f64 / p.seconds } else { p.batch as f64 / p.seconds }
}

/// The share of the limit that counts: operations for a prefill, bytes for decode. `None`: no such limit.
fn share(prefill: bool, bytes: f64, flop: f64, seconds: f64, limits: &Limits) -> Option<f64> {
    let floor = if prefill { flop / limits.flop_per_s? } else { bytes / limits.bytes_per_s };
    Some(floor / seconds)
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_string(), |share| format!("{:.0} %", 100.0 * share))
}

fn row(p: &Point, limits: &Limits, spread: bool) -> Vec<String> {
    let share = percent(share(p.batch == 0, p.bytes, p.flop, p.seconds, limits));
    let rate = format!("{:.1}", tokens_per_s(p));
    let (least, most) = p.range;
    if p.batch == 0 {
        let tflops = format!("{:.3}", p.flop / p.seconds / 1e12);
        let mut cells = vec![p.tokens.to_string(), format!("{:.3}", p.seconds), rate, tflops, share];
        cells.extend(spread.then(|| format!("{least:.3} to {most:.3} s")));
        return cells;
    }
    let mut cells = vec![
        p.tokens.to_string(),
        p.batch.to_string(),
        format!("{:.3}", 1e3 * p.seconds),
        rate,
        format!("{:.1}", p.bytes / 1e6),
        format!("{:.1}", p.bytes / p.seconds / 1e9),
        share,
    ];
    cells.extend(spread.then(|| format!("{:.3} to {:.3} ms", 1e3 * least, 1e3 * most)));
    cells
}

fn json_of(p: &Point, limits: &Limits) -> serde_json::Value {
    let prefill = p.batch == 0;
    let kernel = |k: &KernelTime| {
        json!({
            "name": k.name, "steps": k.steps, "seconds": k.seconds, "bytes": k.bytes, "flop": k.flop,
            "share_of_limit": share(prefill, k.bytes, k.flop, k.seconds, limits),
        })
    };
    json!({
        "tokens": p.tokens, "batch": if prefill { 1 } else { p.batch }, "tokens_per_s": tokens_per_s(p),
        "seconds": p.seconds, "seconds_least": p.range.0, "seconds_most": p.range.1, "bytes": p.bytes, "flop": p.flop,
        "share_of_limit": share(prefill, p.bytes, p.flop, p.seconds, limits),
        "kernels": p.kernels.iter().map(kernel).collect::<Vec<_>>(),
    })
}

fn kernel_table(p: &Point, limits: &Limits) -> String {
    let (prefill, total) = (p.batch == 0, p.kernels.iter().map(|k| k.seconds).sum::<f64>());
    let rows: Vec<_> = p
        .kernels
        .iter()
        .map(|k| {
            vec![
                k.name.clone(),
                k.steps.to_string(),
                format!("{:.3}", 1e3 * k.seconds),
                format!("{:.1} %", 100.0 * k.seconds / total),
                format!("{:.1}", k.bytes / 1e6),
                format!("{:.1}", k.flop / 1e9),
                format!("{:.3}", k.flop / k.seconds / 1e12),
                percent(share(prefill, k.bytes, k.flop, k.seconds, limits)),
            ]
        })
        .collect();
    let title = match p.batch {
        0 => format!("prefill {}", p.tokens),
        batch => format!("decode at {}, batch {batch}", p.tokens),
    };
    let limit = if prefill { "of peak" } else { "of bandwidth" };
    let all = format!("{:.3} ms in all\n", 1e3 * total);
    table(&[&title, "steps", "ms", "of all", "MB", "GFLOP", "TFLOP/s", limit], &rows) + &all
}
