//! Checked views of a step's memory: the only unsafe code of the reference.

use std::cell::Cell;

use hyc_plan::abi::StepContext;
use hyc_plan::sample::{SampleParams, Seen};
use hyc_plan::{CachePolicy, CacheSpec, Elem, Format, KernelSpec, KvCodec, OperandSpec, Rows};
use hyc_plan::{pack, tensor};

/// All operands of one step.
pub struct Views<'a> {
    spec: &'a KernelSpec,
    context: &'a StepContext,
    operands: &'a [*mut u8],
    rows: &'a [u64],
}

/// Rows of a step's tensors.
pub fn row_count(spec: &KernelSpec, context: &StepContext) -> u64 {
    match spec.rows {
        Rows::Tokens => context.tokens,
        Rows::Outputs => context.outputs,
    }
}

impl<'a> Views<'a> {
    /// # Safety
    /// As for [`super::run_rows`].
    pub unsafe fn new(
        spec: &'a KernelSpec,
        context: &'a StepContext,
        operands: &'a [*mut u8],
        rows: &'a [u64],
    ) -> Views<'a> {
        assert_eq!(spec.operands.len(), operands.len());
        Views { spec, context, operands, rows }
    }

    /// Rows to compute.
    pub fn rows(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.rows.iter().copied()
    }

    fn int(&self, table: *const i32, at: u64, len: u64) -> i32 {
        assert!(at < len);
        // SAFETY: the tables have the lengths that the context states, checked above.
        unsafe { *table.add(at as usize) }
    }

    /// How many rows the step has, of which [`Views::rows`] may be some.
    pub fn all_rows(&self) -> u64 {
        row_count(self.spec, self.context)
    }

    /// Tokens of the step.
    pub fn tokens(&self) -> u64 {
        self.context.tokens
    }

    /// Token id of a row.
    pub fn token_id(&self, row: u64) -> u64 {
        self.int(self.context.token_ids, row, self.context.tokens) as u64
    }

    /// Position of a row.
    pub fn position(&self, row: u64) -> u64 {
        self.int(self.context.positions, row, self.context.tokens) as u64
    }

    /// Sequence of a row.
    pub fn sequence(&self, row: u64) -> u64 {
        self.int(self.context.sequence, row, self.context.tokens) as u64
    }

    /// Row of an output.
    pub fn out_row(&self, output: u64) -> u64 {
        self.int(self.context.out_rows, output, self.context.outputs) as u64
    }

    /// How a row of logits is sampled.
    pub fn sampling(&self, output: u64) -> SampleParams {
        assert!(output < self.context.outputs && !self.context.sampling.is_null());
        // SAFETY: a pass that samples has parameters for each of its outputs.
        unsafe { *self.context.sampling.add(output as usize) }
    }

    /// The tokens that penalties look at, of all rows.
    pub fn seen(&self) -> &'a [Seen] {
        if self.context.seen.is_null() {
            return &[];
        }
        // SAFETY: the list has the length that the context states.
        unsafe { std::slice::from_raw_parts(self.context.seen, self.context.seen_count as usize) }
    }

    /// Where an operand stands.
    fn at(&self, name: &str) -> usize {
        let at = self.spec.at(name);
        at.unwrap_or_else(|| panic!("`{}` has no operand `{name}`", self.spec.op.name()))
    }

    /// A tensor.
    pub fn tensor(&self, name: &str) -> TensorView<'_> {
        let i = self.at(name);
        let OperandSpec::Tensor { elem, width, stride } = self.spec.operands[i] else {
            panic!("operand `{name}` is no tensor")
        };
        TensorView { context: self.context, base: self.operands[i], elem, width, stride }
    }

    /// A weight.
    pub fn weight(&self, name: &str) -> WeightView<'a> {
        let i = self.at(name);
        let OperandSpec::Weight(format) = self.spec.operands[i] else {
            panic!("operand `{name}` is no weight")
        };
        // SAFETY: the weight has the bytes that its format states, and nobody writes weights.
        let bytes = unsafe { std::slice::from_raw_parts(self.operands[i], format.bytes() as usize) };
        WeightView { format, bytes }
    }

    /// A cache.
    pub fn cache(&self, name: &str) -> CacheView<'_> {
        let i = self.at(name);
        let OperandSpec::Cache(spec) = self.spec.operands[i] else { panic!("operand `{name}` is no cache") };
        CacheView { views: self, spec, base: self.operands[i] }
    }
}

