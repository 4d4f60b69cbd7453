//! From an input file to a Plan with code: front end, passes, code generation.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hyc_ir::Graph;
use hyc_kernels::cpu::{self, CpuTarget};
use hyc_kernels::table::Table;
use hyc_kernels::{Activations, Nvidia, gpu_generator};
use hyc_passes::PassReport;
use hyc_plan::{Backend, Gpu, Plan, TargetKind};

use crate::activations;
use crate::dump::Dump;
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{self, ModelDesc};
use crate::input;
use crate::targets::check_target;
use crate::text::Text;
use crate::words::{listed, place};

/// What `hyc compile` may start from.
pub struct Input {
    /// The unfused graph, or the graph of a dump.
    pub graph: Graph,
    /// The description; `None` for a dump.
    pub desc: Option<ModelDesc>,
    /// The dump that the graph was read from.
    pub dump: Option<Dump>,
}

/// Reads a `model.toml`, or a graph dump (any file whose first word is `graph`).
pub fn load_input(path: &Path) -> Result<Input> {
    let text = read_text(path)?;
    if Dump::is_one(&text) {
        let dump = Dump { path: path.to_path_buf(), text };
        return Ok(Input { graph: dump.graph()?, desc: None, dump: Some(dump) });
    }
    let desc = description(path, &text)?;
    check_target(desc.target.kind)?;
    Ok(Input { graph: frontend::build_graph(&desc), desc: Some(desc), dump: None })
}

/// Reads a `model.toml`, whatever its target.
pub fn load_description(path: &Path) -> Result<ModelDesc> {
    let text = read_text(path)?;
    if Dump::is_one(&text) {
        let message = format!("{} is a graph dump, which names no weights", place(path));
        return Err(Error::input(message).help("give the model.toml that it was made of"));
    }
    description(path, &text)
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = input::read("read", path, input::TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|e| {
        Error::input(format!(
            "{} is not text: byte {} is not UTF-8",
            place(path),
            e.utf8_error().valid_up_to()
        ))
        .help("give a model.toml or a graph dump; a .hyc artefact goes to `hyc run` or `hyc inspect`")
    })
}

fn description(path: &Path, text: &str) -> Result<ModelDesc> {
    // No TOML begins like that.
    if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
        return Err(json_error(path, text));
    }
    Ok(frontend::parse_model(path, text)?)
}

/// JSON where a description is expected: a checkpoint's configuration, or something else.
fn json_error(path: &Path, text: &str) -> Error {
    let json: serde_json::Value =
        serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    let is_configuration =
        ["architectures", "model_type", "hidden_size"].iter().any(|key| json.get(key).is_some());
    let path = place(path);
    if is_configuration {
        return Error::input(format!("{path} is a Hugging Face configuration, and no model.toml"))
            .help("`hyc import FOLDER -o model.toml` makes one of the checkpoint that it belongs to");
    }
    Error::input(format!("{path} is JSON, and no model.toml"))
        .help("give a model.toml (`hyc explain` lists its keys) or a graph dump")
}

/// Tokens are chosen from those that the model's tokenizer has.
pub fn choose_of(graph: &mut Graph, text: Option<&Text>) {
    if let Some(text) = text {
        graph.header.named = text.named;
    }
}

/// How a pass went.
pub struct PassTime {
    /// The pass.
    pub name: &'static str,
    /// Rewrites that it made.
    pub changes: usize,
    /// Wall time.
    pub seconds: f64,
}

/// A lowered model.
pub struct Lowered {
    /// The graph after the last graph pass.
    pub graph: Graph,
    /// The Plan, without code.
    pub plan: Plan,
    /// Time a pass.
    pub passes: Vec<PassTime>,
}

/// How a graph is lowered.
#[derive(Debug, Clone)]
pub struct Options {
    /// What a CPU's code may use.
    pub level: cpu::Level,
    /// What a GPU's products read; a processor's always read f32. `None`: what the graph says, if it does, and else bf16.
    pub activations: Option<Activations>,
    /// What was measured, in place of what hyc knows of itself.
    pub table: Option<Arc<Table>>,
    /// The GPU whose measurements count, in place of the target's usual card.
    pub card: Option<String>,
    /// What code is made of a GPU's kernels.
    pub wanted: Wanted,
}

impl Options {
    /// What is usual, and what a description says.
    pub fn of(level: cpu::Level, desc: Option<&ModelDesc>) -> Options {
        let activations = desc.and_then(|desc| desc.target.activations);
        Options { activations, ..Options::from(level) }
    }
}

