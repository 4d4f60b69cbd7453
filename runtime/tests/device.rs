//! Sessions on a GPU, on hand-written PTX: lists, captured passes, and everything that can go wrong. Where there is
//! no GPU (or no feature `cuda`), the tests say so and see that it is a clear error.

#![allow(clippy::print_stdout)] // A test's output is captured.

mod common;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::Parts;
use hyc_plan::artefact::CODE;
use hyc_plan::sample::{SampleParams, Seen};
use hyc_plan::*;
use hyc_runtime::{
    CancelToken, Engine, Error, ErrorKind, GenerateOptions, GpuOptions, KvRoom, MemoryPlan, Model, Sampling,
    Session, SessionOptions, StepInput, Tokenizer, generate, open_runner,
};

/// `logits[o][i]` is 1 where `i = (token + position + page + slot) % 16` of output o's row, else 0; page is the
/// one of the row's position. `token[o]` is `top_k + o`, and the first id of the row's penalties. Fields of the context are at the offsets of `hyc_plan::abi`.
const PTX: &str = "
.version 8.0
.target sm_90a
.address_size 64

.visible .entry nothing(.param .u64 p_context) { ret; }

.visible .entry broken(.param .u64 p_context) { trap; ret; }

.visible .entry logits(
    .param .u64 p_context, .param .u64 p_x, .param .u64 p_w, .param .u64 p_out
) {
    .reg .b64 %context, %out, %list, %at, %pages;
    .reg .b32 %i, %o, %row, %token, %position, %sequence, %x, %page;
    .reg .f32 %y;
    .reg .pred %here;
    ld.param.u64 %context, [p_context];
    ld.param.u64 %out, [p_out];
    mov.u32 %o, %ctaid.x;
    mov.u32 %i, %tid.x;
    ld.global.u64 %list, [%context + 72];
    mad.wide.u32 %at, %o, 4, %list;
    ld.global.u32 %row, [%at];
    ld.global.u64 %list, [%context + 32];
    mad.wide.u32 %at, %row, 4, %list;
    ld.global.u32 %token, [%at];
    ld.global.u64 %list, [%context + 40];
    mad.wide.u32 %at, %row, 4, %list;
    ld.global.u32 %position, [%at];
    ld.global.u64 %list, [%context + 48];
    mad.wide.u32 %at, %row, 4, %list;
    ld.global.u32 %sequence, [%at];
    ld.global.u64 %pages, [%context + 24];
    cvt.u32.u64 %page, %pages;
    mul.lo.u32 %page, %page, %sequence;
    shr.u32 %x, %position, 2;
    add.u32 %page, %page, %x;
    ld.global.u64 %list, [%context + 56];
    mad.wide.u32 %at, %page, 4, %list;
    ld.global.u32 %page, [%at];
    ld.global.u64 %list, [%context + 64];
    mad.wide.u32 %at, %sequence, 4, %list;
    ld.global.u32 %x, [%at];
    add.u32 %x, %x, %page;
    add.u32 %x, %x, %token;
    add.u32 %x, %x, %position;
    and.b32 %x, %x, 15;
    setp.eq.u32 %here, %i, %x;
    selp.f32 %y, 0f3F800000, 0f00000000, %here;
    mad.lo.u32 %x, %o, 16, %i;
    mad.wide.u32 %at, %x, 4, %out;
    st.global.f32 [%at], %y;
    ret;
}

.visible .entry sample(.param .u64 p_context, .param .u64 p_logits, .param .u64 p_token) {
    .reg .b64 %context, %out, %list, %at;
    .reg .b32 %o, %x, %seen;
    .reg .pred %none;
    ld.param.u64 %context, [p_context];
    ld.param.u64 %out, [p_token];
    mov.u32 %o, %ctaid.x;
    ld.global.u64 %list, [%context + 80];
    mad.wide.u32 %at, %o, 48, %list;
    ld.global.u32 %x, [%at + 4];
    add.u32 %x, %x, %o;
    ld.global.u32 %seen, [%at + 28];
    setp.eq.u32 %none, %seen, 0;
    @%none bra known;
    ld.global.u32 %seen, [%at + 24];
    ld.global.u64 %list, [%context + 96];
    mad.wide.u32 %at, %seen, 8, %list;
    ld.global.u32 %seen, [%at];
    add.u32 %x, %x, %seen;
known:
    mad.wide.u32 %at, %o, 64, %out;
    st.global.u32 [%at], %x;
    ret;
}
";

