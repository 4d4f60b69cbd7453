//! Row-wise GPU kernels against the reference on fresh random inputs, without a GPU; `HYC_SEED=N` repeats a run.
//!
//! LLVM's text of a kernel becomes host code once its few special registers and warp operations are calls of the
//! functions below. A block is 256 host threads; blocks run one after the other, so shared memory may be a
//! global. What this cannot show is what `ptxas` and the card make of the code.

#![allow(clippy::print_stdout)] // A test's output is captured.
#![cfg(feature = "llvm")]

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use hyc_kernel_tests::compare::{Limits, Step};
use hyc_kernel_tests::{Batch, Case, Fill, Memory, Rng, cases, memory, pointers, run_reference};
use hyc_kernels::gpu;
use hyc_plan::round_up;
use hyc_plan::*;
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;

const THREADS: u32 = 256;
const WARP: u32 = 32;

/// What the threads of a block share.
struct Block {
    all: Barrier,
    warps: Vec<(Barrier, [AtomicU32; WARP as usize])>,
}

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(0) };
    static ROW: Cell<u32> = const { Cell::new(0) };
    static BLOCK: Cell<*const Block> = const { Cell::new(std::ptr::null()) };
}

extern "C" fn thread() -> u32 {
    THREAD.get()
}

extern "C" fn row() -> u32 {
    ROW.get()
}

fn block() -> &'static Block {
    // SAFETY: `run` keeps the block alive while its threads run, and only they come here.
    unsafe { &*BLOCK.get() }
}

extern "C" fn barrier(_: u32) {
    block().all.wait();
}

extern "C" fn shuffle(_: u32, x: f32, mask: u32, _: u32) -> f32 {
    let (lane, warp) = (thread() % WARP, &block().warps[(thread() / WARP) as usize]);
    warp.1[lane as usize].store(x.to_bits(), Ordering::Relaxed);
    warp.0.wait();
    let other = f32::from_bits(warp.1[(lane ^ mask) as usize].load(Ordering::Relaxed));
    warp.0.wait();
    other
}

/// What stands in for an intrinsic: its name, and the function.
fn standins() -> [(&'static str, usize); 4] {
    [
        ("llvm.nvvm.read.ptx.sreg.tid.x", thread as *const () as usize),
        ("llvm.nvvm.read.ptx.sreg.ctaid.x", row as *const () as usize),
        ("llvm.nvvm.barrier.cta.sync.aligned.all", barrier as *const () as usize),
        ("llvm.nvvm.shfl.sync.bfly.f32", shuffle as *const () as usize),
    ]
}

/// The operands after the kernel of a row-wise step ran.
fn run(spec: &KernelSpec, batch: &Batch, before: &[Memory]) -> Vec<Memory> {
    let request = gpu::Request { name: "kernel", spec, variants: vec![], clocked: false };
    let llvm = gpu::compile(&[request], &Gpu::of(NvidiaArch::Sm90a)).unwrap().llvm;
    // The host has one launch at a time: nothing to wait for.
    let host = |line: &&str| !line.starts_with("target ") && !line.contains("\"griddepcontrol.");
    let mut text = llvm.lines().filter(host).collect::<Vec<_>>().join("\n");
    for word in [" addrspace(1)", " addrspace(3)", "ptx_kernel "] {
        text = text.replace(word, "");
    }
    for (i, (name, _)) in standins().iter().enumerate() {
        text = text.replace(name, &format!("standin{i}"));
    }
    assert!(!text.contains("llvm.nvvm"), "an intrinsic without a stand-in:\n{text}");
    let context = Context::create();
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "kernel");
    let module = context.create_module_from_ir(buffer).unwrap_or_else(|e| panic!("{}", e.to_string()));
    let engine = module.create_jit_execution_engine(OptimizationLevel::None).unwrap();
    for (i, (_, address)) in standins().into_iter().enumerate() {
        if let Some(function) = module.get_function(&format!("standin{i}")) {
            engine.add_global_mapping(&function, address);
        }
    }
    let entry = engine.get_function_address("kernel").unwrap();
    let rows = if spec.rows == Rows::Tokens { batch.rows() } else { batch.outputs() };
    let mut after = before.to_vec();
    let context = batch.context();
    let mut arguments = vec![std::ptr::from_ref(&context) as usize];
    arguments.extend(pointers(&mut after).iter().map(|p| *p as usize));
    arguments.push(0); // No row-wise kernel has scratch.
    launch(entry, &arguments, rows as u32);
    after
}

fn launch(entry: usize, arguments: &[usize], rows: u32) {
    let warp = || (Barrier::new(WARP as usize), std::array::from_fn(|_| AtomicU32::new(0)));
    let warps = (0..THREADS / WARP).map(|_| warp()).collect();
    let shared = Arc::new(Block { all: Barrier::new(THREADS as usize), warps });
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let shared = shared.clone();
            scope.spawn(move || {
                THREAD.set(number);
                BLOCK.set(Arc::as_ptr(&shared));
                for number in 0..rows {
                    ROW.set(number);
                    call(entry, arguments);
                    shared.all.wait();
                }
            });
        }
    });
}

