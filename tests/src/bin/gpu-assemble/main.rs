//! Every GPU kernel of some models through ptxas, without a GPU: what each takes of the machine, and whether it
//! is what it should be. No weights are read.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

mod sass;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use hyc::driver;
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::{Launch, NvidiaArch, TargetKind};

use self::sass::Sass;

/// Assemble the GPU kernels of models and check registers, spills, shared memory and SASS
#[derive(Debug, Parser)]
struct Args {
    /// model.toml files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// NVIDIA's assembler
    #[arg(long, default_value = "ptxas")]
    ptxas: PathBuf,
    /// NVIDIA's disassembler
    #[arg(long, default_value = "nvdisasm")]
    nvdisasm: PathBuf,
    /// What is allowed to be wrong, and why
    #[arg(long, default_value = "tests/gpu/allowed.txt")]
    allowed: PathBuf,
    /// Where PTX and cubins stay
    #[arg(long, default_value = "target/gpu-assemble")]
    out: PathBuf,
    /// Print failures alone
    #[arg(short, long)]
    quiet: bool,
}

/// Shared memory that a block can have, and registers of a multiprocessor (CUDA C++ guide, compute capability
/// 9.0).
const MOST_SHARED: u64 = 227 << 10;
const MOST_REGISTERS: u64 = 65536;

/// What ptxas says of one function.
#[derive(Debug, Default, Clone)]
struct Function {
    registers: u64,
    stack: u64,
    spills: u64,
    shared: u64,
    /// Codes of its warnings.
    warnings: Vec<String>,
}

/// One line of allowed.txt: `FUNCTION WHAT reason`. A function may end in `*`.
struct Allowed {
    function: String,
    what: String,
    used: std::cell::Cell<bool>,
}

impl Allowed {
    fn takes(&self, function: &str, what: &str) -> bool {
        let named = match self.function.strip_suffix('*') {
            Some(start) => function.starts_with(start),
            None => function == self.function,
        };
        let takes = named && self.what == what;
        self.used.set(self.used.get() || takes);
        takes
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(wrong) => {
            println!("{wrong} things are wrong that {} does not allow", args.allowed.display());
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<usize, String> {
    let allowed = read_allowed(&args.allowed)?;
    std::fs::create_dir_all(&args.out).map_err(|e| format!("{}: {e}", args.out.display()))?;
    println!(
        "{:<56} {:>7} {:>9} {:>6} {:>6} {:>7} {:>8}",
        "kernel", "threads", "registers", "spills", "stack", "static", "dynamic"
    );
    let (mut wrong, mut kernels) = (0, 0);
    for path in &args.models {
        println!("{}", path.display());
        let model = match assemble(args, path) {
            Ok(model) => model,
            Err(message) => {
                println!("  FAIL {message}");
                wrong += 1;
                continue;
            }
        };
        for (launch, function, sass, tensor) in &model {
            let found: Vec<String> = faults(launch, function, sass, *tensor)
                .into_iter()
                .filter(|(what, _)| !allowed.iter().any(|a| a.takes(&launch.entry, what)))
                .map(|(what, why)| format!("{what}: {why}"))
                .collect();
            kernels += 1;
            wrong += found.len();
            if !args.quiet || !found.is_empty() {
                let Function { registers, spills, stack, shared, .. } = function;
                let verdict =
                    if found.is_empty() { String::new() } else { format!("  FAIL {}", found.join("; ")) };
                println!(
                    "  {:<54} {:>7} {registers:>9} {spills:>6} {stack:>6} {shared:>7} {:>8}{verdict}",
                    launch.entry, launch.threads, launch.shared_bytes
                );
            }
        }
    }
    for line in allowed.iter().filter(|line| !line.used.get()) {
        println!("FAIL {}: nothing needs `{} {}`", args.allowed.display(), line.function, line.what);
        wrong += 1;
    }
    println!("{} models, {kernels} kernels", args.models.len());
    Ok(wrong)
}

fn read_allowed(path: &Path) -> Result<Vec<Allowed>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(function), Some(what), Some(_reason)) => {
                Ok(Allowed { function: function.to_string(), what: what.to_string(), used: false.into() })
            }
            _ => Err(format!("{}: `{line}` is not `FUNCTION WHAT reason`", path.display())),
        }
    };
    lines.map(read).collect()
}

/// What is wrong with a function: what allowed.txt calls it, and in numbers. `tensor`: whether its PTX has `wgmma`.
fn faults(launch: &Launch, function: &Function, sass: &Sass, tensor: bool) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if function.spills > 0 {
        faults.push(("spills", format!("{} bytes", function.spills)));
    }
    if function.stack > 0 {
        faults.push(("stack", format!("{} bytes of local memory", function.stack)));
    }
    if !function.warnings.is_empty() {
        faults.push(("warning", function.warnings.join(", ")));
    }
    let shared = function.shared + u64::from(launch.shared_bytes);
    if shared > MOST_SHARED {
        faults.push(("shared", format!("{shared} bytes of {MOST_SHARED}")));
    }
    // Registers are given out in eights.
    let registers = function.registers.next_multiple_of(8) * u64::from(launch.threads);
    if registers > MOST_REGISTERS {
        faults.push(("registers", format!("{registers} of {MOST_REGISTERS}")));
    }
    if let Some(why) = sass.overtakes() {
        faults.push(("order", why));
    }
    if tensor {
        if !sass.has(&["HGMMA", "QGMMA"]) {
            faults.push(("sass", "no HGMMA or QGMMA".into()));
        }
        if let Some(why) = launch.entry.ends_with("_prefill").then(|| sass.exposed()).flatten() {
            faults.push(("sass", why));
        }
        if let Some(why) = sass.unpaid(function.registers, u64::from(launch.threads)) {
            faults.push(("registers", why));
        }
        if sass.has(&["LDL", "STL"]) {
            faults.push(("sass", "local memory in a loop of HGMMA or QGMMA".into()));
        }
    }
    faults
}

