//! A small valid plan, and one thing broken at a time.

use crate::*;

mod codes;
mod described;
mod provenance;
mod slices;

const SHAPE: AttnShape = AttnShape { heads: 2, kv_heads: 1, qk_dim: 8, v_dim: 8 };
const SELECT: SelectShape = SelectShape { kv_heads: 1, block: 8, blocks: 2 };

fn buffer(name: &str, at: u64, rows: Rows, width: u64, elem: Elem) -> Buffer {
    let selection = (elem == Elem::I32).then_some(SELECT);
    Buffer { name: name.into(), offset: at * 1024, rows, max_rows: 16, width, elem, selection }
}

fn weight(name: &str, layout: Layout) -> Weight {
    Weight { name: name.into(), shape: vec![], format: Format { codec: Codec::F32, layout } }
}

fn step(name: &str, layer: Option<u32>, op: StepOp, operands: Vec<Operand>) -> Step {
    Step { name: name.into(), layer, op, operands, kernel: KernelId(0) }
}

/// Gives each step a kernel of its own.
fn add_kernels(plan: &mut Plan) {
    let kernels = plan.steps.iter().zip(0..);
    let kernels =
        kernels.map(|(step, i)| Kernel::of_one_variant(format!("k{i}"), &plan.spec(step), &plan.target));
    plan.kernels = kernels.collect();
    plan.steps.iter_mut().zip(0..).for_each(|(step, i)| step.kernel = KernelId(i));
}

/// embed; layer 0: project, append, select; layer 1: read the selection; gather; logits.
fn plan() -> Plan {
    let b = |i| Operand::Buffer(BufferId(i));
    let w = |i| Operand::Weight(WeightId(i));
    let cache = Operand::Cache(CacheId(0));
    let panels = |out, in_features, group| Layout::Panels { count: 1, out_features: out, in_features, group };
    let qkv = |own_kv| {
        StepOp::QkvAppend(ops::QkvAppend {
            in_features: 16,
            shape: SHAPE,
            norm: None,
            qk_norm: None,
            rope: RopeSpec::plain(1e4, 8),
            own_kv,
            gates: 0,
            fp8_rows: None,
        })
    };
    let linear = StepOp::Linear(ops::Linear {
        in_features: 16,
        out_features: 32,
        norm: None,
        epilogue: Epilogue::Store,
        fp8_rows: None,
    });
    let (tokens, outputs) = (Rows::Tokens, Rows::Outputs);
    let mut plan = Plan {
        version: PLAN_VERSION,
        model: ModelInfo {
            name: "t".into(),
            layers: 2,
            hidden: 16,
            vocab: 32,
            named: None,
            max_context: 64,
            max_batch: 2,
            chunk: 16,
            max_outputs: 16,
            page: 8,
        },
        target: Target::Host { arch: "x86_64".into(), features: vec![] },
        arena_bytes: 8 * 1024,
        buffers: vec![
            buffer("x", 0, tokens, 16, Elem::F32),
            buffer("q", 1, tokens, 16, Elem::F32),
            buffer("o", 2, tokens, 16, Elem::F32),
            buffer("sel", 3, tokens, 2, Elem::I32),
            buffer("s", 4, tokens, 16, Elem::F32),
            buffer("last", 5, outputs, 16, Elem::F32),
            buffer("logits", 6, outputs, 32, Elem::F32),
        ],
        weights: vec![
            weight("table", Layout::Rows { rows: 32, cols: 16 }),
            weight("wq", panels(16, 16, 8)),
            weight("wk", panels(8, 16, 8)),
            weight("wv", panels(8, 16, 8)),
            weight("sink", Layout::Vector { len: 2 }),
            weight("head", panels(32, 16, 32)),
        ],
        caches: vec![Cache {
            name: "kv".into(),
            owner: 0,
            readers: vec![0, 1],
            kv_heads: 1,
            qk_dim: 8,
            v_dim: 8,
            codec: KvCodec::F32,
            page: 8,
            policy: CachePolicy::Growing,
            order: KvOrder::Columns,
        }],
        steps: vec![
            step("embed", None, StepOp::Embed(ops::Embed { vocab: 32, hidden: 16 }), vec![w(0), b(0)]),
            step("L0.qkv", Some(0), qkv(true), vec![b(0), w(1), w(2), w(3), b(1), cache]),
            step(
                "L0.oracle",
                Some(0),
                StepOp::OracleAttention(ops::OracleAttention { shape: SHAPE, sink: false, select: SELECT }),
                vec![b(1), cache, b(2), b(3)],
            ),
            step(
                "L1.sparse",
                Some(1),
                StepOp::SparseAttention(ops::SparseAttention {
                    shape: SHAPE,
                    select: SELECT,
                    sink: true,
                    lists: None,
                }),
                vec![b(1), cache, b(3), w(4), b(4)],
            ),
            step("gather", None, StepOp::GatherRows(ops::GatherRows { width: 16 }), vec![b(4), b(5)]),
            step("logits", None, linear, vec![b(5), w(5), b(6)]),
        ],
        kernels: vec![],
        chains: vec![],
        logits: BufferId(6),
        sampled: None,
        slices: vec![],
        slice_kernels: vec![],
    };
    add_kernels(&mut plan);
    plan
}

