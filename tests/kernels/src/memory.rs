//! Random memory for a kernel's operands.

use hyc_kernels::reference;
use hyc_plan::*;
use hyc_plan::{pack, tensor};

use crate::{Batch, Fill, Rng, large};

/// Elements behind a tensor or a cache that nobody may write.
const GUARD: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes at a multiple of 64.
#[derive(Clone)]
pub struct Memory {
    lines: Vec<Line>,
    len: usize,
}

impl Memory {
    /// A copy of `bytes`.
    pub fn new(bytes: &[u8]) -> Memory {
        let mut memory = Memory::filled(bytes.len(), 0);
        memory.bytes_mut().copy_from_slice(bytes);
        memory
    }

    /// `len` equal bytes.
    pub fn filled(len: usize, byte: u8) -> Memory {
        Memory { lines: vec![Line([byte; 64]); len.div_ceil(64)], len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines are plain bytes, at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// Memory for every operand: inputs as `fill` says; outputs, row padding, guards, and whatever of a cache
/// nobody appended are NaN.
pub fn memory(rng: &mut Rng, spec: &KernelSpec, batch: &Batch, fill: Fill) -> Vec<Memory> {
    let roles = spec.op.roles();
    let one = |(operand, role): (&OperandSpec, &Role)| match *operand {
        OperandSpec::Tensor { elem, width, stride } => {
            Memory::new(&rows(rng, spec, batch, fill, role, (elem, width, stride)))
        }
        OperandSpec::Weight(Format { layout: Layout::Vector { len }, .. })
            if fill == Fill::LargeLogits && role.name == "sink" =>
        {
            let sinks: Vec<f32> = (0..len).map(large::sink).collect();
            Memory::new(&packed(Elem::F32, &sinks))
        }
        OperandSpec::Weight(Format { layout: Layout::Vector { len }, .. })
            if matches!(spec.op, StepOp::Router(_)) =>
        {
            let biases: Vec<f32> = (0..len).map(|_| fill.choice_bias(rng)).collect();
            Memory::new(&packed(Elem::F32, &biases))
        }
        OperandSpec::Weight(format) => Memory::new(&weight(rng, format)),
        OperandSpec::Cache(cache) => Memory::new(&cache_memory(rng, &cache, batch, fill, role)),
    };
    let mut memory: Vec<Memory> = spec.operands.iter().zip(&roles).map(one).collect();
    if let Some(at) = roles.iter().position(|role| matches!(role.kind, Kind::PageLists { .. }))
        && !roles[at].writes()
    {
        memory[at] = page_lists(spec, batch, &roles, (at, &memory));
    }
    memory
}

/// The lists that stand beside the selection.
fn page_lists(spec: &KernelSpec, batch: &Batch, roles: &[Role], (at, memory): (usize, &[Memory])) -> Memory {
    let Kind::PageLists { select, lists, of } = roles[at].kind else { unreachable!("no page lists") };
    let named = |name: &str| roles.iter().position(|role| role.name == name).expect("an operand");
    let selection = named(of);
    let Kind::Selection { over, .. } = roles[selection].kind else { unreachable!("no selection") };
    let all = [named(over), selection, at];
    let OperandSpec::Cache(CacheSpec { qk_dim, v_dim, .. }) = spec.operands[all[0]] else {
        unreachable!("no cache")
    };
    let op = StepOp::PageLists(ops::PageLists { select, qk_dim, v_dim, lists });
    let operands = all.map(|at| spec.operands[at]).to_vec();
    let spec = KernelSpec { op, operands, ..spec.clone() };
    let mut memory = all.map(|at| memory[at].clone());
    let addresses = memory.each_mut().map(|memory| memory.bytes_mut().as_mut_ptr());
    // SAFETY: the memory was made for operands of these shapes and this batch, and is nobody else's.
    unsafe { reference::run(&spec, &batch.context(), &addresses) };
    let [_, _, lists] = memory;
    lists
}

/// Rows that a tensor has memory for.
pub(crate) fn memory_rows(batch: &Batch) -> u64 {
    batch.rows().max(batch.outputs())
}

fn rows(
    rng: &mut Rng,
    spec: &KernelSpec,
    batch: &Batch,
    fill: Fill,
    role: &Role,
    (elem, width, stride): (Elem, u64, u64),
) -> Vec<u8> {
    let rows = memory_rows(batch);
    let bytes = tensor::bytes(elem, rows, width).expect("a tensor that can be");
    // In tiles a block copies rows that there are not, whose results nobody looks at.
    let mut data = vec![f32::NAN; (bytes / elem.bytes()) as usize + GUARD];
    if !role.writes() {
        for row in 0..rows {
            for col in 0..width {
                data[tensor::index(elem, stride, row, col) as usize] = match elem {
                    _ if let (
                        Fill::LargeLogits,
                        StepOp::OracleAttention(ops::OracleAttention { shape, .. }),
                    ) = (fill, spec.op) =>
                    {
                        large::query(rng, col / shape.qk_dim, col % shape.qk_dim)
                    }
                    _ if matches!(spec.op, StepOp::Sample(_)) => fill.logit(rng, (row, col), width),
                    _ if matches!((fill, spec.op), (Fill::BadLogits, StepOp::Router(_))) => {
                        fill.logit(rng, (row, col), width)
                    }
                    _ if matches!((fill, spec.op), (Fill::TiedLogits, StepOp::Router(_))) => {
                        rng.normal().round()
                    }
                    _ if fill == Fill::UnevenRows && role.name == "x" => Fill::uneven(rng, (row, col)),
                    Elem::I32 if matches!(role.kind, Kind::PageLists { .. }) => f32::NAN,
                    Elem::I32 => f32::from_bits(index(rng, spec, batch, fill, row, col) as u32),
                    _ => rng.normal(),
                };
            }
        }
    }
    packed(if elem == Elem::Bf16 { elem } else { Elem::F32 }, &data)
}

/// Weights of a size that leaves a product's results about as large as its inputs.
fn weight(rng: &mut Rng, format: Format) -> Vec<u8> {
    let (count, in_features) = match format.layout {
        Layout::Vector { len } => (len, 1),
        Layout::Rows { rows, cols } => (rows * cols, 1),
        Layout::Panels { count, out_features: out, in_features, .. }
        | Layout::Tiles { count, out_features: out, in_features }
        | Layout::Strips { count, out_features: out, in_features } => {
            (count * out * in_features, in_features)
        }
    };
    let scale = 1.0 / (in_features as f32).sqrt();
    let data: Vec<f32> = (0..count).map(|_| rng.normal() * scale).collect();
    pack::pack(format, &data)
}

/// Expert indices, distinct in a row; or distinct visible blocks with -1 behind them.
fn index(rng: &mut Rng, spec: &KernelSpec, batch: &Batch, fill: Fill, row: u64, col: u64) -> i32 {
    let mut mix = Rng(if fill == Fill::SameExperts { 13 } else { row * 7919 + 13 });
    match spec.op {
        StepOp::ExpertsUp(ops::ExpertsUp { experts, .. })
        | StepOp::ExpertsDown(ops::ExpertsDown { experts, .. }) => {
            ((mix.below(experts) + col) % experts) as i32
        }
        StepOp::SparseAttention(ops::SparseAttention { select, .. })
        | StepOp::PageLists(ops::PageLists { select, .. })
        | StepOp::HybridAttention(ops::HybridAttention { select, .. }) => {
            let visible = batch.position(row) / select.block + 1;
            let (slot, kv_head) = (col % select.blocks, col / select.blocks);
            let (start, among) = match fill {
                Fill::SameBlocks => (3, batch.sequences[batch.sequence(row)].0 / select.block + 1),
                Fill::OwnBlocks => (row * select.blocks, visible),
                _ => (mix.below(visible), visible),
            };
            let step = match fill {
                Fill::SameBlocks | Fill::OwnBlocks => 1,
                _ => (1 + mix.below(among)..).find(|step| coprime(*step, among)).unwrap_or(1),
            };
            if slot < among { ((start + kv_head + slot * step) % among) as i32 } else { -1 }
        }
        _ => rng.below(2) as i32,
    }
}

fn coprime(mut a: u64, mut b: u64) -> bool {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// Every position that a sequence has, this step's included unless the step appends.
fn cache_memory(rng: &mut Rng, cache: &CacheSpec, batch: &Batch, fill: Fill, role: &Role) -> Vec<u8> {
    let mut bytes = nobodys(cache, batch.pages(cache));
    // Padding of values is read, and changes nothing.
    let padded = CacheSpec { v_dim: cache.v_pad(), ..*cache };
    for (i, (past, rows)) in batch.sequences.iter().enumerate() {
        let end = if role.writes() { *past } else { past + rows };
        for position in 0..end {
            let (base, place) = (batch.page_base(cache, i, position), position % cache.page);
            let page = &mut bytes[base as usize..][..cache.page_bytes() as usize];
            for head in 0..cache.kv_heads {
                let key: Vec<f32> = (0..cache.qk_dim)
                    .map(|d| match fill {
                        Fill::EqualKeys => 1.0,
                        Fill::LargeLogits => large::key(rng, d),
                        Fill::OddVectors => odd(rng, position + head, d),
                        _ => rng.normal(),
                    })
                    .collect();
                let value: Vec<f32> = (0..cache.v_pad())
                    .map(|d| match fill {
                        Fill::OddVectors => odd(rng, position + head + 5, d),
                        _ => rng.normal(),
                    })
                    .collect();
                padded.store(page, head, place, false, &key);
                padded.store(page, head, place, true, &value);
            }
        }
    }
    bytes
}

/// Pages in which no number is one, and what stands behind them.
fn nobodys(cache: &CacheSpec, pages: u64) -> Vec<u8> {
    if let Some(elem) = cache.codec.elem() {
        return packed(elem, &vec![f32::NAN; (pages * cache.page_elements()) as usize + GUARD]);
    }
    // NaN as a code of fp8, and as a scale.
    let mut bytes = vec![0x7f; (pages * cache.page_bytes()) as usize + 4 * GUARD];
    for page in bytes.chunks_exact_mut(cache.page_bytes() as usize).take(pages as usize) {
        let scales = page[cache.scale_offset(0, false) as usize..].chunks_exact_mut(4);
        scales.for_each(|scale| scale.copy_from_slice(&f32::NAN.to_le_bytes()));
    }
    bytes
}

/// Element `d` of the `n`-th vector of [`Fill::OddVectors`].
fn odd(rng: &mut Rng, n: u64, d: u64) -> f32 {
    let normal = rng.normal();
    match n % 11 {
        0 => 0.0,
        1 => -0.0,
        // The largest number makes the scale that times 127 is infinite, where it is rounded up.
        2 => {
            if d == 1 {
                f32::MAX
            } else {
                normal * 1e38
            }
        }
        3 => normal * 1e-38,
        // Subnormal numbers, whose scale is none or a few of the least.
        4 => normal.signum() * f32::from_bits(90 + 10 * d as u32),
        // Halves of codes of int8, and eighths of those of fp8.
        5 => {
            if d == 0 {
                127.0
            } else {
                d as f32 * 3.5 - 100.0
            }
        }
        6 => {
            if d == 0 {
                -448.0
            } else {
                d as f32 * 0.25 * 2f32.powi(d as i32 % 12 - 9)
            }
        }
        7 => {
            if d == 2 {
                f32::NAN
            } else {
                normal
            }
        }
        8 => {
            if d == 3 {
                f32::NEG_INFINITY
            } else {
                normal
            }
        }
        // One large number, beside which the others have few bits.
        9 => {
            if d == 4 {
                300.0
            } else {
                normal
            }
        }
        _ => normal,
    }
}

fn packed(elem: Elem, data: &[f32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() * elem.bytes() as usize);
    pack::pack_row(elem, data, &mut out);
    out
}
