//! A hand-made artefact and kernels in plain Rust: what the runtime's tests run without a compiler.
//!
//! The model: `x = table[token]`; a = causal attention of x over all x before it (a growing cache); b = the
//! same over the last [`WINDOW`] (a ring); `logits = W (a + b)`. [`naive`] computes it from the tokens alone.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyc_plan::abi::StepContext;
use hyc_plan::artefact::{
    ALIGN, CODE, HASH_KEY, LEAF, NO_HASH, PAD, PLAN_KEY, ROOT_KEY, TOKENIZER, TREE, VERSION, VERSION_KEY,
};
use hyc_plan::sample::penalise_and_choose;
use hyc_plan::*;
use hyc_runtime::{Error, Kernels, LoadOptions, Model, StepCall};
use serde_json::{Map, Value, json};

pub const VOCAB: usize = 16;
pub const WIDTH: usize = 16;
pub const WINDOW: usize = 5;
/// A token whose embedding is infinite.
pub const BAD_TOKEN: u32 = 15;

/// A small generator of test data.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    /// Tokens with finite embeddings.
    pub fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(BAD_TOKEN as usize) as u32).collect()
    }
}

fn table() -> Vec<f32> {
    let mut random = Random(1);
    let mut list: Vec<f32> = (0..VOCAB * WIDTH).map(|_| random.below(2000) as f32 / 1000.0 - 1.0).collect();
    list[BAD_TOKEN as usize * WIDTH..].fill(f32::INFINITY);
    list
}

/// `[out][in_features]`. The bad token's logit is zero, so that greedy decoding never chooses it.
fn head() -> Vec<f32> {
    let mut random = Random(2);
    let mut list: Vec<f32> = (0..VOCAB * WIDTH).map(|_| random.below(2000) as f32 / 1000.0 - 1.0).collect();
    list[BAD_TOKEN as usize * WIDTH..].fill(0.0);
    list
}

fn attend(q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f32> {
    let dot = |k: &&[f32]| q.iter().zip(*k).map(|(a, b)| a * b).sum::<f32>() / (q.len() as f32).sqrt();
    let scores: Vec<f32> = keys.iter().map(dot).collect();
    let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|s| (s - top).exp()).collect();
    let total: f32 = weights.iter().sum();
    (0..q.len()).map(|d| weights.iter().zip(values).map(|(w, v)| w * v[d]).sum::<f32>() / total).collect()
}

/// Logits after the last of `tokens`, without caches or chunks.
pub fn naive(tokens: &[u32]) -> Vec<f32> {
    let (table, head) = (table(), head());
    let rows: Vec<&[f32]> = tokens.iter().map(|t| &table[*t as usize * WIDTH..][..WIDTH]).collect();
    let q = rows[rows.len() - 1];
    let recent = &rows[rows.len().saturating_sub(WINDOW)..];
    let (a, b) = (attend(q, &rows, &rows), attend(q, recent, recent));
    let s: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    (0..VOCAB).map(|o| head[o * WIDTH..][..WIDTH].iter().zip(&s).map(|(w, x)| w * x).sum()).collect()
}

pub fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    // NaN is near nothing.
    let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()));
    assert!(found.len() == expected.len() && near, "{what}: {found:?} is not {expected:?}");
}