/// Variants with the rows that they are chosen for.
type Ranges<'a> = &'a [(&'a str, u64, u64)];
/// The variants that each function is a part of.
type Functions<'a> = &'a [&'a [&'a str]];

/// The same for a GPU, with these functions for its first kernel and none for the others. Its chunks have 16 tokens; `few`
/// can compute 8 rows, `many` any number.
fn launching(chosen: Ranges<'_>, functions: Functions<'_>) -> Plan {
    let mut plan = plan();
    plan.target = Target::nvidia(NvidiaArch::Sm90a);
    plan.kernels.iter_mut().for_each(|kernel| kernel.code = Code::Nvidia { launches: vec![] });
    let launch = |variants: &&[&str]| Launch {
        entry: "f".into(),
        grid: [Extent::fixed(1), Extent::fixed(1)],
        threads: 32,
        shared_bytes: 0,
        overlaps: false,
        clocked: false,
        variants: variants.iter().map(ToString::to_string).collect(),
    };
    let kernel = &mut plan.kernels[0];
    let variant = |name: &str, most| Variant {
        name: name.into(),
        rows: RowRange::new(1, most),
        ..kernel.variants[0].clone()
    };
    kernel.variants = vec![variant("few", 8), variant("many", 16)];
    let range = |(variant, least, most): &(&str, u64, u64)| Chosen {
        variant: variant.to_string(),
        rows: RowRange::new(*least, *most),
    };
    kernel.chosen = chosen.iter().map(range).collect();
    kernel.code = Code::Nvidia { launches: functions.iter().map(launch).collect() };
    plan
}

/// Breaks one thing; some violation must then say `words`.
fn broken(words: &str, change: impl FnOnce(&mut Plan)) {
    let mut plan = plan();
    change(&mut plan);
    let errors = plan.verify().expect_err(words);
    assert!(errors.iter().any(|e| e.to_string().contains(words)), "{words}: {errors:?}");
}

#[test]
fn the_plan_is_valid() {
    assert_eq!(plan().verify(), Ok(()));
}

#[test]
fn sizes_and_places() {
    broken("version", |p| p.version = 9);
    broken("chunk = 0", |p| p.model.chunk = 0);
    broken("not inside the arena", |p| p.buffers[2].offset = 16 * 1024);
    broken("not inside the arena", |p| p.buffers[2].offset = u64::MAX - 63);
    broken("impossible sizes", |p| p.buffers[2].width = u64::MAX);
    broken("is not possible", |p| {
        p.weights[1].format.layout = Layout::Panels { count: 1, out_features: 16, in_features: 16, group: 0 }
    });
    broken("is not possible", |p| p.weights[0].format.layout = Layout::Rows { rows: u64::MAX, cols: 2 });
    broken("no kernel", |p| p.steps[0].kernel = KernelId(7));
    broken("rows of logits", |p| p.logits = BufferId(99));
    broken("take 4", |p| p.caches[0].policy = CachePolicy::Ring { window: 4, pages: 5 });
    broken("its last buffer ends at 8192", |p| p.arena_bytes += 64);
    broken("max_batch = 65537", |p| p.model.max_batch = 65537);
    broken("layers = 65537", |p| p.model.layers = 65537);
    broken("too many steps", |p| p.steps = vec![p.steps[0].clone(); (1 << 17) + 1]);
    broken("take 4", |p| p.caches[0].policy = CachePolicy::Ring { window: 4, pages: 1 });
}

#[test]
fn every_number_of_rows_has_a_variant() {
    let both = [("few", 1, 8), ("many", 9, 16)];
    let valid: [(Ranges<'_>, Functions<'_>); 5] = [
        (&both, &[]),
        (&both, &[&["few"], &["many"]]),
        (&both, &[&[]]),
        (&[("many", 1, 16)], &[&["many"]]),
        // Code of a variant that is not chosen.
        (&[("many", 1, 16)], &[&["few"], &["few", "many"]]),
    ];
    for (chosen, functions) in valid {
        assert_eq!(launching(chosen, functions).verify(), Ok(()), "{chosen:?} {functions:?}");
    }
    let faults: [(&str, Ranges<'_>, Functions<'_>); 10] = [
        ("variants end at 0 rows, of 16", &[], &[]),
        ("variants end at 15 rows, of 16", &[("many", 1, 15)], &[]),
        ("variants end at 17 rows, of 16", &[("few", 1, 8), ("many", 9, 17)], &[]),
        ("2..16 rows come where 1 should", &[("many", 2, 16)], &[]),
        ("10..16 rows come where 9 should", &[("few", 1, 8), ("many", 10, 16)], &[]),
        ("`few` cannot compute 1..9 rows", &[("few", 1, 9), ("many", 10, 16)], &[]),
        ("`some` cannot compute 1..16 rows", &[("some", 1, 16)], &[]),
        ("no function is launched for 9..16 rows", &both, &[&["few"]]),
        // What all variants have computes nothing by itself.
        ("no function is launched for 9..16 rows", &both, &[&[], &["few"]]),
        ("of variant `some`, which it does not have", &both, &[&["few"], &["many"], &["some"]]),
    ];
    for (words, chosen, functions) in faults {
        broken(words, |p| {
            *p = launching(chosen, functions);
            p.kernels[0].variants[1].rows.most = 99;
        });
    }
    broken("two of its variants have one name", |p| {
        let twin = p.kernels[0].variants[0].clone();
        p.kernels[0].variants.push(twin);
    });
    broken("has 65 functions", |p| *p = launching(&both, &[&[] as &[&str]; 65]));
    broken("its kernel counts other rows", |p| p.kernels[0].rows = Rows::Outputs);
    broken("k0: its code is another target's", |p| p.target = Target::nvidia(NvidiaArch::Sm90a));
}

#[test]
fn sampling() {
    let sampled = |p: &mut Plan| {
        p.buffers.push(Buffer { selection: None, ..buffer("token", 8, Rows::Outputs, 1, Elem::I32) });
        p.sampled = Some(BufferId(7));
        p.arena_bytes += 1024;
        let operands = vec![Operand::Buffer(BufferId(6)), Operand::Buffer(BufferId(7))];
        p.steps.push(step("sample", None, StepOp::Sample(ops::Sample { vocab: 32, named: None }), operands));
        add_kernels(p);
    };
    let mut plan = plan();
    sampled(&mut plan);
    assert_eq!(plan.verify(), Ok(()));
    let wrong = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            sampled(p);
            change(p);
        });
    };
    wrong("nothing has written the tokens", |p| drop(p.steps.pop()));
    wrong("something else than the plan's logits", |p| p.sampled = None);
    wrong("something else than the plan's logits", |p| p.logits = BufferId(5));
    wrong("not a buffer of tokens", |p| p.buffers[7].width = 2);
    wrong("not a buffer of tokens", |p| p.buffers[7].elem = Elem::F32);
    wrong("chooses from other entries", |p| p.model.named = Some(31));
    wrong("named = Some(33) is not from 1 to vocab", |p| p.model.named = Some(33));
    wrong("the op's sizes or numbers are not possible", |p| {
        p.steps[6].op = StepOp::Sample(ops::Sample { vocab: 32, named: Some(0) });
    });
    wrong("operand `logits`", |p| p.steps[6].op = StepOp::Sample(ops::Sample { vocab: 31, named: None }));
}

