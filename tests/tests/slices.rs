//! The slices of a GPU's plans on the interpreter: their steps as tasks, in orders of chance that the counters allow, give to the
//! bit what the steps in turn give; a wait that is left out shows.

use hyc::by_tasks::ByTasks;
use hyc::interp::Interpreter;
use hyc_plan::{Plan, Slice, Step, StepOp};
use hyc_runtime::{Error, Kernels, ModelId, StepCall};
use hyc_tests::card::{self, Card};

const MODEL: &str = r#"
[model]
name = "slices"
layers = 3
hidden = 128
heads = 4
kv_heads = 2
head_dim = 64
ffn = 192
vocab = 64
rope = { theta = 640000.0 }

[attention]
pattern = "1:2"
block = 64
top_k = 64
window = 128

[weights]
dtype = "bf16"

[target]
kind = "cpu"
max_context = 512
max_batch = 2
chunk = 96
max_outputs = 96
"#;

const EXPERTS: &str = "[moe]\nexperts = 6\nactive = 2\nexpert_ffn = 64\nshared_ffn = 64\n\n[weights]";
/// Orders of a plan that is right.
const SEEDS: u64 = 6;
/// Orders that a wait which is left out has to show.
const FEW: u64 = 8;

/// Steps of passes of up to so many rows in slices.
fn plan(model: &str, slices: u64) -> Plan {
    Card { tiles: true, slices: Some(slices), ..Card::default() }.plan(model)
}

/// The bits of all logits: of a prompt, and of tokens one by one.
fn logits(plan: &Plan, kernels: Box<dyn Kernels>) -> Vec<u32> {
    let mut session = card::session(plan, kernels);
    let id = session.add_sequence().expect("adds");
    let tokens = card::tokens(14);
    let mut bits = Vec::new();
    for fed in std::iter::once(&tokens[..9]).chain(tokens[9..].chunks(1)) {
        session.feed(id, fed).expect("feeds");
        for (_, row) in session.step().expect("steps").logits {
            bits.extend(row.expect("numbers").iter().map(|logit| logit.to_bits()));
        }
    }
    assert_eq!(bits.len(), 6 * 64);
    bits
}

fn by_tasks(seed: u64) -> ByTasks {
    // SAFETY: a session's runner, in whose own memory nobody looks between steps.
    unsafe { ByTasks::new(seed) }
}

/// Runs another plan's slices, which nobody has verified.
struct Unverified(ByTasks, Plan);

// SAFETY: what a step touches is said by its operands, which are the verified plan's.
unsafe impl Kernels for Unverified {
    fn model(&self) -> Option<ModelId> {
        None
    }

    unsafe fn run(&mut self, call: &StepCall<'_>) -> Result<(), Error> {
        let index = call.plan.steps.element_offset(call.step).expect("a step of the plan");
        // SAFETY: passed on from the caller.
        unsafe { self.0.run(&StepCall { plan: &self.1, step: &self.1.steps[index], ..*call }) }
    }
}

#[test]
fn tasks_in_any_order_give_what_steps_in_turn_give() {
    let own = MODEL.replace("window = 128", "window = 128\nsparse_kv = \"own\"\ngate = \"head\"");
    let full = MODEL.replace("window = 128", "window = 128\nfull_gate = true\nfull_sink = true");
    let experts = MODEL.replace("ffn = 192\n", "").replace("[weights]", EXPERTS);
    for (what, model) in [("dense", MODEL), ("own", &own), ("full", &full), ("experts", &experts)] {
        for rows in [1, 96] {
            let plan = plan(model, rows);
            assert!(plan.slices.len() > 2, "{what}: {:?}", plan.slices);
            // Up to the next layer's projections, experts among them.
            let any = |is: fn(&StepOp) -> bool| {
                let with = |slice: &Slice| plan.steps[slice.steps()].iter().any(|step| is(&step.op));
                plan.slices.iter().any(with)
            };
            assert!(any(|op| matches!(op, StepOp::QkvAppend(_))), "{what}");
            assert_eq!(any(|op| matches!(op, StepOp::ExpertsDown(_))), what == "experts", "{what}");
            let want = logits(&plan, Box::new(Interpreter));
            for seed in 0..SEEDS {
                assert!(logits(&plan, Box::new(by_tasks(seed))) == want, "{what}, seed {seed}: other logits");
            }
        }
    }
}

/// Each wait of every kernel's first slice.
#[test]
fn a_wait_that_is_left_out_shows() {
    let plan = plan(MODEL, 96);
    let want = logits(&plan, Box::new(Interpreter));
    let shows = |other: &Plan| {
        (0..FEW).any(|seed| logits(&plan, Box::new(Unverified(by_tasks(seed), other.clone()))) != want)
    };
    assert!(!shows(&plan));
    let mut left_out = 0;
    for kernel in 0..plan.slice_kernels.len() {
        let number = plan.slices.iter().position(|slice| slice.kernel as usize == kernel).expect("a slice");
        for part in 0..plan.slices[number].parts.len() {
            for wait in 0..plan.slices[number].parts[part].waits.len() {
                let mut fewer = plan.clone();
                fewer.slices[number].parts[part].waits.remove(wait);
                assert!(fewer.verify().is_err());
                assert!(shows(&fewer), "slice {number}, part {part}, wait {wait}");
                left_out += 1;
            }
        }
    }
    assert!(left_out >= 3, "{left_out}");
}

/// A slice whose tasks are another split than the reference's, or whose parts wait for each other, is an error.
#[test]
fn slices_that_cannot_run_are_errors() {
    let plan = plan(MODEL, 96);
    let refused = |change: &dyn Fn(&mut Plan), words: &str| {
        let mut other = plan.clone();
        change(&mut other);
        assert!(other.verify().is_err());
        let kernels = Box::new(Unverified(by_tasks(0), other));
        let mut session = card::session(&plan, kernels);
        let id = session.add_sequence().expect("adds");
        session.feed(id, &[1, 2]).expect("feeds");
        let error = session.step().expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(&|p| p.slices[0].parts[0].tasks += 1, "tasks; its slice says");
    refused(&|p| p.slices[0].parts[1].waits[0].part = 1, "may begin");
    let linear = |step: &Step| matches!(step.op, StepOp::Linear(_) | StepOp::QkvAppend(_));
    assert!(plan.slices.iter().all(|slice| plan.steps[slice.steps()].iter().all(linear)));
}

/// What `hyc inspect MODEL plan` and the dump after `schedule` say of slices.
#[test]
fn slices_are_told() {
    let told = |model: &str| {
        let plan = plan(model, 1);
        let text = hyc_passes::steps(&plan);
        assert_eq!(text.matches("\nslice ").count(), plan.slice_kernels.len());
        text[text.find("\nslice ").expect("slices")..].to_string()
    };
    assert!(told(MODEL).starts_with(TOLD), "{}", told(MODEL));
    // Behind the last layer's and the first's come no projections.
    let alike = told(&MODEL.replace("window = 128", "window = 128\ngate = \"head\""));
    assert!(alike.contains(" for passes of 1 row: steps 3..5, and 1 alike\n"), "{alike}");
}

const TOLD: &str = "
slice slice4_linear_256x128_residual, one launch of 132 blocks for passes of 1 row: steps 3..6
    3 linear, 8 tasks
    4 linear, 12 tasks behind all of step 3
    5 linear, 8 tasks behind all of step 4
    6 qkv_append, 64 tasks behind all of step 5
";