/// Three sequences of at most 40 tokens, 8 rows per step, pages of 4.
pub fn plan() -> Plan {
    let (b, w, c) =
        (|i| Operand::Buffer(BufferId(i)), |i| Operand::Weight(WeightId(i)), |i| Operand::Cache(CacheId(i)));
    let (tokens, outputs) = (Rows::Tokens, Rows::Outputs);
    let width = WIDTH as u64;
    let shape = AttnShape { heads: 1, kv_heads: 1, qk_dim: width, v_dim: width };
    let append = StepOp::Append(ops::Append { kv_heads: 1, qk_dim: width, v_dim: width });
    let kernels = std::cell::Cell::new(0);
    let step = |name: &str, layer, op, operands| Step {
        name: name.into(),
        layer,
        op,
        operands,
        kernel: KernelId(kernels.replace(kernels.get() + 1)),
    };
    let buffer = |(i, (name, rows)): (usize, (&str, Rows))| Buffer {
        name: name.into(),
        offset: i as u64 * 512,
        rows,
        max_rows: 8,
        width,
        elem: Elem::F32,
        selection: None,
    };
    let cache = |owner: u32, policy| Cache {
        name: format!("kv{owner}"),
        owner,
        readers: vec![owner],
        kv_heads: 1,
        qk_dim: width,
        v_dim: width,
        codec: KvCodec::F32,
        page: 4,
        policy,
        order: KvOrder::Columns,
    };
    let weight = |name: &str, layout| Weight {
        name: name.into(),
        shape: vec![width, width],
        format: Format { codec: Codec::F32, layout },
    };
    let names = ["x", "a", "b", "s", "last", "logits"].into_iter();
    let rows = [tokens, tokens, tokens, tokens, outputs, outputs];
    let window = WINDOW as u64;
    let mut plan = Plan {
        version: PLAN_VERSION,
        model: ModelInfo {
            name: "hand-made".into(),
            layers: 2,
            hidden: width,
            vocab: VOCAB as u64,
            named: None,
            max_context: 40,
            max_batch: 3,
            chunk: 8,
            max_outputs: 8,
            page: 4,
        },
        target: Target::Host { arch: std::env::consts::ARCH.into(), features: vec![] },
        arena_bytes: 6 * 512,
        buffers: names.zip(rows).enumerate().map(buffer).collect(),
        weights: vec![
            weight("table", Layout::Rows { rows: VOCAB as u64, cols: width }),
            weight(
                "head",
                Layout::Panels {
                    count: 1,
                    out_features: VOCAB as u64,
                    in_features: width,
                    group: VOCAB as u64,
                },
            ),
        ],
        caches: vec![cache(0, CachePolicy::Growing), cache(1, CachePolicy::Ring { window, pages: 5 })],
        steps: vec![
            step(
                "embed",
                None,
                StepOp::Embed(ops::Embed { vocab: VOCAB as u64, hidden: width }),
                vec![w(0), b(0)],
            ),
            step("L0.append", Some(0), append, vec![b(0), b(0), c(0)]),
            step(
                "L0.full",
                Some(0),
                StepOp::FullAttention(ops::FullAttention { shape, sink: false }),
                vec![b(0), c(0), b(1)],
            ),
            step("L1.append", Some(1), append, vec![b(0), b(0), c(1)]),
            step(
                "L1.window",
                Some(1),
                StepOp::WindowAttention(ops::WindowAttention { shape, window, sink: false }),
                vec![b(0), c(1), b(2)],
            ),
            step("add", Some(1), StepOp::Add(ops::Add { width }), vec![b(1), b(2), b(3)]),
            step("gather", None, StepOp::GatherRows(ops::GatherRows { width }), vec![b(3), b(4)]),
            step(
                "logits",
                None,
                StepOp::Linear(ops::Linear {
                    in_features: width,
                    out_features: VOCAB as u64,
                    norm: None,
                    epilogue: Epilogue::Store,
                    fp8_rows: None,
                }),
                vec![b(4), w(1), b(5)],
            ),
        ],
        kernels: vec![],
        chains: vec![],
        logits: BufferId(5),
        sampled: None,
        slices: vec![],
        slice_kernels: vec![],
    };
    let kernels = plan.steps.iter().zip(0..);
    let kernels =
        kernels.map(|(step, i)| Kernel::of_one_variant(format!("k{i}"), &plan.spec(step), &plan.target));
    plan.kernels = kernels.collect();
    plan
}

/// One tensor of a file in the making.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// What a file in the making holds.
#[derive(Clone)]
pub struct Parts {
    pub version: String,
    pub plan: Plan,
    pub tensors: Vec<Tensor>,
    /// Whether the code stays bound to the plan that it is bound to already.
    pub sealed: bool,
    /// More of the header's metadata.
    pub metadata: Map<String, Value>,
}