/// A tensor.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    context: &'a StepContext,
    base: *mut u8,
    elem: Elem,
    width: u64,
    stride: u64,
}

impl TensorView<'_> {
    fn cell<T>(&self, row: u64, col: u64) -> &Cell<T> {
        // GatherRows alone reads rows that are not its own; `out_row` has checked nothing of them.
        assert!(col < self.width && row < self.context.tokens.max(self.context.outputs));
        assert_eq!(size_of::<T>() as u64, self.elem.bytes());
        let at = tensor::index(self.elem, self.stride, row, col);
        // SAFETY: the tensor has the rows and the stride that the spec states, and its elements are of this size.
        unsafe { &*self.base.cast::<Cell<T>>().add(at as usize) }
    }

    /// An element of f32 or bf16.
    pub fn get(&self, row: u64, col: u64) -> f64 {
        f64::from(match self.elem {
            Elem::Bf16 => pack::bf16_to_f32(self.cell(row, col).get()),
            Elem::F32 | Elem::I32 => self.cell::<f32>(row, col).get(),
        })
    }

    /// Stores one.
    pub fn set(&self, row: u64, col: u64, value: f64) {
        match self.elem {
            Elem::Bf16 => self.cell(row, col).set(pack::f32_to_bf16(value as f32)),
            Elem::F32 | Elem::I32 => self.cell::<f32>(row, col).set(value as f32),
        }
    }

    /// An element of i32.
    pub fn get_int(&self, row: u64, col: u64) -> i32 {
        self.cell::<i32>(row, col).get()
    }

    /// Stores an i32.
    pub fn set_int(&self, row: u64, col: u64, value: i32) {
        self.cell::<i32>(row, col).set(value);
    }

    /// `width` elements of a row, f32 or bf16.
    pub fn row(&self, row: u64, width: u64) -> Vec<f64> {
        (0..width).map(|col| self.get(row, col)).collect()
    }
}

/// A weight in any format.
pub struct WeightView<'a> {
    format: Format,
    bytes: &'a [u8],
}

impl WeightView<'_> {
    /// Element (`row`, `col`); a vector has row 0 alone.
    pub fn get(&self, row: u64, col: u64) -> f64 {
        f64::from(pack::get(self.format, self.bytes, row, col))
    }

    /// The first `width` elements of a row.
    pub fn row(&self, row: u64, width: usize) -> Vec<f64> {
        let row = pack::load_row(self.format, self.bytes, row, width as u64);
        row.into_iter().map(f64::from).collect()
    }

    /// Row `row` times `x`.
    pub fn dot(&self, row: u64, x: &[f64]) -> f64 {
        dot(&self.row(row, x.len()), x)
    }
}

/// The inner product, in eight chains so that it is not bound by one sum's latency.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    const CHAINS: usize = 8;
    let mut sums = [0.0; CHAINS];
    let (a, b) = (a.chunks_exact(CHAINS), b.chunks_exact(CHAINS));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for i in 0..CHAINS {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// A KV cache.
pub struct CacheView<'a> {
    views: &'a Views<'a>,
    /// Its constants.
    pub spec: CacheSpec,
    base: *mut u8,
}