fn call(entry: usize, arguments: &[usize]) {
    // SAFETY: the kernel takes as many pointers as it has operands, and two more; the memory was made for it.
    unsafe {
        match *arguments {
            [a, b, c, d] => {
                std::mem::transmute::<usize, extern "C" fn(usize, usize, usize, usize)>(entry)(a, b, c, d);
            }
            [a, b, c, d, e] => {
                std::mem::transmute::<usize, extern "C" fn(usize, usize, usize, usize, usize)>(entry)(
                    a, b, c, d, e,
                );
            }
            _ => unreachable!("row-wise ops have two or three operands"),
        }
    }
}

fn check(case: &Case) {
    let seed = std::env::var("HYC_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(Rng::fresh_seed);
    println!("HYC_SEED={seed} {}", case.name());
    let mut rng = Rng::of(seed, &case.name());
    let batch = case.batch(&mut rng);
    let before = memory(&mut rng, &case.spec, &batch, case.fill);
    let count = if case.spec.rows == Rows::Tokens { batch.rows() } else { batch.outputs() };
    let rows: Vec<u64> = (0..count).collect();
    let want = run_reference(&case.spec, &batch, &before, &rows);
    let got = run(&case.spec, &batch, &before);
    let step = Step { spec: &case.spec, batch: &batch, before: &before, want: &want, got: &got, rows: &rows };
    let limits = Limits { error: case.f32_error, bf16_cache: 0.0, margin: 0.0 };
    step.check(&limits).unwrap_or_else(|wrong| panic!("{}: {wrong:?}", case.name()));
}

/// The cases of all targets.
#[test]
fn ops_on_rows() {
    cases::portable()
        .iter()
        .filter(|case| case.small && ["rows", "rope"].contains(&&*case.family))
        .for_each(check);
}

fn tensor(width: u64) -> OperandSpec {
    OperandSpec::Tensor { elem: Elem::F32, width, stride: round_up(width, 16) }
}

fn weight(codec: Codec, layout: Layout) -> OperandSpec {
    OperandSpec::Weight(Format { codec, layout })
}

fn wide(op: StepOp, operands: Vec<OperandSpec>) {
    let rows = if matches!(op, StepOp::GatherRows(_)) { Rows::Outputs } else { Rows::Tokens };
    let spec = KernelSpec { op, operands, rows, max_rows: 64, max_context: 1024 };
    let (family, sequences) = ("wide".to_string(), vec![(9, 3), (0, 1)]);
    check(&Case { family, spec, sequences, fill: Fill::Random, small: true, f32_error: 2e-6 });
}

/// Whole chunks of 16 bytes for 256 threads, alone, with a rest, and more than go out at once.
const WIDTHS: [u64; 3] = [1024, 1030, 5128];

#[test]
fn wide_rows() {
    for width in WIDTHS {
        wide(StepOp::Add(ops::Add { width }), vec![tensor(width); 3]);
        wide(StepOp::SiluMul(ops::SiluMul { width }), vec![tensor(width); 3]);
        let bias = OperandSpec::Weight(Format { codec: Codec::F32, layout: Layout::Vector { len: width } });
        wide(StepOp::Bias(ops::Bias { width }), vec![tensor(width), bias, tensor(width)]);
        wide(StepOp::GatherRows(ops::GatherRows { width }), vec![tensor(width); 2]);
    }
}

#[test]
fn wide_gates() {
    for (heads, v_dim) in [(2, 3), (3, 20), (40, 128)] {
        let width = heads * v_dim;
        for (mode, gate) in [(GateMode::Head, heads), (GateMode::Elementwise, width)] {
            wide(
                StepOp::Gate(ops::Gate { heads, v_dim, mode }),
                vec![tensor(width), tensor(gate), tensor(width)],
            );
        }
    }
}

#[test]
fn wide_norms() {
    for (groups, width) in WIDTHS.map(|width| (1, width)).into_iter().chain([(2, 128), (11, 200)]) {
        let row = tensor(groups * width);
        let norm = weight(Codec::F32, Layout::Vector { len: width });
        wide(StepOp::RmsNorm(ops::RmsNorm { groups, width, eps: 1e-6 }), vec![row, norm, row]);
    }
}

#[test]
fn rotations() {
    for (heads, dim, dims) in [(2, 20, 12), (3, 128, 128), (16, 64, 48), (2, 7, 6), (1, 8, 0)] {
        let op = StepOp::Rope(ops::Rope { heads, dim, rope: RopeSpec::plain(10_000.0, dims) });
        wide(op, vec![tensor(heads * dim); 2]);
    }
}

#[test]
fn wide_tables_of_every_layout() {
    let vocab = 150;
    for hidden in WIDTHS {
        let op = StepOp::Embed(ops::Embed { vocab, hidden });
        let rows = Layout::Rows { rows: vocab, cols: hidden };
        let panels = |group| Layout::Panels { count: 1, out_features: vocab, in_features: hidden, group };
        let tiles = Layout::Tiles { count: 1, out_features: vocab, in_features: hidden };
        for codec in [Codec::F32, Codec::Bf16] {
            for layout in [rows, panels(vocab), panels(50)] {
                wide(op, vec![weight(codec, layout), tensor(hidden)]);
            }
        }
        wide(op, vec![weight(Codec::Bf16, tiles), tensor(hidden)]);
    }
}
