//! The process that holds the GPU. Many threads make inputs and references and compare; one kernel runs at a
//! time. What happens is told in lines of JSON, since a kernel that faults takes the process with it.

use std::cell::OnceCell;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use hyc_kernel_tests::blocks::block;
use hyc_kernel_tests::case::tiled;
use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::manifest::{Kernel, Manifest};
use hyc_kernel_tests::{Batch, Case, Memory, Rng, memory, run_reference, sample_rows};
use hyc_plan::{KernelSpec, Kind, OperandSpec, Role, StepOp};
use serde::{Deserialize, Serialize};

use crate::Args;
use crate::device::{Decoy, Gpu, Variant};

/// A line from the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A kernel is about to run.
    Start(usize),
    /// It has ended.
    Ran(usize),
    /// A case is through: its largest error, or what is wrong.
    Done(usize, Result<f64, Vec<String>>),
    /// The GPU takes no more work from this process.
    Fault(usize, String),
}

fn say(line: &Line) {
    let text = serde_json::to_string(line).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: the end is near.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// How far a GPU's results may be from the reference.
fn limits(case: &Case) -> Limits {
    let exact = matches!(case.spec.op, StepOp::Embed(_) | StepOp::Append(_) | StepOp::Sample(_));
    let limits = match tiled(&case.spec) {
        _ if exact => Limits { error: 1e-6, bf16_cache: 3e-3, margin: 0.0 },
        true => Limits { error: 1e-2, bf16_cache: 1e-2, margin: 2e-2 },
        false => Limits { error: 3e-5, bf16_cache: 3e-3, margin: 1e-4 },
    };
    Limits { margin: if case.selects_exactly() { 0.0 } else { limits.margin }, ..limits }
}

/// The error that an item may have; blocks' errors are shares of what each may.
pub fn limit(manifest: &Manifest, number: usize) -> f64 {
    match manifest.probe(number) {
        Some(_) => 1.0,
        None => limits(&manifest.case(&manifest.cases[number])).error,
    }
}

/// Runs the cases whose numbers come on standard input, one a line.
pub fn run(args: &Args, manifest: &Manifest, seed: u64) -> Result<(), String> {
    let read = |line: std::io::Result<String>| line.ok()?.trim().parse::<usize>().ok();
    let numbers: Vec<usize> = std::io::stdin().lock().lines().map_while(read).collect();
    let gpu = Mutex::new(Gpu::open().map_err(|fault| fault.message)?);
    let code = Code::new(args, manifest.kernels.len());
    let groups: Vec<&[usize]> = numbers.chunk_by(|a, b| manifest.same_case(*a, *b)).collect();
    let next = AtomicUsize::new(0);
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let work = || {
        while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
            let inputs = OnceCell::new();
            for number in *group {
                let check = || check(args, manifest, (&code, &gpu), *number, (seed, &inputs));
                let done = catch_unwind(AssertUnwindSafe(check));
                say(&Line::Done(*number, done.unwrap_or_else(|_| Err(vec!["the check panicked".into()]))));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    Ok(())
}

/// What a case begins with, and what comes of it: the same for all variants of its kernel.
struct Inputs {
    batch: Batch,
    before: Vec<Memory>,
    rows: Vec<u64>,
    want: Vec<Memory>,
}

impl Inputs {
    fn new(case: &Case, seed: u64) -> Inputs {
        let mut rng = Rng::of(seed, &case.name());
        let batch = case.batch(&mut rng);
        let before = memory(&mut rng, &case.spec, &batch, case.fill);
        let rows = sample_rows(&mut rng, &case.spec, &batch);
        let want = run_reference(&case.spec, &batch, &before, &rows);
        Inputs { batch, before, rows, want }
    }
}

fn check(
    args: &Args,
    manifest: &Manifest,
    (code, gpu): (&Code, &Mutex<Gpu>),
    number: usize,
    (seed, inputs): (u64, &OnceCell<Inputs>),
) -> Result<f64, Vec<String>> {
    if let Some(probe) = manifest.probe(number) {
        let kernel = &manifest.kernels[probe.kernel];
        let image = code.image(probe.kernel, kernel).map_err(|message| vec![message])?;
        let kernel = Variant { index: probe.kernel, kernel, name: "", image };
        let mut rng = Rng::of(seed, &probe.name);
        let batch = Batch::new(&mut rng, 8, &[(0, 1)], 1);
        let block = block(&probe.name, &mut rng).ok_or_else(|| vec!["there is no such block".to_string()])?;
        let got = launch(args, gpu, number, &kernel, &batch, (&block.memory(), &[]))?;
        return block.check(&got);
    }
    let entry = &manifest.cases[number];
    let (case, kernel) = (manifest.case(entry), &manifest.kernels[entry.kernel]);
    let image = code.image(entry.kernel, kernel).map_err(|message| vec![message])?;
    let Inputs { batch, before, rows, want } = inputs.get_or_init(|| Inputs::new(&case, seed));
    let kernel = Variant { index: entry.kernel, kernel, name: &entry.variant, image };
    // Every other case meets a choice that comes late: what a kernel guesses of it is wrong.
    let decoys = if number % 2 == 1 { decoys(&case.spec, before) } else { Vec::new() };
    let got = launch(args, gpu, number, &kernel, batch, (before, &decoys))?;
    let step = Step { spec: &case.spec, batch, before, want, got: &got, rows };
    step.check(&limits(&case))
}

/// Other choices than those that the step reads, each of which could be one: the chosen ones of each row, each in the place of the one
/// before.
fn decoys(spec: &KernelSpec, before: &[Memory]) -> Vec<Decoy> {
    let chosen =
        |role: &Role| !role.writes() && matches!(role.kind, Kind::Selection { .. } | Kind::Experts { .. });
    let of = |(operand, memory): (usize, &Memory)| {
        let OperandSpec::Tensor { width, stride, .. } = spec.operands[operand] else { return None };
        let (word, mut decoy) = (size_of::<i32>(), memory.clone());
        for row in decoy.bytes_mut().chunks_exact_mut(word * stride as usize) {
            let chosen = |word: &[u8]| word.last().is_some_and(|high| high & 0x80 == 0);
            let words =
                row[..word * width as usize].chunks_exact(word).take_while(|word| chosen(word)).count();
            row[..word * words].rotate_left(word.min(word * words));
        }
        Some(Decoy { operand, memory: decoy })
    };
    let roles = spec.op.roles();
    let chosen = roles.iter().zip(before.iter().enumerate()).filter(|(role, _)| chosen(role));
    chosen.filter_map(|(_, memory)| of(memory)).collect()
}

/// Runs one kernel, telling of it; a fault that nothing survives ends the process.
fn launch(
    args: &Args,
    gpu: &Mutex<Gpu>,
    number: usize,
    kernel: &Variant<'_>,
    batch: &Batch,
    memory: (&[Memory], &[Decoy]),
) -> Result<Vec<Memory>, Vec<String>> {
    let mut gpu = gpu.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    say(&Line::Start(number));
    let got = gpu.run(kernel, batch, memory, args.leave_scratch);
    if let Err(fault) = &got
        && fault.fatal
    {
        say(&Line::Fault(number, fault.message.clone()));
        std::process::exit(3);
    }
    say(&Line::Ran(number));
    got.map_err(|fault| vec![fault.message])
}

/// The kernels' code: assembled once each where there is an assembler, else left to the driver.
struct Code {
    folder: PathBuf,
    ptxas: Option<PathBuf>,
    images: Vec<OnceLock<Result<Vec<u8>, String>>>,
}

impl Code {
    fn new(args: &Args, kernels: usize) -> Code {
        let known = ["ptxas", "/usr/local/cuda/bin/ptxas"].map(PathBuf::from);
        let works = |path: &PathBuf| Command::new(path).arg("--version").output().is_ok();
        let ptxas = if args.jit { None } else { known.into_iter().find(works) };
        let images = (0..kernels).map(|_| OnceLock::new()).collect();
        Code { folder: args.folder.clone(), ptxas, images }
    }

    fn image(&self, index: usize, kernel: &Kernel) -> Result<&[u8], String> {
        let image = self.images[index].get_or_init(|| self.make(&self.folder.join(&kernel.ptx)));
        image.as_deref().map_err(String::clone)
    }

    fn make(&self, ptx: &Path) -> Result<Vec<u8>, String> {
        let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
        let Some(ptxas) = &self.ptxas else { return read(ptx) };
        let cubin = ptx.with_extension("cubin");
        let written = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
        if written(&cubin) < written(ptx) {
            let mut command = Command::new(ptxas);
            let out = command.arg("-arch=sm_90a").arg(ptx).arg("-o").arg(&cubin).output();
            let out = out.map_err(|e| format!("{}: {e}", ptxas.display()))?;
            if !out.status.success() {
                return Err(format!("ptxas: {}", String::from_utf8_lossy(&out.stderr).trim()));
            }
        }
        read(&cubin)
    }
}
