//! Runs a step on random memory with the reference and with generated code, and compares all that it wrote.

use hyc_ir::abi::{KernelFn, StepContext};
use hyc_ir::pack;
use hyc_ir::plan::*;
use hyc_kernels::cpu::{self, CpuTarget};
use hyc_kernels::reference;

/// A small deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// About a standard normal.
    pub fn normal(&mut self) -> f32 {
        let sum: f64 = (0..6).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        ((sum - 3.0) * std::f64::consts::SQRT_2) as f32
    }
}

/// Where the rows of a step stand: (tokens in the cache before, rows of this step) a sequence.
pub struct Batch {
    pub sequences: Vec<(u64, u64)>,
    pub max_pages: u64,
    positions: Vec<i32>,
    sequence: Vec<i32>,
    page_table: Vec<i32>,
    ring_slot: Vec<i32>,
    token_ids: Vec<i32>,
    out_rows: Vec<i32>,
}

impl Batch {
    pub fn new(rng: &mut Rng, page: u64, sequences: &[(u64, u64)], vocab: u64) -> Batch {
        let max_pages = sequences.iter().map(|(past, rows)| (past + rows).div_ceil(page)).max().unwrap() + 1;
        let count = sequences.len() as u64;
        let mut physical: Vec<i32> = (0..(count * max_pages) as i32).collect();
        for i in (1..physical.len()).rev() {
            physical.swap(i, rng.below(i as u64 + 1) as usize);
        }
        let mut batch = Batch {
            sequences: sequences.to_vec(),
            max_pages,
            positions: vec![],
            sequence: vec![],
            page_table: physical,
            ring_slot: (0..count as i32).rev().collect(),
            token_ids: vec![],
            out_rows: vec![],
        };
        for (i, (past, rows)) in sequences.iter().enumerate() {
            for row in 0..*rows {
                batch.positions.push((past + row) as i32);
                batch.sequence.push(i as i32);
                batch.token_ids.push(rng.below(vocab) as i32);
            }
            batch.out_rows.push(batch.positions.len() as i32 - 1);
        }
        batch
    }

    pub fn rows(&self) -> u64 {
        self.positions.len() as u64
    }

    pub fn pages(&self) -> u64 {
        self.page_table.len() as u64
    }

    pub fn context(&self) -> StepContext {
        StepContext {
            tokens: self.rows(),
            batch: self.sequences.len() as u64,
            outputs: self.out_rows.len() as u64,
            max_pages: self.max_pages,
            token_ids: self.token_ids.as_ptr(),
            positions: self.positions.as_ptr(),
            sequence: self.sequence.as_ptr(),
            page_table: self.page_table.as_ptr(),
            ring_slot: self.ring_slot.as_ptr(),
            out_rows: self.out_rows.as_ptr(),
            sampling: std::ptr::null(),
        }
    }
}

const GUARD: usize = 64;

/// Random memory for every operand; outputs and guards are NaN, caches NaN where nothing was appended.
pub fn memory(rng: &mut Rng, spec: &KernelSpec, batch: &Batch) -> Vec<Vec<u8>> {
    let roles = spec.op.signature();
    spec.operands
        .iter()
        .zip(&roles)
        .map(|(operand, role)| operand_memory(rng, spec, batch, operand, role))
        .collect()
}

fn operand_memory(
    rng: &mut Rng,
    spec: &KernelSpec,
    batch: &Batch,
    operand: &OperandSpec,
    role: &Role,
) -> Vec<u8> {
    match *operand {
        OperandSpec::Tensor { elem, width, stride } => {
            let rows = batch.rows().max(batch.sequences.len() as u64);
            let mut data = vec![f32::NAN; (rows * stride) as usize + GUARD];
            if role.write {
                return bytes(&data);
            }
            for row in 0..rows {
                for col in 0..width {
                    let at = (row * stride + col) as usize;
                    data[at] = rng.normal();
                    if elem == Elem::I32 {
                        data[at] = f32::from_bits(index(rng, spec, batch, row, col) as u32);
                    }
                }
            }
            bytes(&data)
        }
        OperandSpec::Weight { elem, layout } => {
            let count = match layout {
                Layout::Vector { len } => len,
                Layout::Rows { rows, cols } => rows * cols,
                Layout::Panels { count, out, inn, .. } | Layout::Tiles { count, out, inn } => {
                    count * out * inn
                }
            };
            let data: Vec<f32> = (0..count).map(|_| rng.normal()).collect();
            pack::pack(layout, elem, &data)
        }
        OperandSpec::Cache(cache) => cache_memory(rng, &cache, batch, role),
    }
}