type Assembled = Vec<(Launch, Function, Sass, bool)>;

/// The functions of one model, those of its kernels first, with their SASS and whether they have `wgmma`.
fn assemble(args: &Args, path: &Path) -> Result<Assembled, String> {
    let fail = |e: hyc::error::Error| format!("{}: {}", path.display(), e.message);
    let mut input = driver::load_input(path).map_err(fail)?;
    input.graph.header.target = TargetKind::Nvidia(NvidiaArch::Sm90a);
    let options = driver::Options::of(CpuTarget::host().level, input.desc.as_ref());
    let mut plan = driver::lower(input.graph, options, &mut |_| Ok(())).map_err(fail)?.plan;
    let ptx =
        driver::gpu_code(&mut plan, driver::Wanted { all_variants: true, clocks: false }).map_err(fail)?.text;
    let file = args.out.join(format!("{}.ptx", plan.model.name));
    std::fs::write(&file, &ptx).map_err(|e| format!("{}: {e}", file.display()))?;
    let cubin = file.with_extension("cubin");
    let mut ptxas = Command::new(&args.ptxas);
    let said = output(ptxas.args(["-arch=sm_90a", "-v", "-o"]).arg(&cubin).arg(&file))?;
    let functions = read_ptxas(&said);
    let mut nvdisasm = Command::new(&args.nvdisasm);
    let mut sass =
        sass::read(&output(nvdisasm.args(["--print-code", "--print-instruction-encoding"]).arg(&cubin))?);
    if let Some(kernel) = plan.kernels.iter().find(|kernel| kernel.launches().is_empty()) {
        return Err(format!("{}: `{}` has no functions", path.display(), kernel.name));
    }
    if let Some(slice) = plan.slice_kernels.iter().find(|slice| slice.launch.is_none()) {
        return Err(format!("{}: `{}` has no function", path.display(), slice.name));
    }
    let slices = plan.slice_kernels.iter().flat_map(|slice| &slice.launch);
    let launches = plan.kernels.iter().flat_map(|kernel| kernel.launches()).chain(slices);
    let look_up = |launch: &Launch| {
        let missing = || format!("{}: ptxas says nothing of `{}`", path.display(), launch.entry);
        let function = functions.get(&launch.entry).ok_or_else(missing)?.clone();
        let tensor = ptx_body(&ptx, &launch.entry).contains("wgmma.mma_async");
        let code = sass.remove(&launch.entry).ok_or_else(missing)?;
        Ok((launch.clone(), function, code, tensor))
    };
    launches.map(look_up).collect()
}

/// What a command printed, on both streams.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| format!("{name}: {e}"))?;
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(text) } else { Err(format!("{name}: {}", text.trim())) }
}

fn ptx_body<'p>(ptx: &'p str, entry: &str) -> &'p str {
    let Some(start) = ptx.find(&format!(".entry {entry}(")) else { return "" };
    let rest = &ptx[start..];
    &rest[..rest.find("\n}").unwrap_or(rest.len())]
}

/// The number before `unit` in a line of ptxas.
fn number(line: &str, unit: &str) -> u64 {
    let Some(end) = line.find(unit) else { return 0 };
    line[..end].split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn read_ptxas(text: &str) -> BTreeMap<String, Function> {
    let mut functions: BTreeMap<String, Function> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        let quoted = line.split('\'').nth(1).unwrap_or("");
        if line.contains("Compiling entry function") {
            current = quoted.to_string();
        }
        if let Some((_, rest)) = line.split_once("(C7") {
            let code = format!("C7{}", rest.split(')').next().unwrap_or(""));
            functions.entry(quoted.to_string()).or_default().warnings.push(code);
            continue;
        }
        let function = functions.entry(current.clone()).or_default();
        function.stack += number(line, " bytes stack frame");
        function.spills += number(line, " bytes spill stores") + number(line, " bytes spill loads");
        if line.contains(": Used ") {
            function.registers = number(line, " registers");
            function.shared = number(line, " bytes smem");
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::read_ptxas;

    #[test]
    fn reads_what_ptxas_prints() {
        let text = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are \
                    serialized due to insufficient register resources in the function 'b'\n\
                    ptxas info    : Compiling entry function 'a' for 'sm_90a'\n\
                    ptxas info    : Function properties for a\n    \
                    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
                    ptxas info    : Used 48 registers, used 1 barriers, 8 bytes cumulative stack size, 2096 bytes smem\n\
                    ptxas info    : Compiling entry function 'b' for 'sm_90a'\n    \
                    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                    ptxas info    : Used 20 registers, used 0 barriers\n";
        let found = read_ptxas(text);
        let a = &found["a"];
        assert_eq!((a.registers, a.stack, a.spills, a.shared), (48, 8, 16, 2096));
        assert_eq!((found["b"].registers, found["b"].shared), (20, 0));
        assert_eq!(found["b"].warnings, ["C7510"]);
    }
}
