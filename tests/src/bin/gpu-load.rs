//! How long a GPU's artefact with all its weights takes to its first token, beside what the bus takes for its bytes.
//!
//! The weights are made up and written first: the artefacts were compiled with `--no-weights`.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use cudarc::driver::sys;
use hyc::complete;
use hyc::output::{Kept, Target};
use hyc::source::Weights;
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions, Verify};
use hyc_tests::{Table, each_artefact, first_gpu, text};

/// Time the load of artefacts compiled with `--no-weights`, with weights that are made up
#[derive(Debug, Parser)]
struct Args {
    /// A folder of artefacts
    #[arg(default_value = "target/gpu/shapes")]
    folder: PathBuf,
    /// Only artefacts whose name holds this
    #[arg(long, default_value = "")]
    filter: String,
    /// Where artefacts with weights are written; they go when their times are known. A file system in memory (/dev/shm) takes
    /// them without a disk
    #[arg(long, default_value = "/tmp")]
    out: PathBuf,
    /// Loads of each kind
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    each_artefact(&args.folder, &args.filter, &mut |path, name, table| load(&args, path, name, table))
}

fn load(args: &Args, path: &Path, name: &str, table: &mut Table) -> Result<(), String> {
    let out = args.out.join(format!("{name}-weights.hyc"));
    let bus = bus_rate()?;
    let bytes = with_weights(path, &out)?;
    for (what, verify) in [("checked", LoadOptions::default().verify), ("unchecked", Verify::Header)] {
        let times: Result<Vec<f64>, String> = (0..args.repeat).map(|_| first_token(&out, verify)).collect();
        let row = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            let (half, sent) = (times[times.len() / 2], bytes as f64 / bus);
            let gib = bytes as f64 / f64::from(1 << 30);
            format!("first token of {gib:.1} GiB after {half:.2} s ({times:.2?}); over the bus at {:.1} GB/s: {sent:.2} s", bus / 1e9)
        });
        table.row(name, what, row);
    }
    std::fs::remove_file(&out).map_err(|e| format!("{}: {e}", out.display()))
}

/// Writes the artefact with weights; returns their bytes.
fn with_weights(path: &Path, out: &Path) -> Result<u64, String> {
    let options = LoadOptions { random_weights: Some(1), ..LoadOptions::default() };
    // SAFETY: `hyc compile` wrote it, and none of its code is run here.
    let model = Arc::new(unsafe { Model::load(path, &options) }.map_err(text)?);
    let target = Target::new(out, &Kept::default()).map_err(text)?;
    let (start, mut made) = (Instant::now(), 0.0);
    let mut progress = |_| {
        made = start.elapsed().as_secs_f64();
        Ok(())
    };
    let weights = Weights::Packed(Arc::clone(&model));
    let bytes = complete::complete(&model, &weights, &target, &mut progress).map_err(text)?;
    let all = start.elapsed().as_secs_f64();
    println!(
        "{}: {:.1} GB written in {made:.0} s, on the disk after {all:.0} s",
        out.display(),
        bytes as f64 / 1e9
    );
    Ok(model.plan().weight_bytes())
}

/// Seconds from nothing to a token.
fn first_token(path: &Path, verify: Verify) -> Result<f64, String> {
    let start = Instant::now();
    // SAFETY: made here, and nobody changes it.
    let model =
        unsafe { Model::load(path, &LoadOptions { verify, ..LoadOptions::default() }) }.map_err(text)?;
    let mut session = Session::new(model, &SessionOptions::default()).map_err(text)?;
    let id = session.add_sequence().map_err(text)?;
    session.feed(id, &[1]).map_err(text)?;
    for (_, token) in session.step_sampled().map_err(text)?.sampled {
        token.map_err(text)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Bytes a second from pinned memory to the first GPU.
fn bus_rate() -> Result<f64, String> {
    const BYTES: usize = 1 << 30;
    first_gpu::enter()?;
    let check = |result| first_gpu::check(result, "measuring the bus");
    let (mut from, mut to) = (std::ptr::null_mut(), 0);
    // SAFETY: plain calls of the driver with places for their results; both allocations have the bytes that are copied.
    unsafe {
        check(sys::cuMemAllocHost_v2(&mut from, BYTES))?;
        check(sys::cuMemAlloc_v2(&mut to, BYTES))?;
        let mut best = 0f64;
        for _ in 0..3 {
            let start = Instant::now();
            check(sys::cuMemcpyHtoD_v2(to, from, BYTES))?;
            best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
        }
        check(sys::cuMemFree_v2(to))?;
        check(sys::cuMemFreeHost(from))?;
        Ok(best)
    }
}
