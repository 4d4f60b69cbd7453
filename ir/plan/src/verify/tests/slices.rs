//! A slice of four products, and one thing broken at a time; the waits of slices at random.

use proptest::prelude::*;

use super::*;

fn product(width: u64) -> StepOp {
    let (norm, epilogue) = (None, Epilogue::Store);
    StepOp::Linear(ops::Linear { in_features: 16, out_features: width, norm, epilogue, fp8_rows: None })
}

/// Adds products to the plan, each from one buffer of 16 columns to another.
fn add_products(p: &mut Plan, steps: &[(u32, u32)]) {
    let weight_id = WeightId(p.weights.len() as u32);
    p.weights
        .push(weight("square", Layout::Panels { count: 1, out_features: 16, in_features: 16, group: 16 }));
    for (i, (from, to)) in steps.iter().enumerate() {
        let [from, to] = [*from, *to].map(|id| Operand::Buffer(BufferId(id)));
        p.steps.push(step(&format!("p{i}"), None, product(16), vec![from, Operand::Weight(weight_id), to]));
    }
    add_kernels(p);
}

fn slice(first: u32, parts: &[(u64, &[(u32, u64)])]) -> Slice {
    let wait = |(part, count): &(u32, u64)| Wait { part: *part, count: *count };
    let part = |(tasks, waits): &(u64, &[(u32, u64)])| Part {
        tasks: *tasks,
        waits: waits.iter().map(wait).collect(),
    };
    Slice { first, parts: parts.iter().map(part).collect(), kernel: 0 }
}

fn slice_kernel(name: &str) -> SliceKernel {
    SliceKernel { name: name.into(), rows: RowRange::new(1, 1), blocks: 2, launch: None }
}

/// The plan with p0: s -> a, p1: a -> b, p2: b -> c, p3: s -> d, which lies where a lay.
fn sliced(p: &mut Plan) {
    for (name, at) in [("a", 8), ("b", 9), ("c", 10), ("d", 8)] {
        p.buffers.push(buffer(name, at, Rows::Tokens, 16, Elem::F32));
    }
    p.arena_bytes = 11 * 1024;
    add_products(p, &[(4, 7), (7, 8), (8, 9), (4, 10)]);
    p.slices = vec![slice(6, &[(1, &[]), (1, &[(0, 1)]), (1, &[(1, 1)]), (1, &[(1, 1)])])];
    p.slice_kernels = vec![slice_kernel("all")];
}

#[test]
fn slices() {
    let mut plan = plan();
    sliced(&mut plan);
    assert_eq!(plan.verify(), Ok(()));
    let least: Vec<_> = plan.slices[0].parts.iter().map(|part| part.waits.clone()).collect();
    assert_eq!(plan.waits(&plan.steps[6..], &[1; 4]), least);
    assert_eq!([5, 6, 7].map(|step| plan.slice_at(step)), [None, Some(0), None]);

    let wrong = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            sliced(p);
            change(p);
        });
    };
    wrong("p1 does not wait for p0", |p| p.slices[0].parts[1].waits.clear());
    // What p1 reads p3 overwrites; p0, whose results they were, is through then.
    wrong("p3 does not wait for p1", |p| p.slices[0].parts[3].waits = vec![Wait { part: 0, count: 1 }]);
    wrong("p3 does not wait for p0", |p| p.slices[0].parts[3].waits.clear());
    wrong("p1 waits for part 1, which is not before it", |p| p.slices[0].parts[1].waits[0].part = 1);
    wrong("p1 waits for part 2, which is not before it", |p| p.slices[0].parts[1].waits[0].part = 2);
    wrong("p1 waits for part 4294967295", |p| p.slices[0].parts[1].waits[0].part = u32::MAX);
    wrong("p1 waits until part 0 has raised its counter to 2; it has 1 tasks", |p| {
        p.slices[0].parts[1].waits[0].count = 2;
    });
    wrong("until part 0 has raised its counter to 1; it has 3", |p| p.slices[0].parts[0].tasks = 3);
    wrong("p2 has 0 tasks", |p| p.slices[0].parts[2].tasks = 0);
    wrong("has 18446744073709551615 tasks", |p| p.slices[0].parts[3].tasks = u64::MAX);
    // A step that counts outputs.
    wrong("gather has not a row for each token", |p| {
        p.slices[0] = slice(4, &[(1, &[]), (1, &[(0, 1)])]);
    });
}

#[test]
fn slices_are_runs_of_steps() {
    const PAIR: &[(u64, &[(u32, u64)])] = &[(1, &[]), (1, &[(0, 1)])];
    const FREE: (u64, &[(u32, u64)]) = (1, &[]);
    const WORDS: &str = "not two steps or more behind";
    let wrong = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            sliced(p);
            change(p);
        });
    };
    let mut plan = plan();
    sliced(&mut plan);
    plan.slices = vec![slice(6, PAIR), slice(8, &[FREE; 2])];
    plan.slices[1].kernel = 1;
    plan.slice_kernels.push(slice_kernel("rest"));
    assert_eq!(plan.verify(), Ok(()));

    wrong(WORDS, |p| p.slices = vec![slice(6, PAIR), slice(7, PAIR)]);
    wrong(WORDS, |p| p.slices = vec![slice(8, &[FREE; 2]), slice(6, PAIR)]);
    wrong(WORDS, |p| p.slices[0].parts.truncate(1));
    wrong(WORDS, |p| p.slices[0].parts.clear());
    wrong(WORDS, |p| p.slices[0].first = 7);
    wrong(WORDS, |p| p.slices[0].first = u32::MAX);
    wrong(WORDS, |p| p.slices[0] = slice(0, &[FREE; 17]));
    wrong("too many slices", |p| p.slices = vec![slice(6, PAIR); (1 << 17) + 1]);
    wrong("too many parts", |p| p.slices = vec![slice(6, &[FREE; 2]); 1 << 17]);
}