/// One GPU, and errors that reach the whole process: one test at a time.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The kernel of one step, whose code is the function `entry`.
fn kernel(step: &str, spec: &KernelSpec, entry: &str, dim: GridDim, threads: u32) -> Kernel {
    let (name, target) = (format!("{entry}.{step}"), Target::nvidia(NvidiaArch::Sm90a));
    let mut kernel = Kernel::of_one_variant(name, spec, &target);
    kernel.code = Code::Nvidia {
        launches: vec![Launch {
            entry: entry.into(),
            grid: [Extent { dim, per: 1, each: 1 }, Extent::fixed(1)],
            threads,
            shared_bytes: 0,
            overlaps: false,
            clocked: false,
            variants: vec![],
        }],
    };
    kernel
}

/// The hand-made plan on these kernels; `broken`: the step `add` traps. `samples`: it ends with a choice.
fn parts(broken: bool, samples: bool) -> Parts {
    let mut parts = Parts::new();
    if samples {
        parts = parts.sampling();
    }
    let plan = &mut parts.plan;
    plan.target = Target::nvidia(NvidiaArch::Sm90a);
    plan.kernels.clear();
    for index in 0..plan.steps.len() {
        let (step, spec) = (&plan.steps[index], plan.spec(&plan.steps[index]));
        let kernel = match step.name.as_str() {
            name @ "logits" => kernel(name, &spec, "logits", GridDim::Outputs, 16),
            name @ "sample" => kernel(name, &spec, "sample", GridDim::Outputs, 1),
            name @ "add" if broken => kernel(name, &spec, "broken", GridDim::One, 1),
            name => kernel(name, &spec, "nothing", GridDim::Tokens, 32),
        };
        plan.steps[index].kernel = KernelId(plan.kernels.len() as u32);
        plan.kernels.push(kernel);
    }
    let code = hyc_plan::bind::lay_out_ptx(plan, PTX);
    parts.with_bytes(CODE, code)
}

fn model(broken: bool, samples: bool) -> Arc<Model> {
    parts(broken, samples).load().unwrap()
}

/// Whether there is a GPU. Where there is none, that is a clear error, which is looked at here; it fails the test
/// where tests/gpu/run.sh says that there must be one.
fn gpu(test: &str) -> bool {
    match Session::new(model(false, false), &SessionOptions::default()) {
        Ok(_) => true,
        Err(error) => {
            println!("{test}: skipped: {error}");
            assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
            assert!(error.help.is_some());
            assert!(std::env::var_os("HYC_NEEDS_GPU").is_none(), "{test} needs a GPU: {error}");
            false
        }
    }
}

fn options(graphs: bool) -> SessionOptions {
    SessionOptions { gpu: GpuOptions { graphs, ..GpuOptions::default() }, ..SessionOptions::default() }
}

/// Feeds prompts and then single tokens to three sequences; the best token after each step, in order.
fn walk(session: &mut Session) -> Vec<usize> {
    let ids = [0; 3].map(|_| session.add_sequence().unwrap());
    let mut all = Vec::new();
    let mut drain = |session: &mut Session| {
        loop {
            let output = session.step().unwrap();
            if output.tokens == 0 {
                return;
            }
            for (_, logits) in output.logits {
                let logits = logits.unwrap();
                assert_eq!(logits.iter().sum::<f32>(), 1.0, "{logits:?}");
                all.push(logits.iter().position(|x| *x == 1.0).unwrap());
            }
        }
    };
    for (i, id) in ids.iter().enumerate() {
        session.feed(*id, &vec![i as u32 + 1; 3 + 7 * i]).unwrap();
    }
    drain(session);
    for round in 0..12 {
        for (i, id) in ids.iter().enumerate().filter(|(i, _)| (round + i) % 4 != 0) {
            session.feed(*id, &[(round * 3 + i) as u32 % 15]).unwrap();
        }
        drain(session);
    }
    ids.iter().for_each(|id| session.remove_sequence(*id).unwrap());
    all
}