impl CacheView<'_> {
    /// Where the page that holds a position begins, in bytes.
    fn page(&self, sequence: u64, position: u64) -> u64 {
        self.physical(sequence, position / self.spec.page) * self.spec.page_bytes()
    }

    /// The page that is the `logical`-th of a sequence.
    pub fn physical(&self, sequence: u64, logical: u64) -> u64 {
        let context = self.views.context;
        assert!(sequence < context.batch);
        match self.spec.policy {
            CachePolicy::Growing => {
                assert!(logical < context.max_pages);
                let at = sequence * context.max_pages + logical;
                self.views.int(context.page_table, at, context.batch * context.max_pages) as u64
            }
            CachePolicy::Ring { pages, .. } => {
                let slot = self.views.int(context.ring_slot, sequence, context.batch) as u64;
                slot * pages + logical % pages
            }
        }
    }

    /// A number of the page that begins at `page`, `offset` bytes into it.
    fn at<T>(&self, page: u64, offset: u64) -> &Cell<T> {
        let at = page + offset;
        assert!(offset + size_of::<T>() as u64 <= self.spec.page_bytes() && at % align_of::<T>() as u64 == 0);
        // SAFETY: the bytes lie in a page that the step's page table or ring slot names, and the step that
        // appends is the only one that runs. Pools begin at multiples of 64.
        unsafe { &*self.base.add(at as usize).cast::<Cell<T>>() }
    }

    /// Code `index` of a page.
    fn load(&self, page: u64, index: u64) -> f64 {
        match self.spec.codec {
            KvCodec::Bf16 => f64::from(pack::bf16_to_f32(self.at::<u16>(page, 2 * index).get())),
            KvCodec::F32 => f64::from(self.at::<f32>(page, 4 * index).get()),
            codec @ (KvCodec::Int8 | KvCodec::Fp8) => {
                f64::from(codec.decode(&[self.at::<u8>(page, index).get()], 1.0))
            }
        }
    }

    fn store(&self, page: u64, index: u64, value: f64) {
        match self.spec.codec {
            KvCodec::Bf16 => self.at(page, 2 * index).set(pack::f32_to_bf16(value as f32)),
            KvCodec::F32 => self.at(page, 4 * index).set(value as f32),
            KvCodec::Int8 | KvCodec::Fp8 => panic!("a code has no scale by itself"),
        }
    }

    /// The scale of the codes of a key, or of a value.
    fn scale(&self, page: u64, head: u64, place: u64, values: bool) -> f64 {
        if !self.spec.codec.scaled() {
            return 1.0;
        }
        f64::from(self.at::<f32>(page, self.spec.scale_offset(head, values) + 4 * place).get())
    }

    /// Stores a key, or a value, as codes with their scale.
    pub fn quantise(&self, (sequence, position): (u64, u64), head: u64, values: bool, vector: &[f64]) {
        let (page, place) = (self.page(sequence, position), position % self.spec.page);
        // What is read of a cache is f32, or less.
        let vector: Vec<f32> = vector.iter().map(|x| *x as f32).collect();
        let mut codes = Vec::new();
        let scale = self.spec.codec.encode(&vector, &mut codes);
        for (code, dim) in codes.into_iter().zip(0..) {
            self.at(page, self.spec.index(head, place, dim, values)).set(code);
        }
        self.at(page, self.spec.scale_offset(head, values) + 4 * place).set(scale);
    }

    /// A key.
    pub fn key(&self, sequence: u64, position: u64, head: u64) -> Vec<f64> {
        assert!(head < self.spec.kv_heads);
        let (page, place) = (self.page(sequence, position), position % self.spec.page);
        let scale = self.scale(page, head, place, false);
        let key = |d| self.load(page, self.spec.key_index(head, place, d)) * scale;
        (0..self.spec.qk_dim).map(key).collect()
    }

    /// A value.
    pub fn value(&self, sequence: u64, position: u64, head: u64) -> Vec<f64> {
        assert!(head < self.spec.kv_heads);
        let (page, place) = (self.page(sequence, position), position % self.spec.page);
        let scale = self.scale(page, head, place, true);
        let value = |d| self.load(page, self.spec.value_index(head, place, d)) * scale;
        (0..self.spec.v_dim).map(value).collect()
    }

    /// Stores a key's element.
    pub fn set_key(&self, sequence: u64, position: u64, head: u64, dim: u64, value: f64) {
        assert!(head < self.spec.kv_heads && dim < self.spec.qk_dim);
        let page = self.page(sequence, position);
        self.store(page, self.spec.key_index(head, position % self.spec.page, dim), value);
    }

    /// Stores a value's element.
    pub fn set_value(&self, sequence: u64, position: u64, head: u64, dim: u64, value: f64) {
        assert!(head < self.spec.kv_heads && dim < self.spec.v_dim);
        let page = self.page(sequence, position);
        self.store(page, self.spec.value_index(head, position % self.spec.page, dim), value);
    }
}