#[test]
fn operands() {
    broken("a table of 32 rows for a vocabulary of 33", |p| p.model.vocab = 33);
    broken("operand `x`", |p| p.steps[5].operands[0] = Operand::Buffer(BufferId(0)));
    broken("operand `weight`", |p| p.steps[5].operands[1] = Operand::Weight(WeightId(77)));
    broken("operand `wq`", |p| {
        p.weights[1].format.layout = Layout::Panels { count: 1, out_features: 16, in_features: 16, group: 16 }
    });
    broken("operand `cache`", |p| p.caches[0].v_dim = 16);
    broken("operand `sel`", |p| p.buffers[3].selection = None);
    broken("are not possible", |p| {
        let with = |op: &mut StepOp| match op {
            StepOp::Linear(op) => op.fp8_rows = Some(0),
            StepOp::QkvAppend(op) => op.fp8_rows = Some(0),
            _ => {}
        };
        p.steps.iter_mut().for_each(|step| with(&mut step.op));
    });
    for bad in [0.0, -1.0, 1e300, 1e-300, f64::INFINITY, f64::NAN] {
        broken("are not possible", |p| {
            let op = StepOp::Linear(ops::Linear {
                in_features: 16,
                out_features: 32,
                norm: Some(bad),
                epilogue: Epilogue::Store,
                fp8_rows: None,
            });
            p.steps.iter_mut().filter(|s| matches!(s.op, StepOp::Linear(_))).for_each(|s| s.op = op);
        });
        broken("are not possible", |p| {
            for step in &mut p.steps {
                if let StepOp::QkvAppend(ops::QkvAppend { rope, .. }) = &mut step.op {
                    rope.theta = bad;
                }
            }
        });
    }
    broken("grid is not the op's", |p| {
        if let Code::Host { grid, .. } = &mut p.kernels[2].code {
            grid.per = 3;
        }
    });
    broken("operands for", |p| {
        p.steps[4].operands.pop();
    });
}