#[test]
fn the_artefacts_load_without_a_gpu() {
    for (broken, samples) in [(false, false), (false, true), (true, false)] {
        assert!(model(broken, samples).ptx().is_some());
    }
}

#[test]
fn captured_passes_equal_single_launches() {
    let _turn = turn();
    if !gpu("captured_passes_equal_single_launches") {
        return;
    }
    let model = model(false, false);
    let mut with = Session::new(model.clone(), &options(true)).unwrap();
    let mut without = Session::new(model.clone(), &options(false)).unwrap();
    // Two sessions at once; the second walk replays.
    let (first, second) = (walk(&mut with), walk(&mut without));
    assert_eq!(first, second);
    assert_eq!(first.len(), 3 + 12 * 3 - 9);
    assert_eq!(walk(&mut with), walk(&mut without));
}

/// Counts, positions, pages and slots of rows in any order arrive, whichever way the pass runs.
#[test]
fn lists_arrive() {
    let _turn = turn();
    if !gpu("lists_arrive") {
        return;
    }
    let model = model(false, true);
    for graphs in [true, false] {
        let options = options(graphs);
        let room = KvRoom::new(30, 3);
        let memory = MemoryPlan::new(&model, room, 1);
        let runner = open_runner(&model, &options, &memory, &mut |_, _| true).unwrap();
        let mut engine = Engine::new(runner);
        for pages in [10, 3, 7] {
            let table: Vec<i32> = (0..2 * pages).map(|i| (i * 7 + 3) % 30).collect();
            let row = SampleParams { repeat: 1.0, ..SampleParams::default() };
            let rows = |seen: [u32; 2]| {
                let first = SampleParams { top_k: 3, seen: seen[0], ..row };
                vec![first, SampleParams { top_k: 11, first_seen: seen[0], seen: seen[1], ..row }]
            };
            let (sampling, seen) = match pages {
                3 => (vec![], vec![]),
                7 => (rows([2, 1]), [3, 9, 2].map(|id| Seen { id, generated: 1 }).to_vec()),
                _ => (rows([0, 0]), vec![]),
            };
            let input = StepInput {
                token_ids: vec![4, 9],
                positions: vec![4 * pages - 1, 5],
                sequence: vec![1, 0],
                page_table: table.clone(),
                ring_slot: vec![2, 1],
                out_rows: vec![1, 0],
                sampling,
                seen,
            };
            let want = |row: usize| {
                let (position, sequence) = (input.positions[row], input.sequence[row] as usize);
                let page = table[sequence * pages as usize + position as usize / 4];
                (input.token_ids[row] + position + page + input.ring_slot[sequence]) as usize % 16
            };
            let want = [want(1), want(0)];
            engine.begin(input.clone()).unwrap();
            engine.run_pass().unwrap();
            for (output, want) in want.into_iter().enumerate() {
                let logits = engine.row(model.plan().logits, output as u64).unwrap();
                assert_eq!(logits.iter().position(|x| *x == 1.0), Some(want), "output {output}: {logits:?}");
            }
            let tokens = match pages {
                3 => None,
                7 => Some(vec![3 + 3, 12 + 2]),
                _ => Some(vec![3, 12]),
            };
            assert_eq!(engine.sampled().unwrap(), tokens);
        }
        let steps = model.plan().steps.len();
        engine.clock().set_timing(true).unwrap();
        for rows in [1, 5, 8] {
            let input = StepInput {
                token_ids: vec![1; rows],
                positions: (0..rows as i32).collect(),
                sequence: vec![0; rows],
                page_table: vec![3, 4],
                ring_slot: vec![0],
                out_rows: vec![0],
                sampling: vec![],
                seen: vec![],
            };
            engine.begin(input).unwrap();
            engine.run_pass().unwrap();
        }
        let bandwidth = engine.clock().copy_bandwidth().unwrap().unwrap();
        println!("the device copies {:.0} GB/s", bandwidth / 1e9);
        assert!(bandwidth > 1e11, "{bandwidth}");
        let times = engine.clock().take_times();
        println!("{times:?}");
        assert!(times.len() == steps && times.iter().all(|seconds| (0.0..1.0).contains(seconds)));
        assert!(times.iter().sum::<f64>() > 0.0);
        engine.fill_caches(|| 1.5).unwrap();
    }
}