fn le(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

impl Parts {
    /// The tokenizer would have so many entries.
    pub fn named(mut self, named: u64) -> Parts {
        self.plan.model.named = Some(named);
        self
    }

    /// The plan ends with a step that chooses tokens.
    pub fn sampling(mut self) -> Parts {
        let plan = &mut self.plan;
        let id = KernelId(plan.kernels.len() as u32);
        let op = StepOp::Sample(ops::Sample { vocab: VOCAB as u64, named: plan.model.named });
        let to = BufferId(plan.buffers.len() as u32);
        plan.buffers.push(Buffer {
            name: "sampled".into(),
            offset: plan.arena_bytes,
            width: 1,
            elem: Elem::I32,
            ..plan.buffers[5].clone()
        });
        plan.arena_bytes += 512;
        plan.sampled = Some(to);
        plan.steps.push(Step {
            name: "sample".into(),
            layer: None,
            op,
            operands: vec![Operand::Buffer(plan.logits), Operand::Buffer(to)],
            kernel: id,
        });
        let spec = plan.spec(&plan.steps[plan.steps.len() - 1]);
        plan.kernels.push(Kernel::of_one_variant("sample".into(), &spec, &plan.target));
        self
    }

    pub fn new() -> Parts {
        let head = head();
        // [panel][in_features][lane]
        let panels = (0..WIDTH).flat_map(|i| (0..16).map(move |o| (o, i))).map(|(o, i)| head[o * WIDTH + i]);
        let tensor =
            |name: &str, shape: Vec<usize>, bytes| Tensor { name: name.into(), dtype: "F32", shape, bytes };
        Parts {
            version: VERSION.to_string(),
            plan: plan(),
            tensors: vec![
                tensor("table", vec![VOCAB, WIDTH], le(table())),
                tensor("head", vec![1, WIDTH, 16], le(panels)),
            ],
            sealed: false,
            metadata: Map::new(),
        }
    }

    pub fn with_bytes(mut self, name: &str, bytes: Vec<u8>) -> Parts {
        self.tensors.push(Tensor { name: name.into(), dtype: "U8", shape: vec![bytes.len()], bytes });
        self
    }

    /// Code of the kernels, which returns at once: 40 bytes each, so that a pad must follow.
    pub fn with_code(mut self) -> Parts {
        let code = hyc_plan::bind::lay_out(&mut self.plan, &vec![vec![0xc3; 40]; 8]);
        self.with_bytes(CODE, code)
    }

    /// A tensor's bytes; code is bound to the plan as it is now, where that is a valid one.
    fn bytes(&self, tensor: &Tensor) -> Vec<u8> {
        let mut bytes = tensor.bytes.clone();
        if tensor.name == CODE && !self.sealed && self.plan.verify().is_ok() {
            hyc_plan::bind::seal(&self.plan, &mut bytes);
        }
        bytes
    }

    pub fn with_metadata(mut self, key: &str, value: &str) -> Parts {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// A tokenizer whose token i is the i-th letter.
    pub fn with_tokenizer(self) -> Parts {
        let vocab: Map<String, Value> =
            (0..VOCAB as u8).map(|i| (char::from(b'a' + i).to_string(), json!(i))).collect();
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "a"},
        });
        self.with_bytes(TOKENIZER, json.to_string().into_bytes())
    }

    /// The file, written after the words of `hyc_plan::artefact` alone.
    pub fn file(&self) -> Vec<u8> {
        let (mut header, mut tree, mut data) = (Map::new(), Vec::new(), Vec::new());
        for (i, tensor) in self.tensors.iter().enumerate() {
            let len = tensor.bytes.len();
            let pad = len.next_multiple_of(ALIGN as usize) - len;
            let mut put = |name: &str, dtype: &str, shape: &[usize], bytes: &[u8]| {
                let offsets = [data.len(), data.len() + bytes.len()];
                header.insert(
                    name.to_string(),
                    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
                );
                tree.extend(bytes.chunks(LEAF as usize).flat_map(|leaf| *blake3::hash(leaf).as_bytes()));
                data.extend_from_slice(bytes);
            };
            put(&tensor.name, tensor.dtype, &tensor.shape, &self.bytes(tensor));
            if pad > 0 {
                put(&format!("{PAD}{i}"), "U8", &[pad], &vec![0; pad]);
            }
        }
        let (root, offsets) = (hex(&tree), [data.len(), data.len() + tree.len()]);
        header.insert(TREE.into(), json!({"dtype": "U8", "shape": [tree.len()], "data_offsets": offsets}));
        data.extend(tree);
        let plan = serde_json::to_string(&self.plan).unwrap();
        let text = |hash: &str| {
            let mut header = header.clone();
            let mut metadata = json!({VERSION_KEY: self.version, PLAN_KEY: plan, HASH_KEY: hash,
                ROOT_KEY: root});
            metadata.as_object_mut().unwrap().extend(self.metadata.clone());
            header.insert("__metadata__".into(), metadata);
            let mut text = serde_json::to_string(&header).unwrap();
            let end = (8 + text.len()).next_multiple_of(ALIGN as usize) - 8;
            text.push_str(&" ".repeat(end - text.len()));
            text
        };
        let signed = text(&hex(text(NO_HASH).as_bytes()));
        [&(signed.len() as u64).to_le_bytes()[..], signed.as_bytes(), &data].concat()
    }

    pub fn save(&self, folder: &Path) -> PathBuf {
        let path = folder.join("hand-made.hyc");
        std::fs::write(&path, self.file()).unwrap();
        path
    }

    pub fn load(&self) -> Result<Arc<Model>, Error> {
        let folder = tempfile::tempdir().unwrap();
        // SAFETY: its code is never called.
        unsafe { Model::load(self.save(folder.path()), &LoadOptions::default()) }.map(Arc::new)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The ops of [`plan`] in plain Rust. Panics where a step would write to a page that another sequence of it has, too.
pub struct Plain;

/// The lists of a step.
struct Lists<'c> {
    context: &'c StepContext,
    tokens: &'c [i32],
    positions: &'c [i32],
    sequence: &'c [i32],
    pages: &'c [i32],
    slots: &'c [i32],
    outputs: &'c [i32],
}