/// Steps of a mixture of experts, and of what stands on other rows than its op reads.
#[test]
fn indices_come_from_who_makes_them() {
    let panels =
        |count, out, in_features| Layout::Panels { count, out_features: out, in_features, group: out };
    let moe = |p: &mut Plan| {
        let b = |i| Operand::Buffer(BufferId(i));
        let (w, tokens) = (|i| Operand::Weight(WeightId(i)), Rows::Tokens);
        let plain =
            |name: &str, at, width, elem| Buffer { selection: None, ..buffer(name, at, tokens, width, elem) };
        p.buffers.push(plain("router", 8, 4, Elem::F32));
        p.buffers.push(plain("index", 9, 2, Elem::I32));
        p.buffers.push(plain("chosen", 10, 2, Elem::F32));
        p.buffers.push(plain("h", 11, 16, Elem::F32));
        p.arena_bytes = 12 * 1024;
        p.weights.push(weight("router", panels(1, 4, 16)));
        p.weights.push(weight("gate", panels(4, 8, 16)));
        let choose = StepOp::Linear(ops::Linear {
            in_features: 16,
            out_features: 4,
            norm: None,
            epilogue: Epilogue::Store,
            fp8_rows: None,
        });
        let up = StepOp::ExpertsUp(ops::ExpertsUp {
            experts: 4,
            active: 2,
            in_features: 16,
            ffn: 8,
            shared: false,
        });
        let router = StepOp::Router(ops::Router { experts: 4, active: 2, rule: RouterRule::USUAL });
        p.steps.push(step("choose", None, choose, vec![b(4), w(6), b(7)]));
        p.steps.push(step("router", None, router, vec![b(7), b(8), b(9)]));
        p.steps.push(step("up", None, up, vec![b(4), b(8), w(7), w(7), b(10)]));
        add_kernels(p);
    };
    let mut valid = plan();
    moe(&mut valid);
    assert_eq!(valid.verify(), Ok(()));
    let wrong = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            moe(p);
            change(p);
        });
    };
    // Another number of experts than the weights have.
    wrong("does not choose 2 of 4 experts", |p| {
        p.buffers[7].width = 8;
        p.weights[6].format.layout = Layout::Panels { count: 1, out_features: 8, in_features: 16, group: 8 };
        p.steps[6].op = StepOp::Linear(ops::Linear {
            in_features: 16,
            out_features: 8,
            norm: None,
            epilogue: Epilogue::Store,
            fp8_rows: None,
        });
        p.steps[7].op = StepOp::Router(ops::Router { experts: 8, active: 2, rule: RouterRule::USUAL });
    });
    // A softmax that a bias would correct, whatever operands there are; a scale that is none.
    wrong("sizes or numbers are not possible", |p| {
        let rule = RouterRule { bias: true, ..RouterRule::USUAL };
        p.steps[7].op = StepOp::Router(ops::Router { experts: 4, active: 2, rule });
    });
    wrong("sizes or numbers are not possible", |p| {
        let rule = RouterRule { scale: 0.0, ..RouterRule::USUAL };
        p.steps[7].op = StepOp::Router(ops::Router { experts: 4, active: 2, rule });
    });
    // A bias that is not there.
    wrong("operands for", |p| {
        let rule = RouterRule { scores: Scores::Sigmoid, bias: true, ..RouterRule::USUAL };
        p.steps[7].op = StepOp::Router(ops::Router { experts: 4, active: 2, rule });
    });
    // A selection of as many blocks.
    wrong("operand `index`", |p| p.steps[8].operands[1] = Operand::Buffer(BufferId(3)));
    wrong("sizes or numbers are not possible", |p| {
        p.steps[8].op = StepOp::ExpertsUp(ops::ExpertsUp {
            experts: 4,
            active: 5,
            in_features: 16,
            ffn: 8,
            shared: false,
        });
    });
    broken("sizes or numbers are not possible", |p| {
        p.steps[3].op = StepOp::SparseAttention(ops::SparseAttention {
            shape: SHAPE,
            select: SelectShape { kv_heads: 2, ..SELECT },
            sink: true,
            lists: None,
        });
    });
    broken("are not the step's tokens", |p| {
        p.buffers[0].rows = Rows::Outputs;
    });
}