#[test]
fn kernels_of_slices() {
    let wrong = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            sliced(p);
            change(p);
        });
    };
    /// Two slices of two products each, of the same sizes, of one kernel.
    fn halves(p: &mut Plan) {
        p.steps[9].operands[0] = Operand::Buffer(BufferId(9));
        p.slices = vec![slice(6, &[(1, &[]), (1, &[(0, 1)])]), slice(8, &[(1, &[]), (1, &[(0, 1)])])];
    }
    let mut plan = plan();
    sliced(&mut plan);
    halves(&mut plan);
    assert_eq!(plan.verify(), Ok(()));

    wrong("there is no kernel 1 of slices", |p| p.slices[0].kernel = 1);
    wrong("idle: it is no slice's", |p| p.slice_kernels.push(slice_kernel("idle")));
    wrong("k3: two kernels have this name", |p| p.slice_kernels[0].name = "k3".into());
    wrong("all: two kernels have this name", |p| {
        halves(p);
        p.slices[1].kernel = 1;
        p.slice_kernels.push(slice_kernel("all"));
    });
    // Other tasks, other waits, other sizes.
    wrong("all: its slices are not alike", |p| {
        halves(p);
        p.slices[1].parts[1].tasks = 2;
    });
    wrong("all: its slices are not alike", |p| {
        halves(p);
        p.steps[7].operands[0] = Operand::Buffer(BufferId(4));
        p.slices[0].parts[1].waits.clear();
    });
    wrong("all: its slices are not alike", |p| {
        halves(p);
        let StepOp::Linear(op) = &mut p.steps[8].op else { panic!("a product") };
        op.norm = Some(1e-5);
        let norm = Operand::Weight(WeightId(p.weights.len() as u32));
        p.weights.push(weight("norm", Layout::Vector { len: 16 }));
        p.steps[8].operands.insert(1, norm);
        add_kernels(p);
    });
    for (words, blocks) in [("0 blocks", 0), ("1025 blocks", 1025)] {
        broken(words, |p| {
            sliced(p);
            p.slice_kernels[0].blocks = blocks;
        });
    }
    wrong("passes of no rows", |p| p.slice_kernels[0].rows.least = 0);
    wrong("passes of no rows", |p| p.slice_kernels[0].rows = RowRange { least: 2, most: 1 });
    let launched = |blocks, threads| {
        move |p: &mut Plan| {
            sliced(p);
            p.slice_kernels[0].launch = Some(launch(blocks, threads));
        }
    };
    broken("`f` cannot be launched", launched(2, 0));
    broken("all: `f` is not launched in 2 blocks", launched(3, 32));
}

fn launch(blocks: u64, threads: u32) -> Launch {
    Launch {
        entry: "f".into(),
        grid: [Extent::fixed(blocks), Extent::fixed(1)],
        threads,
        shared_bytes: 0,
        overlaps: false,
        clocked: false,
        variants: vec![],
    }
}

/// Any numbers in its slices, too.
#[test]
fn mutated_slices_do_not_panic() {
    let mut plan = plan();
    sliced(&mut plan);
    plan.slice_kernels[0].launch = Some(launch(2, 32));
    assert_eq!(plan.verify(), Ok(()));
    mutated(&plan, "\"slices\"");
}

/// What the verifier says of slices alone.
fn faults(plan: &Plan) -> Vec<String> {
    let errors = plan.verify().err().unwrap_or_default();
    errors.iter().map(ToString::to_string).filter(|error| error.starts_with("slice of")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The waits of any steps are enough, each is needed, and none says what others say.
    #[test]
    fn waits_are_the_least(
        places in prop::collection::vec(0u64..8, 6),
        sides in prop::collection::vec((0u32..6, 0u32..6), 2..9),
        tasks in prop::collection::vec(1u64..5, 8),
    ) {
        let mut p = plan();
        let first = p.steps.len();
        let own = p.buffers.len() as u32;
        // Places half a buffer apart.
        for (i, place) in places.iter().enumerate() {
            let mut buffer = buffer(&format!("b{i}"), 8, Rows::Tokens, 16, Elem::F32);
            buffer.offset += place * 512;
            p.buffers.push(buffer);
        }
        p.arena_bytes = p.buffers.iter().map(|b| b.offset + b.bytes()).max().unwrap_or(0);
        let sides: Vec<_> = sides.iter().map(|(from, to)| (own + from, own + to)).collect();
        add_products(&mut p, &sides);
        let tasks = &tasks[..sides.len()];
        let waits = p.waits(&p.steps[first..], tasks);
        let parts = tasks.iter().zip(waits).map(|(&tasks, waits)| Part { tasks, waits }).collect();
        p.slices = vec![Slice { first: first as u32, parts, kernel: 0 }];
        p.slice_kernels = vec![slice_kernel("all")];
        prop_assert_eq!(faults(&p), Vec::<String>::new());
        for part in 0..sides.len() {
            for wait in 0..p.slices[0].parts[part].waits.len() {
                let mut fewer = p.clone();
                fewer.slices[0].parts[part].waits.remove(wait);
                let faults = faults(&fewer);
                prop_assert!(faults.len() == 1 && faults[0].contains("does not wait for"), "{:?}", faults);
            }
        }
    }
}
