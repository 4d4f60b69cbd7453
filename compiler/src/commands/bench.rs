//! `hyc bench`.

use std::path::PathBuf;
use std::time::Instant;

use hyc_runtime::{LoadOptions, Model, Session, SessionOptions, Verify};
use serde_json::json;

use super::signal;
use crate::bandwidth;
use crate::error::{Error, ErrorKind, Result};
use crate::report::table;

/// Measure prefill and decode, beside the machine's own limits
///
/// The read bandwidth and the multiply-add rate of this machine are measured in the same run. The decode
/// floor is bytes over bandwidth: all weights, and the KV that the step reads.
///
/// Examples:
///   hyc bench model.hyc
///   hyc bench model.hyc --context 512,8192,32768 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// An artefact
    model: PathBuf,
    /// Contexts to decode at, in tokens
    #[arg(long, value_delimiter = ',', default_value = "512")]
    context: Vec<u64>,
    /// Decode steps measured at each context; the median counts
    #[arg(long, default_value_t = 16)]
    steps: usize,
    /// Threads
    #[arg(long)]
    threads: Option<usize>,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    signal::install(|| {})?;
    let start = Instant::now();
    let model = Model::load(&args.model, &LoadOptions { verify: Verify::Header })?;
    let load_seconds = start.elapsed().as_secs_f64();
    let most = args.context.iter().copied().max().unwrap_or(1);
    let limit = model.plan().model.max_context;
    let steps = args.steps.max(1) as u64;
    if most + steps + 1 > limit || args.context.contains(&0) {
        return Err(Error::new(ErrorKind::Usage, format!("a context of {most} tokens does not fit"))
            .help(format!("the model was compiled for {limit}; {steps} decode steps follow")));
    }
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let limits = bandwidth::measure(threads);
    let mut points = Vec::new();
    for context in &args.context {
        points.push(measure(&model, threads, *context, steps as usize)?);
    }
    if args.json {
        let list: Vec<serde_json::Value> = points.iter().map(|p| p.json(&limits)).collect();
        let value = json!({
            "model": model.plan().model.name, "threads": threads, "load_seconds": load_seconds,
            "read_bytes_per_s": limits.read_bytes_per_s, "fma_flop_per_s": limits.flop_per_s, "points": list,
        });
        return super::print(&format!("{value:#}\n"));
    }
    let mut out = format!(
        "{}: {threads} threads; this machine reads {:.1} GB/s, multiplies and adds {:.1} GFLOP/s (f32x4)\n\n",
        model.plan().model.name,
        limits.read_bytes_per_s / 1e9,
        limits.flop_per_s / 1e9
    );
    let header = ["context", "prefill tok/s", "of peak", "decode tok/s", "MB a step", "of bandwidth"];
    out.push_str(&table(&header, &points.iter().map(|p| p.row(&limits)).collect::<Vec<_>>()));
    super::print(&out)
}

struct Point {
    context: u64,
    prefill_seconds: f64,
    decode_seconds: f64,
    step_bytes: u64,
    prefill_flop: f64,
}

impl Point {
    fn shares(&self, limits: &bandwidth::Limits) -> (f64, f64) {
        let floor = self.step_bytes as f64 / limits.read_bytes_per_s;
        (self.prefill_flop / self.prefill_seconds / limits.flop_per_s, floor / self.decode_seconds)
    }

    fn row(&self, limits: &bandwidth::Limits) -> Vec<String> {
        let (peak, floor) = self.shares(limits);
        vec![
            self.context.to_string(),
            format!("{:.0}", self.context as f64 / self.prefill_seconds),
            format!("{:.0} %", 100.0 * peak),
            format!("{:.1}", 1.0 / self.decode_seconds),
            format!("{:.1}", self.step_bytes as f64 / 1e6),
            format!("{:.0} %", 100.0 * floor),
        ]
    }

    fn json(&self, limits: &bandwidth::Limits) -> serde_json::Value {
        let (peak, floor) = self.shares(limits);
        json!({
            "context": self.context,
            "prefill_tokens_per_s": self.context as f64 / self.prefill_seconds,
            "prefill_share_of_peak": peak,
            "decode_tokens_per_s": 1.0 / self.decode_seconds,
            "decode_step_bytes": self.step_bytes,
            "decode_share_of_bandwidth": floor,
        })
    }
}

fn measure(model: &Model, threads: usize, context: u64, steps: usize) -> Result<Point> {
    let tokens = context + steps as u64 + 1;
    let options = SessionOptions { threads: Some(threads), max_sequences: Some(1), max_tokens: Some(tokens) };
    let mut session = Session::new(model, &options)?;
    let id = session.add_sequence()?;
    let vocab = model.plan().model.vocab;
    let prompt: Vec<u32> = (0..context).map(|i| (i.wrapping_mul(2_654_435_761) % vocab) as u32).collect();
    session.feed(id, &prompt)?;
    let start = Instant::now();
    while session.pending(id)? > 0 {
        signal::check("measuring prefill")?;
        session.step()?;
    }
    let prefill_seconds = start.elapsed().as_secs_f64();
    let mut times = Vec::with_capacity(steps);
    for i in 0..steps {
        signal::check("measuring decode")?;
        session.feed(id, &[prompt[i % prompt.len()]])?;
        let start = Instant::now();
        session.step()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let work = crate::cost::of(model.plan());
    Ok(Point {
        context,
        prefill_seconds,
        decode_seconds: times[times.len() / 2],
        step_bytes: work.decode_bytes(context),
        prefill_flop: work.prefill_flop(context),
    })
}