#[test]
fn nothing_is_there_that_no_step_uses() {
    broken("k2: no step runs it", |p| p.kernels.push(Kernel { name: "k2".into(), ..p.kernels[0].clone() }));
    broken("idle: no step writes it", |p| p.buffers.push(buffer("idle", 0, Rows::Tokens, 16, Elem::F32)));
    broken("idle: no step reads it", |p| p.weights.push(weight("idle", Layout::Vector { len: 2 })));
    broken("idle: no step appends to it", |p| {
        p.caches.push(Cache { name: "idle".into(), ..p.caches[0].clone() });
    });
    broken("is not the model's", |p| {
        p.chains.push(Chain { oracle: 0, sparse: vec![2], shared_kv: true });
    });
}

#[test]
fn order_and_overlap() {
    broken("does not hold", |p| p.steps.swap(4, 5));
    broken("overlaps another operand", |p| p.buffers[4].offset = 1024);
    broken("does not hold what was written", |p| p.buffers[2].offset = 1024);
    broken("second time", |p| {
        let again = p.steps[1].clone();
        p.steps.insert(2, again);
    });
}

#[test]
fn mutated_plans_do_not_panic() {
    mutated(&plan(), "{");
}

/// Any numbers in a serialised plan, from the first of these words on, give an answer, never a panic.
fn mutated(plan: &Plan, from: &str) {
    let text = serde_json::to_string(plan).unwrap();
    let from = text.find(from).unwrap();
    let mut state = 1u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let numbers: Vec<usize> = (from.max(1)..text.len())
        .filter(|i| text.as_bytes()[*i].is_ascii_digit() && !text.as_bytes()[i - 1].is_ascii_alphanumeric())
        .collect();
    let values = ["0", "1", "7", "4294967295", "18446744073709551615", "1099511627776", "33"];
    for _ in 0..20_000 {
        let mut text = text.clone();
        let mut places: Vec<usize> = (0..1 + next(3)).map(|_| numbers[next(numbers.len())]).collect();
        places.sort_unstable();
        places.dedup();
        for at in places.into_iter().rev() {
            let end = at + text[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(1);
            text.replace_range(at..end, values[next(values.len())]);
        }
        if let Ok(plan) = serde_json::from_str::<Plan>(&text) {
            let _ = plan.verify();
        }
    }
}
