//! Every GPU kernel of some models through ptxas, without a GPU: what each takes of the machine, and whether it
//! is what it should be. No weights are read.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program of the tests: it may end at a closed pipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use hyc::driver;
use hyc_kernels::cpu::CpuTarget;
use hyc_plan::{Launch, NvidiaArch, TargetKind};

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
        for (launch, function, sass) in &model {
            let found: Vec<String> = faults(launch, function, sass.as_ref())
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

/// What is wrong with a function: what allowed.txt calls it, and in numbers. `sass` is given where its PTX has
/// tensor core instructions.
fn faults(launch: &Launch, function: &Function, sass: Option<&Vec<String>>) -> Vec<(&'static str, String)> {
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
    if let Some(sass) = sass {
        let has = |names: &[&str]| sass.iter().any(|op| names.iter().any(|name| op.starts_with(name)));
        if !has(&["HGMMA", "QGMMA"]) {
            faults.push(("sass", "no HGMMA or QGMMA".into()));
        }
        if let Some(why) = launch.entry.ends_with("_prefill").then(|| exposed(sass)).flatten() {
            faults.push(("sass", why));
        }
        if let Some(why) = unpaid(sass, function.registers, u64::from(launch.threads)) {
            faults.push(("registers", why));
        }
        if has(&["LDL", "STL"]) {
            faults.push(("sass", "local memory in a loop of HGMMA or QGMMA".into()));
        }
    }
    faults
}

/// What is wrong with the softmax of an attention whose products are started and waited for apart: its exponentials
/// have to stand between the wait that leaves a product under way and the wait for that one. The first step's have no
/// product to lie under: they are about half of the text.
fn exposed(sass: &[String]) -> Option<String> {
    let (mut all, mut under, mut left) = (0, 0, false);
    for code in sass {
        if code.starts_with("WARPGROUP.DEPBAR") {
            left = !code.ends_with("0x0");
        }
        if code.starts_with("MUFU.EX2") {
            all += 1;
            under += usize::from(left);
        }
    }
    (5 * under < 2 * all).then(|| format!("{under} of {all} exponentials lie under a product"))
}

/// What is wrong with warp groups that exchange registers (`setmaxnreg`): those that take some would wait forever where those
/// that give, each of which says so once, leave too few. A block has as many as it began with.
fn unpaid(sass: &[String], registers: u64, threads: u64) -> Option<String> {
    let asked = |op: &str| -> Vec<u64> {
        let codes = sass.iter().filter(|code| code.starts_with(op));
        codes.filter_map(|code| u64::from_str_radix(code.rsplit("0x").next()?.trim(), 16).ok()).collect()
    };
    let (taken, left) = (*asked("USETMAXREG.TRY_ALLOC").first()?, asked("USETMAXREG.DEALLOC"));
    let takers = threads.saturating_sub(128 * left.len() as u64);
    let wanted = taken * takers + left.iter().map(|left| 128 * left).sum::<u64>();
    let there = registers.next_multiple_of(8) * threads;
    (wanted > there).then(|| format!("{wanted} are shared out of {there}: a warp group waits forever"))
}

type Assembled = Vec<(Launch, Function, Option<Vec<String>>)>;

/// The functions of one model, in the order of its kernels, with the SASS of those that use tensor cores.
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
    let sass = read_sass(&output(Command::new(&args.nvdisasm).arg("--print-code").arg(&cubin))?);
    if let Some(kernel) = plan.kernels.iter().find(|kernel| kernel.launches().is_empty()) {
        return Err(format!("{}: `{}` has no functions", path.display(), kernel.name));
    }
    let launches = plan.kernels.iter().flat_map(|kernel| kernel.launches());
    let look_up = |launch: &Launch| {
        let missing = || format!("{}: ptxas says nothing of `{}`", path.display(), launch.entry);
        let function = functions.get(&launch.entry).ok_or_else(missing)?.clone();
        let tensor = ptx_body(&ptx, &launch.entry).contains("wgmma.mma_async");
        let code = sass.get(&launch.entry).cloned().unwrap_or_default();
        Ok((launch.clone(), function, tensor.then_some(code)))
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

/// Instructions of each function, without their predicates.
fn read_sass(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut functions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            current = Some(functions.entry(name.to_string()).or_default());
        }
        let Some((_, code)) = line.split_once("*/") else { continue };
        let code = code.split(';').next().unwrap_or("").trim();
        // A predicate stands before the opcode.
        let code = if code.starts_with('@') {
            code.split_once(' ').map_or("", |(_, rest)| rest.trim())
        } else {
            code
        };
        if let (Some(list), false) = (&mut current, code.is_empty()) {
            list.push(code.to_string());
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::{exposed, read_ptxas, read_sass, unpaid};

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

    #[test]
    fn reads_instructions_behind_predicates() {
        let text = ".text.k:\n        /*0580*/              @!P2 STS [R21], R0 ;\n        /*0590*/   NOP;\n";
        assert_eq!(read_sass(text)["k"], ["STS [R21], R0", "NOP"]);
    }

    #[test]
    fn registers_that_are_shared_out_are_there() {
        let exchange = |taken: u64| {
            let taken = format!("USETMAXREG.TRY_ALLOC.CTAPOOL UP0, {taken:#x}");
            [taken, "USETMAXREG.DEALLOC.CTAPOOL 0x18".to_string()]
        };
        assert_eq!(unpaid(&exchange(160), 128, 512), None);
        // Four groups and one that copies: it hung on the card.
        let why = unpaid(&exchange(120), 96, 640).unwrap();
        assert!(why.starts_with("64512 are shared out of 61440"), "{why}");
        assert_eq!(unpaid(&[], 168, 384), None);
    }

    #[test]
    fn exponentials_lie_under_a_product() {
        let text = |order: &[&str]| -> Vec<String> { order.iter().map(ToString::to_string).collect() };
        let [one, none] = ["WARPGROUP.DEPBAR.LE gsb0, 0x1", "WARPGROUP.DEPBAR.LE gsb0, 0x0"];
        let ex2 = "MUFU.EX2 R1, R1";
        assert_eq!(exposed(&text(&[none, ex2, one, ex2, none])), None);
        let why = exposed(&text(&[none, ex2, one, none, ex2]));
        assert_eq!(why.as_deref(), Some("0 of 2 exponentials lie under a product"));
    }
}