/// What code is made of a GPU's kernels: of the variants that are chosen, where nothing else is said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Whether a GPU's code has all variants of each kernel, to be measured: else those that are chosen.
    pub all_variants: bool,
    /// Whether a GPU's functions write down the times of their blocks, for `hyc bench --timeline`.
    pub clocks: bool,
}

impl From<cpu::Level> for Options {
    fn from(level: cpu::Level) -> Options {
        Options { level, activations: None, table: None, card: None, wanted: Wanted::default() }
    }
}

/// Runs the passes. `observer` sees the graph after each of them, and may end it with an error.
pub fn lower(
    graph: Graph,
    options: impl Into<Options>,
    observer: &mut dyn FnMut(&PassReport) -> Result<()>,
) -> Result<Lowered> {
    lower_dump(None, graph, options, observer)
}

/// The same for a graph that was read from a dump: errors point into it.
pub fn lower_dump(
    dump: Option<&Dump>,
    graph: Graph,
    options: impl Into<Options>,
    observer: &mut dyn FnMut(&PassReport) -> Result<()>,
) -> Result<Lowered> {
    let mut passes = Vec::new();
    let options = options.into();
    let fp8 = options.activations == Some(Activations::Fp8);
    let backend = backend(&graph, options)?;
    let mut stopped = None;
    let compiled = hyc_passes::run(graph, backend.as_ref(), &mut |report| {
        passes.push(PassTime { name: report.name, changes: report.changes, seconds: report.seconds });
        stopped = observer(report).err();
        stopped.is_none()
    });
    let compiled = match (compiled, stopped) {
        (_, Some(error)) => return Err(error),
        (compiled, None) => compiled.map_err(|e| match dump.and_then(|dump| dump.at(&e)) {
            Some(error) => error,
            None => Error::input(e.to_string()).maybe_help(e.help.clone()),
        })?,
    };
    if fp8 {
        activations::check_fp8(&compiled.plan)?;
    }
    Ok(Lowered { graph: compiled.graph, plan: compiled.plan, passes })
}

/// The back end of a graph's target. Errors: this build does not carry it; what a GPU's products read, of a processor's.
fn backend(graph: &Graph, options: Options) -> Result<Box<dyn Backend>> {
    let kind = graph.header.target;
    check_target(kind)?;
    Ok(match kind {
        TargetKind::Host if options.activations.is_some() => {
            let message = "`--activations` has no meaning for a processor, whose products read f32";
            return Err(Error::new(ErrorKind::Usage, message).help("it goes with `--target sm_90a`"));
        }
        TargetKind::Host => Box::new(CpuTarget { level: options.level }),
        TargetKind::Nvidia(arch) => {
            let usual = Nvidia::new(Gpu::of(arch), gpu_generator());
            Box::new(Nvidia {
                activations: options.activations.unwrap_or_else(|| activations::usual(graph)),
                card: options.card.unwrap_or(usual.card),
                table: options.table.unwrap_or(usual.table),
                ..usual
            })
        }
    })
}

/// The code of all kernels of a plan.
pub struct Code {
    /// Machine code, or PTX for a GPU, bound to the plan: see [`hyc_plan::bind`].
    pub blob: Vec<u8>,
    /// Disassembly, where it was asked for.
    pub asm: String,
    /// Wall time of code generation.
    pub seconds: f64,
}

/// Generates the kernels and writes their places into `plan`. `check` may end it before each of them.
pub fn generate_code(
    plan: &mut Plan,
    options: impl Into<Options>,
    want_asm: bool,
    check: &dyn Fn() -> Result<()>,
) -> Result<Code> {
    let (start, options) = (Instant::now(), options.into());
    check()?;
    #[cfg(feature = "llvm")]
    if !plan.target.is_host() {
        let ptx = gpu_code(plan, options.wanted)?;
        let blob = hyc_plan::bind::lay_out_ptx(plan, &ptx.text);
        let seconds = start.elapsed().as_secs_f64();
        return Ok(Code { blob, asm: String::new(), seconds });
    }
    let target = CpuTarget { level: options.level };
    let (mut asm, mut functions) = (String::new(), Vec::with_capacity(plan.kernels.len()));
    for index in 0..plan.kernels.len() {
        let Some(step) = plan.steps.iter().find(|step| step.kernel.index() == index) else {
            return Err(Error::new(ErrorKind::Internal, format!("kernel {index} is no step's")));
        };
        check()?;
        let spec = plan.spec(step);
        let name = plan.kernels[index].name.clone();
        let kernel = cpu::compile(&spec, &target, want_asm)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("kernel {name}: {e}")))?;
        plan.kernels[index].scratch_bytes = kernel.scratch_bytes;
        functions.push(kernel.code);
        if let Some(text) = kernel.asm {
            asm.push_str(&format!("{name}:\n{text}\n"));
        }
    }
    let blob = hyc_plan::bind::lay_out(plan, &functions);
    Ok(Code { blob, asm, seconds: start.elapsed().as_secs_f64() })
}