/// Expert indices, distinct in a row; or distinct visible blocks with -1 behind them.
fn index(rng: &mut Rng, spec: &KernelSpec, batch: &Batch, row: u64, col: u64) -> i32 {
    let mut mix = Rng(row * 7919 + 13);
    match spec.op {
        StepOp::ExpertsUp { experts, .. } | StepOp::ExpertsDown { experts, .. } => {
            ((mix.below(experts) + col) % experts) as i32
        }
        StepOp::SparseAttention { select, .. } | StepOp::HybridAttention { select, .. } => {
            let position = batch.positions.get(row as usize).copied().unwrap_or(0) as u64;
            let visible = position / select.block + 1;
            let slot = col % select.blocks;
            let start = mix.below(visible) + col / select.blocks;
            if slot < visible { ((start + slot) % visible) as i32 } else { -1 }
        }
        _ => rng.below(2) as i32,
    }
}

/// Every position that a sequence has, this step's included unless the step appends; NaN elsewhere.
fn cache_memory(rng: &mut Rng, cache: &CacheSpec, batch: &Batch, role: &Role) -> Vec<u8> {
    let pages = match cache.policy {
        CachePolicy::Growing => batch.pages(),
        CachePolicy::Ring { pages, .. } => pages * batch.sequences.len() as u64,
    };
    let mut data = vec![f32::NAN; (pages * cache.page_elements()) as usize];
    for (i, (past, rows)) in batch.sequences.iter().enumerate() {
        let end = if role.write { *past } else { past + rows };
        for position in 0..end {
            let logical = position / cache.page;
            let physical = match cache.policy {
                CachePolicy::Growing => {
                    batch.page_table[i * batch.max_pages as usize + logical as usize] as u64
                }
                CachePolicy::Ring { pages, .. } => batch.ring_slot[i] as u64 * pages + logical % pages,
            };
            let base = physical * cache.page_elements();
            for head in 0..cache.kv_heads {
                for d in 0..cache.qk_dim {
                    data[(base + cache.key_index(head, position % cache.page, d)) as usize] = rng.normal();
                }
                for d in 0..cache.v_pad() {
                    data[(base + cache.value_index(head, position % cache.page, d)) as usize] = rng.normal();
                }
            }
        }
    }
    let mut out = Vec::new();
    pack::pack_row(cache.elem, &data, &mut out);
    out
}