impl Lists<'_> {
    /// Element offset of the page of `position`, for a cache of this policy.
    fn page(&self, policy: CachePolicy, sequence: usize, position: usize, elements: usize) -> usize {
        let logical = position / 4;
        let physical = match policy {
            CachePolicy::Growing => self.pages[sequence * self.context.max_pages as usize + logical] as usize,
            CachePolicy::Ring { pages, .. } => {
                self.slots[sequence] as usize * pages as usize + logical % pages as usize
            }
        };
        physical * elements
    }
}

// SAFETY: the ops below stay inside their operands.
unsafe impl Kernels for Plain {
    fn model(&self) -> Option<hyc_runtime::ModelId> {
        None
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<(), Error> {
        let StepCall { plan, step, spec, context, operands } = *call;
        // SAFETY: the engine keeps these lists, of these lengths, while a step runs.
        let list = |p: *const i32, n: u64| unsafe { std::slice::from_raw_parts(p, n as usize) };
        let lists = Lists {
            context,
            tokens: list(context.token_ids, context.tokens),
            positions: list(context.positions, context.tokens),
            sequence: list(context.sequence, context.tokens),
            pages: list(context.page_table, context.batch * context.max_pages),
            slots: list(context.ring_slot, context.batch),
            outputs: list(context.out_rows, context.outputs),
        };
        for (position, sequence) in lists.positions.iter().zip(lists.sequence) {
            let at = *sequence as usize * context.max_pages as usize + *position as usize / 4;
            let users = lists.pages.iter().filter(|page| **page == lists.pages[at]).count();
            assert_eq!(users, 1, "a page that is written is of two sequences");
        }
        // SAFETY: operands are f32 rows of 16, matrices of 16 x 16 or caches; their lengths are the plan's.
        let floats =
            |i: usize, n: usize| unsafe { std::slice::from_raw_parts_mut(operands[i].cast::<f32>(), n) };
        let cache = |i: usize| match (step.operands[i], spec.operands[i]) {
            (Operand::Cache(id), OperandSpec::Cache(spec)) => (plan.caches[id.index()].policy, spec),
            other => panic!("{other:?} is no cache"),
        };
        let (rows, outs) = (lists.tokens.len() * WIDTH, lists.outputs.len() * WIDTH);
        match step.op {
            StepOp::Embed(_) => {
                for (row, token) in floats(1, rows).chunks_mut(WIDTH).zip(lists.tokens) {
                    row.copy_from_slice(&floats(0, VOCAB * WIDTH)[*token as usize * WIDTH..][..WIDTH]);
                }
            }
            StepOp::Append(_) => {
                let (policy, spec) = cache(2);
                for (t, x) in floats(0, rows).chunks(WIDTH).enumerate() {
                    let (sequence, position) = (lists.sequence[t] as usize, lists.positions[t] as usize);
                    let at = lists.page(policy, sequence, position, spec.page_elements() as usize);
                    // SAFETY: the page is inside the pool, which the engine has checked.
                    let page =
                        unsafe { std::slice::from_raw_parts_mut(operands[2].cast::<f32>().add(at), 128) };
                    for (d, x) in x.iter().enumerate() {
                        page[d * 4 + position % 4] = *x;
                        page[64 + position % 4 * WIDTH + d] = *x;
                    }
                }
            }
            StepOp::FullAttention(_) | StepOp::WindowAttention(_) => {
                let (policy, spec) = cache(1);
                for (t, (q, out)) in
                    floats(0, rows).chunks(WIDTH).zip(floats(2, rows).chunks_mut(WIDTH)).enumerate()
                {
                    let (sequence, position) = (lists.sequence[t] as usize, lists.positions[t] as usize);
                    let first = match step.op {
                        StepOp::WindowAttention(ops::WindowAttention { window, .. }) => {
                            (position + 1).saturating_sub(window as usize)
                        }
                        _ => 0,
                    };
                    let (mut keys, mut values) = (Vec::new(), Vec::new());
                    for j in first..=position {
                        let at = lists.page(policy, sequence, j, spec.page_elements() as usize);
                        // SAFETY: as above.
                        let page =
                            unsafe { std::slice::from_raw_parts(operands[1].cast::<f32>().add(at), 128) };
                        keys.push((0..WIDTH).map(|d| page[d * 4 + j % 4]).collect::<Vec<f32>>());
                        values.push(page[64 + j % 4 * WIDTH..][..WIDTH].to_vec());
                    }
                    let keys: Vec<&[f32]> = keys.iter().map(Vec::as_slice).collect();
                    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                    out.copy_from_slice(&attend(q, &keys, &values));
                }
            }
            StepOp::Add(_) => {
                for ((a, b), out) in floats(0, rows).iter().zip(&*floats(1, rows)).zip(floats(2, rows)) {
                    *out = a + b;
                }
            }
            StepOp::GatherRows(_) => {
                for (out, row) in floats(1, outs).chunks_mut(WIDTH).zip(lists.outputs) {
                    out.copy_from_slice(&floats(0, rows)[*row as usize * WIDTH..][..WIDTH]);
                }
            }
            StepOp::Linear(_) => {
                for (x, out) in floats(0, outs).chunks(WIDTH).zip(floats(2, outs).chunks_mut(WIDTH)) {
                    for (o, y) in out.iter_mut().enumerate() {
                        *y = (0..WIDTH).map(|i| floats(1, VOCAB * WIDTH)[i * 16 + o] * x[i]).sum();
                    }
                }
            }
            StepOp::Sample(op) => {
                let c = context;
                // SAFETY: the engine keeps these lists, of these lengths, and a row of 16 words for each token.
                let (params, list, out) = unsafe {
                    let params = std::slice::from_raw_parts(c.sampling, c.outputs as usize);
                    let list = match c.seen.is_null() {
                        true => &[],
                        false => std::slice::from_raw_parts(c.seen, c.seen_count as usize),
                    };
                    (params, list, std::slice::from_raw_parts_mut(operands[1].cast::<i32>(), outs))
                };
                for ((row, params), out) in
                    floats(0, outs).chunks(WIDTH).zip(params).zip(out.chunks_mut(WIDTH))
                {
                    let token = penalise_and_choose(&mut row.to_vec(), op.choices(), params, list);
                    out[0] = token.map_or(-1, |token| token as i32);
                }
            }
            other => panic!("{other:?} is not in the hand-made plan"),
        }
        Ok(())
    }
}