/// Checks a plan that has its code. Errors: a rule that it breaks, which is a fault of the passes or the back end.
pub fn check_plan(plan: &Plan) -> Result<()> {
    plan.verify().map_err(|errors| {
        let list: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::new(ErrorKind::Internal, format!("the plan is not valid: {}", listed(&list, "; ")))
    })
}

/// Generates a GPU plan's kernels, the variants that are chosen or all of them, and writes into `plan` how they are launched
/// and what identifies their code.
#[cfg(feature = "llvm")]
pub fn gpu_code(plan: &mut Plan, wanted: Wanted) -> Result<hyc_kernels::gpu::Ptx> {
    use hyc_kernels::gpu;
    let internal = |e: gpu::GpuError| Error::new(ErrorKind::Internal, e.to_string());
    let hyc_plan::Target::Nvidia(gpu) = &plan.target else {
        return Err(Error::new(ErrorKind::Internal, "the plan is not a GPU's"));
    };
    let specs = specs(plan);
    let requests: Vec<gpu::Request<'_>> =
        specs.iter().zip(&plan.kernels).map(|((_, spec), kernel)| request(kernel, spec, wanted)).collect();
    let slices: Vec<gpu::SliceRequest<'_>> = (0..plan.slice_kernels.len())
        .filter_map(|index| plan.slices.iter().find(|slice| slice.kernel as usize == index))
        .map(|slice| slice_request(plan, slice, wanted))
        .collect();
    let ptx = gpu::compile_sliced(&requests, &slices, gpu).map_err(internal)?;
    for (kernel, launch) in plan.slice_kernels.iter_mut().zip(&ptx.slices) {
        kernel.launch = Some(launch.clone());
    }
    for ((entry, kernel), (_, spec)) in plan.kernels.iter_mut().zip(&ptx.kernels).zip(&specs) {
        entry.scratch_bytes = kernel.scratch_bytes;
        entry.code = hyc_plan::Code::Nvidia { launches: kernel.launches.clone() };
        let coded = |variant: &hyc_plan::Variant| variant.launches > 0 && entry.has_code(&variant.name);
        let coded: Vec<bool> = entry.variants.iter().map(coded).collect();
        // Nothing is compared with the only one; where measurements were looked up, the choice has asked for it already.
        let asked = |(variant, coded): &(&mut hyc_plan::Variant, bool)| *coded && variant.code.is_empty();
        let several = coded.iter().filter(|coded| **coded).count() > 1;
        for (variant, _) in entry.variants.iter_mut().zip(coded).filter(asked).filter(|_| several) {
            variant.code = gpu::digest(spec, &variant.name, gpu).map_err(internal)?;
        }
    }
    Ok(ptx)
}

/// What is asked of the code generator for a kernel.
#[cfg(feature = "llvm")]
pub(crate) fn request<'a>(
    kernel: &'a hyc_plan::Kernel,
    spec: &'a hyc_plan::KernelSpec,
    wanted: Wanted,
) -> hyc_kernels::gpu::Request<'a> {
    let chosen = |name: &str| kernel.chosen.iter().any(|chosen| chosen.variant == name);
    let names = kernel.variants.iter().map(|variant| variant.name.as_str());
    let variants = names.filter(|name| wanted.all_variants || chosen(name)).collect();
    hyc_kernels::gpu::Request { name: &kernel.name, spec, variants, clocked: wanted.clocks }
}

/// What is asked of it for a slice.
#[cfg(feature = "llvm")]
fn slice_request<'p>(
    plan: &'p Plan,
    slice: &hyc_plan::Slice,
    wanted: Wanted,
) -> hyc_kernels::gpu::SliceRequest<'p> {
    let kernel = &plan.slice_kernels[slice.kernel as usize];
    hyc_kernels::gpu::SliceRequest {
        name: &kernel.name,
        steps: plan.slice_specs(slice).into_iter().zip(slice.parts.iter().cloned()).collect(),
        blocks: kernel.blocks,
        clocked: wanted.clocks,
    }
}

/// Name and spec of each kernel.
#[cfg(feature = "llvm")]
pub(crate) fn specs(plan: &Plan) -> Vec<(String, hyc_plan::KernelSpec)> {
    (0..plan.kernels.len())
        .filter_map(|index| {
            let step = plan.steps.iter().find(|step| step.kernel.index() == index)?;
            Some((plan.kernels[index].name.clone(), plan.spec(step)))
        })
        .collect()
}