fn bytes(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// 64-byte aligned copies, and their addresses.
struct Placed {
    store: Vec<Vec<u128>>,
    lens: Vec<usize>,
}

impl Placed {
    fn new(memory: &[Vec<u8>]) -> Placed {
        let store = memory.iter().map(|m| {
            let mut words = vec![0u128; m.len().div_ceil(16)];
            for (word, chunk) in words.iter_mut().zip(m.chunks(16)) {
                let mut raw = [0u8; 16];
                raw[..chunk.len()].copy_from_slice(chunk);
                *word = u128::from_le_bytes(raw);
            }
            words
        });
        Placed { store: store.collect(), lens: memory.iter().map(Vec::len).collect() }
    }

    fn pointers(&mut self) -> Vec<*mut u8> {
        self.store.iter_mut().map(|m| m.as_mut_ptr().cast()).collect()
    }

    fn take(&self) -> Vec<Vec<u8>> {
        let flat = |words: &Vec<u128>| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        self.store.iter().zip(&self.lens).map(|(words, len)| flat(words)[..*len].to_vec()).collect()
    }
}

/// The operands after the reference ran.
pub fn run_reference(spec: &KernelSpec, batch: &Batch, memory: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut placed = Placed::new(memory);
    // SAFETY: the memory was made for this spec and batch.
    unsafe { reference::run(spec, &batch.context(), &placed.pointers()) };
    placed.take()
}

/// Items of the whole grid.
pub fn items(spec: &KernelSpec, batch: &Batch) -> u64 {
    let panels = spec.operands.iter().find_map(|o| match o {
        OperandSpec::Weight { layout, .. } if layout.panels() > 0 => Some(layout.panels()),
        _ => None,
    });
    let grid = spec.op.grid(panels.unwrap_or(0), spec.rows);
    grid.per
        * match grid.dim {
            GridDim::One => 1,
            GridDim::Tokens => batch.rows(),
            GridDim::Outputs => batch.sequences.len() as u64,
        }
}

/// The operands after generated code ran over the grid in ranges of `step` items.
pub fn run_generated(
    spec: &KernelSpec,
    batch: &Batch,
    memory: &[Vec<u8>],
    target: CpuTarget,
    step: u64,
) -> Vec<Vec<u8>> {
    cpu::supports(spec).unwrap();
    let kernel = cpu::compile(spec, &target, false).unwrap();
    let mut map = memmap2::MmapMut::map_anon(kernel.code.len()).unwrap();
    map.copy_from_slice(&kernel.code);
    let map = map.make_exec().unwrap();
    // SAFETY: the code is a kernel of this type.
    let function: KernelFn = unsafe { std::mem::transmute(map.as_ptr()) };
    let mut placed = Placed::new(memory);
    let mut scratch = vec![u128::MAX; kernel.scratch_bytes as usize / 16 + 1];
    let context = batch.context();
    let pointers = placed.pointers();
    let all = items(spec, batch);
    for begin in (0..all).step_by(step as usize) {
        // SAFETY: the memory was made for this spec and batch.
        unsafe {
            function(&context, pointers.as_ptr(), begin, all.min(begin + step), scratch.as_mut_ptr().cast())
        };
    }
    placed.take()
}

fn floats(elem: Elem, bytes: &[u8]) -> Vec<f32> {
    (0..bytes.len() as u64 / elem.bytes()).map(|i| pack::load(elem, bytes, i)).collect()
}

/// Relative error ||a - b|| / ||b|| over what `b` defines: elements where the reference wrote nothing (NaN)
/// must still be NaN, unless they are a row's padding.
fn compare(name: &str, got: &[f32], want: &[f32], padding: impl Fn(usize) -> bool, tolerance: f64) {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        if padding(i) {
            continue;
        }
        assert_eq!(g.is_nan(), w.is_nan(), "{name}: element {i} is {g}, reference {w}");
        if !w.is_nan() {
            difference += f64::from(g - w).powi(2);
            norm += f64::from(*w).powi(2);
        }
    }
    let error = (difference / norm.max(1e-30)).sqrt();
    assert!(error < tolerance, "{name}: relative error {error:.2e}");
}

/// Checks generated code of both levels against the reference, and that splitting the grid changes no bit.
pub fn check(rng: &mut Rng, spec: &KernelSpec, batch: &Batch, tolerance: f64) {
    let memory = memory(rng, spec, batch);
    let want = run_reference(spec, batch, &memory);
    for level in [cpu::Level::Baseline, cpu::Level::V3] {
        if level == cpu::Level::V3 && CpuTarget::host().level != level {
            continue;
        }
        let target = CpuTarget { level };
        let got = run_generated(spec, batch, &memory, target, items(spec, batch).max(1));
        let roles = spec.op.signature();
        for (i, operand) in spec.operands.iter().enumerate() {
            let name = format!("{} {level:?} operand {i} ({})", spec.op.name(), roles[i].name);
            match *operand {
                _ if !roles[i].write => assert_eq!(got[i], memory[i], "{name}: an input changed"),
                OperandSpec::Tensor { elem: Elem::I32, .. } => assert_eq!(got[i], want[i], "{name}"),
                OperandSpec::Tensor { width, stride, .. } => {
                    let end = got[i].len() / 4 - GUARD;
                    let padding = |at: usize| at < end && (at as u64 % stride) >= width;
                    compare(
                        &name,
                        &floats(Elem::F32, &got[i]),
                        &floats(Elem::F32, &want[i]),
                        padding,
                        tolerance,
                    );
                }
                OperandSpec::Cache(cache) => {
                    let tolerance = if cache.elem == Elem::Bf16 { 3e-3 } else { tolerance };
                    compare(
                        &name,
                        &floats(cache.elem, &got[i]),
                        &floats(cache.elem, &want[i]),
                        |_| false,
                        tolerance,
                    );
                }
                OperandSpec::Weight { .. } => unreachable!("weights are not written"),
            }
        }
        for step in [1, 3] {
            let split = run_generated(spec, batch, &memory, target, step);
            assert!(split == got, "{}: ranges of {step} items give other bits", spec.op.name());
        }
    }
}