#[test]
fn tokens_are_sampled_on_the_device() {
    let _turn = turn();
    if !gpu("tokens_are_sampled_on_the_device") {
        return;
    }
    let model = model(false, true);
    let mut session = Session::new(model.clone(), &options(true)).unwrap();
    let ids = [session.add_sequence().unwrap(), session.add_sequence().unwrap()];
    let sampling = |top_k| Sampling { temperature: 1.0, top_k, ..Sampling::default() };
    session.set_sampling(ids[0], sampling(4), 1).unwrap();
    session.set_sampling(ids[1], sampling(7), 2).unwrap();
    for (round, tokens) in [vec![1, 2, 3], vec![4], vec![5]].into_iter().enumerate() {
        ids.iter().for_each(|id| session.feed(*id, &tokens).unwrap());
        let output = session.step_sampled().unwrap();
        assert_eq!(output.sampled, [(ids[0], Ok(4)), (ids[1], Ok(8))], "round {round}");
        assert_eq!(output.tokens, 2 * tokens.len() as u64);
    }
}

/// CUDA fails every later call of a process in which a kernel failed: each of these runs in one of its own.
#[test]
fn a_failed_kernel_is_named_and_other_processes_go_on() {
    let _turn = turn();
    if !gpu("a_failed_kernel_is_named_and_other_processes_go_on") {
        return;
    }
    for child in ["child_by_single_launches", "child_in_a_captured_pass"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(output.status.success() && text.contains("1 passed"), "{child}");
    }
    let good = model(false, false);
    let mut session = Session::new(good.clone(), &options(true)).unwrap();
    assert!(!walk(&mut session).is_empty());
}

/// Runs the failing model; the error must hold all of `parts`, and whatever comes later be refused.
fn fails(graphs: bool, parts: &[&str]) {
    let (good, bad) = (model(false, false), model(true, false));
    let mut session = Session::new(bad.clone(), &options(graphs)).unwrap();
    let mut bystander = Session::new(good.clone(), &options(true)).unwrap();
    let id = session.add_sequence().unwrap();
    session.feed(id, &[1]).unwrap();
    let error = session.step().unwrap_err();
    println!("{error}");
    assert_eq!(error.kind, ErrorKind::Device, "{error}");
    assert!(parts.iter().all(|part| error.message.contains(part)), "{error}");
    let id = bystander.add_sequence().unwrap();
    bystander.feed(id, &[1]).unwrap();
    let refused: [Error; 3] = [
        session.step().unwrap_err(),
        bystander.step().unwrap_err(),
        Session::new(good.clone(), &options(true)).err().unwrap(),
    ];
    assert!(
        refused.iter().all(|error| error.kind == ErrorKind::Device && error.help.is_some()),
        "{refused:?}"
    );
    drop((session, bystander));
    println!("{}", Session::new(good.clone(), &options(true)).err().unwrap());
}

#[test]
#[ignore = "a process of its own, see above"]
fn child_by_single_launches() {
    fails(false, &["add", "`broken.add`"]);
}

