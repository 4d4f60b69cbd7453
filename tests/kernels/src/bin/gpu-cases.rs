//! Compiles the kernels of all cases for a GPU, into a folder that `gpu-check` reads on a machine with one.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use clap::Parser;
use hyc_kernel_tests::case::label;
use hyc_kernel_tests::manifest::{Entry, FILE, Kernel, Manifest, Probe};
use hyc_kernel_tests::{Case, blocks, cases};
use hyc_kernels::gpu::{self, GpuError, Ptx, Request};
use hyc_plan::{Gpu, KernelSpec, NvidiaArch};

/// Compile the kernels of all cases to PTX, one file a kernel
#[derive(Debug, Parser)]
struct Args {
    /// The folder to write
    #[arg(long, default_value = "target/gpu-cases")]
    out: PathBuf,
    /// Only cases whose family or name holds this
    #[arg(long, default_value = "")]
    filter: String,
    /// Only the variants that are chosen where nothing was measured, in place of all
    #[arg(long)]
    chosen: bool,
}

fn main() -> std::process::ExitCode {
    match run(&Args::parse()) {
        Ok(refused) => {
            for message in &refused {
                println!("refused: {message}");
            }
            std::process::ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Writes the folder; returns the kernels that there is no code for.
fn run(args: &Args) -> std::io::Result<Vec<String>> {
    let _ = std::fs::remove_dir_all(&args.out);
    std::fs::create_dir_all(&args.out)?;
    let mut manifest = Manifest { kernels: Vec::new(), cases: Vec::new(), blocks: Vec::new() };
    let mut known: HashMap<String, usize> = HashMap::new();
    let (mut refused, mut bytes) = (Vec::new(), 0);
    for case in cases::all() {
        let name = case.name();
        if !case.family.contains(&args.filter) && !name.contains(&args.filter) {
            continue;
        }
        let key = serde_json::to_string(&case.spec)?;
        let kernel = match known.get(&key) {
            Some(kernel) => *kernel,
            None => {
                let kernel = compile(&case.spec, manifest.kernels.len(), args)?;
                if let Some(reason) = &kernel.refused {
                    refused.push(format!("{}: {reason}", label(&case.spec)));
                }
                bytes += std::fs::metadata(args.out.join(&kernel.ptx)).map_or(0, |file| file.len());
                known.insert(key, manifest.kernels.len());
                manifest.kernels.push(kernel);
                manifest.kernels.len() - 1
            }
        };
        // Logits are wanted of no more rows than there are.
        let rows = case.sequences.iter().map(|(_, rows)| rows).sum();
        let able = manifest.kernels[kernel].variants.iter();
        let able = able.filter(|variant| variant.rows.contains(rows));
        let mut names: Vec<String> = able.map(|variant| variant.name.clone()).collect();
        // What there is no code for is told once.
        if names.is_empty() {
            names.push(String::new());
        }
        let Case { family, sequences, fill, small, f32_error, .. } = case;
        let entry = |variant: &String| {
            let (family, sequences, variant) = (family.clone(), sequences.clone(), variant.clone());
            Entry { family, kernel, variant, sequences, fill, small, f32_error }
        };
        manifest.cases.extend(names.iter().map(entry));
    }
    for probe in gpu::probe::all() {
        if !blocks::FAMILY.contains(&args.filter) && !probe.name.contains(&args.filter) {
            continue;
        }
        let index = manifest.kernels.len();
        let kernel = keep(&probe.spec(), index, &args.out, |entry| {
            probe.compile(entry).map_err(|e: GpuError| e.to_string())
        })?;
        if let Some(reason) = &kernel.refused {
            refused.push(format!("{}: {reason}", probe.name));
        }
        bytes += std::fs::metadata(args.out.join(&kernel.ptx)).map_or(0, |file| file.len());
        manifest.blocks.push(Probe { name: probe.name.to_string(), kernel: index });
        manifest.kernels.push(kernel);
    }
    std::fs::write(args.out.join(FILE), serde_json::to_string_pretty(&manifest)?)?;
    println!(
        "{} kernels ({} without code) of {} cases and {} blocks, {} KiB of PTX in {}",
        manifest.kernels.len(),
        refused.len(),
        manifest.cases.len(),
        manifest.blocks.len(),
        bytes >> 10,
        args.out.display()
    );
    Ok(refused)
}

/// What the kernels are made for.
const CARD: Gpu = Gpu::of(NvidiaArch::Sm90a);

/// One kernel of a case.
fn compile(spec: &KernelSpec, index: usize, args: &Args) -> std::io::Result<Kernel> {
    let variants = gpu::candidates(spec, &CARD).and_then(|mut variants| {
        if args.chosen {
            let chosen = hyc_plan::variant::choose(&variants, spec.max_rows)?;
            variants.retain(|variant| chosen.iter().any(|chosen| chosen.variant == variant.name));
        }
        Ok(variants)
    });
    let mut kernel = keep(spec, index, &args.out, |entry| {
        let names = variants.as_ref().map_err(Clone::clone)?.iter().map(|variant| variant.name.as_str());
        let request = Request { name: entry, spec, variants: names.collect(), clocked: false };
        gpu::compile(&[request], &CARD).map_err(|e| e.to_string())
    })?;
    kernel.variants = variants.unwrap_or_default();
    Ok(kernel)
}

/// Writes what `make` makes; a panic of the back end is a reason for no code.
fn keep(
    spec: &KernelSpec,
    index: usize,
    out: &Path,
    make: impl Fn(&str) -> Result<Ptx, String>,
) -> std::io::Result<Kernel> {
    let made = catch_unwind(AssertUnwindSafe(|| make(&format!("k{index}")))).unwrap_or_else(|panic| {
        Err(panic
            .downcast::<String>()
            .map_or_else(|_| "the back end panicked".to_string(), |message| message.to_string()))
    });
    let mut kernel = Kernel {
        spec: spec.clone(),
        ptx: format!("k{index}.ptx"),
        variants: Vec::new(),
        launches: Vec::new(),
        scratch_bytes: 0,
        refused: None,
    };
    match made {
        Ok(ptx) => {
            std::fs::write(out.join(&kernel.ptx), &ptx.text)?;
            let made = ptx.kernels.into_iter().next().unwrap_or_default();
            (kernel.launches, kernel.scratch_bytes) = (made.launches, made.scratch_bytes);
            if kernel.launches.is_empty() {
                kernel.refused = Some("there is nothing to launch".into());
            }
        }
        Err(reason) => kernel.refused = Some(reason),
    }
    Ok(kernel)
}