#[test]
#[ignore = "a process of its own, see above"]
fn child_in_a_captured_pass() {
    fails(true, &["captured pass of 1 rows"]);
}

#[test]
fn too_little_memory_is_said_before_anything_is_allocated() {
    let _turn = turn();
    if !gpu("too_little_memory_is_said_before_anything_is_allocated") {
        return;
    }
    let mut parts = parts(false, false);
    parts.plan.arena_bytes = 1 << 45;
    // The last buffer ends where the arena does.
    let last = parts.plan.buffers.iter_mut().max_by_key(|buffer| buffer.offset).unwrap();
    last.offset = (1 << 45) - last.bytes().next_multiple_of(64);
    let error = Session::new(parts.load().unwrap(), &SessionOptions::default()).err().unwrap();
    println!("{error}");
    assert_eq!(error.kind, ErrorKind::Resource);
    let help = error.help.unwrap_or_default();
    for word in ["33554432", "on the GPU", "weights"] {
        assert!(error.message.contains(word), "{}", error.message);
    }
    assert!(help.contains("tokens") && help.contains("max_context"), "{help}");
}

#[test]
fn copying_and_generating_can_be_cancelled() {
    let _turn = turn();
    if !gpu("copying_and_generating_can_be_cancelled") {
        return;
    }
    let model = parts(false, false).with_tokenizer().load().unwrap();
    let mut seen = Vec::new();
    let cancelled = Session::new_observed(model.clone(), &options(true), &mut |done, total| {
        seen.push((done, total));
        false
    });
    assert_eq!(cancelled.err().map(|error| error.kind), Some(ErrorKind::Cancelled));
    assert_eq!(seen.len(), 1);
    let mut session = Session::new_observed(model.clone(), &options(true), &mut |done, total| {
        seen.push((done, total));
        true
    })
    .unwrap();
    assert!(seen.last().is_some_and(|(done, total)| done == total && *total > 0), "{seen:?}");
    let (cancel, tokenizer) = (CancelToken::new(), Tokenizer::of(&model).unwrap());
    let pulled = cancel.clone();
    let wanted = GenerateOptions { max_new_tokens: 30, ..GenerateOptions::default() };
    let mut count = 0;
    let result = generate(&mut session, &tokenizer, &[1, 2, 3], &wanted, &cancel, &mut |_| {
        count += 1;
        if count == 6 {
            pulled.cancel();
        }
    });
    assert_eq!(result.err().map(|error| error.kind), Some(ErrorKind::Cancelled));
    let again = generate(&mut session, &tokenizer, &[1, 2], &wanted, &CancelToken::new(), &mut |_| {});
    assert_eq!(again.unwrap().tokens.len(), 30);
}

#[test]
fn code_that_is_none_is_an_error_that_says_why() {
    let _turn = turn();
    if !gpu("code_that_is_none_is_an_error_that_says_why") {
        return;
    }
    let mut bad = parts(false, false);
    let code = bad.tensors.iter_mut().find(|tensor| tensor.name == CODE).unwrap();
    let text = PTX.replace("and.b32 %x, %x, 15;", "and.b32 %x, %x, 1 5;");
    code.bytes = hyc_plan::bind::lay_out_ptx(&bad.plan, &text);
    code.shape = vec![code.bytes.len()];
    let error = Session::new(bad.load().unwrap(), &SessionOptions::default()).err().unwrap();
    println!("{error}");
    assert!(error.message.contains("does not take the artefact's code: "), "{error}");
    let mut bad = parts(false, false);
    let Code::Nvidia { launches } = &mut bad.plan.kernels.last_mut().unwrap().code else { panic!() };
    launches[0].entry = "absent".into();
    let error = Session::new(bad.load().unwrap(), &SessionOptions::default()).err().unwrap();
    assert!(error.message.contains("no function `absent`"), "{error}");
    assert!(gpu("after bad code"));
}
