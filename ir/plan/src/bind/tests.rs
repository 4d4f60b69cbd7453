//! Code and plan, and one of them changed.

use super::*;
use crate::*;

/// One layer of nothing but an embedding and a product.
fn plan(target: Target) -> Plan {
    let b = |i| Operand::Buffer(BufferId(i));
    let w = |i| Operand::Weight(WeightId(i));
    let (embed, gather) = (
        StepOp::Embed(ops::Embed { vocab: 16, hidden: 16 }),
        StepOp::GatherRows(ops::GatherRows { width: 16 }),
    );
    let linear = StepOp::Linear(ops::Linear {
        in_features: 16,
        out_features: 16,
        norm: None,
        epilogue: Epilogue::Store,
        fp8_rows: None,
    });
    let step = |name: &str, op: StepOp, operands, kernel| Step {
        name: name.into(),
        layer: None,
        op,
        operands,
        kernel: KernelId(kernel),
    };
    let buffer = |at: u64, rows| Buffer {
        name: format!("b{at}"),
        offset: at * 512,
        rows,
        max_rows: 8,
        width: 16,
        elem: Elem::F32,
        selection: None,
    };
    let weight = |name: &str, layout| Weight {
        name: name.into(),
        shape: vec![],
        format: Format { codec: Codec::F32, layout },
    };
    let panels = Layout::Panels { count: 1, out_features: 16, in_features: 16, group: 16 };
    let (tokens, outputs) = (Rows::Tokens, Rows::Outputs);
    let mut plan = Plan {
        version: PLAN_VERSION,
        model: ModelInfo {
            name: "t".into(),
            layers: 1,
            hidden: 16,
            vocab: 16,
            named: None,
            max_context: 64,
            max_batch: 2,
            chunk: 8,
            max_outputs: 8,
            page: 8,
        },
        target,
        arena_bytes: 4 * 512,
        buffers: vec![buffer(0, tokens), buffer(1, tokens), buffer(2, outputs), buffer(3, outputs)],
        weights: vec![
            weight("table", Layout::Rows { rows: 16, cols: 16 }),
            weight("a", panels),
            weight("head", panels),
        ],
        caches: vec![],
        steps: vec![
            step("embed", embed, vec![w(0), b(0)], 0),
            step("linear", linear, vec![b(0), w(1), b(1)], 1),
            step("gather", gather, vec![b(1), b(2)], 2),
            step("head", linear, vec![b(2), w(2), b(3)], 3),
        ],
        kernels: vec![],
        chains: vec![],
        logits: BufferId(3),
        sampled: None,
        slices: vec![],
        slice_kernels: vec![],
    };
    for (step, name) in plan.steps.iter().zip(["embed", "linear-1", "gather", "head"]) {
        let mut kernel = Kernel::of_one_variant(name.into(), &plan.spec(step), &plan.target);
        kernel.scratch_bytes = 64;
        if let Code::Nvidia { launches } = &mut kernel.code {
            let (entry, grid) = (name.into(), [Extent::fixed(1); 2]);
            launches.push(Launch {
                entry,
                grid,
                threads: 32,
                shared_bytes: 0,
                overlaps: false,
                clocked: false,
                variants: vec![],
            });
        }
        plan.kernels.push(kernel);
    }
    assert_eq!(plan.verify(), Ok(()));
    plan
}

fn host(features: &[&str]) -> Target {
    Target::Host { arch: String::new(), features: features.iter().map(|name| name.to_string()).collect() }
}

/// Another machine of the same kind.
fn other(target: &Target) -> Target {
    match *target {
        Target::Host { .. } => host(&["avx2"]),
        Target::Nvidia(gpu) => Target::Nvidia(Gpu { multiprocessors: 1, ..gpu }),
    }
}

/// A plan and its code, on a processor and on a GPU.
fn both() -> [(Plan, Vec<u8>); 2] {
    let (mut cpu, gpu) = (plan(host(&[])), plan(Target::nvidia(NvidiaArch::Sm90a)));
    let functions: Vec<Vec<u8>> = [3usize, 64, 65, 1].iter().map(|n| vec![0xc3; *n]).collect();
    let code = lay_out(&mut cpu, &functions);
    let ptx = lay_out_ptx(&gpu, ".visible .entry embed() { ret; }\n");
    [(cpu, code), (gpu, ptx)]
}

#[test]
fn code_is_laid_out_and_bound() {
    let [(cpu, code), (gpu, ptx)] = both();
    for kernel in &cpu.kernels {
        let Code::Host { offset, bytes, .. } = kernel.code else { panic!("{kernel:?}") };
        assert_eq!(offset % 64, 0, "{}", kernel.name);
        let function = &code[offset as usize..(offset + bytes) as usize];
        assert!(function.iter().all(|byte| *byte == 0xc3), "{}", kernel.name);
    }
    assert_eq!((check(&cpu, &code), check(&gpu, &ptx)), (Ok(()), Ok(())));
    let text = std::str::from_utf8(&ptx).unwrap();
    assert!(text.starts_with(".visible .entry embed"), "{text}");
    for symbol in ["hyc_plan", "hyc_spec_embed", "hyc_spec_linear_1"] {
        assert!(text.contains(&format!(".b8 {symbol}[32] = {{0x")), "{symbol}: {text}");
    }
    assert!(text.trim_end().ends_with("};") && text.lines().all(|line| line.len() < 300), "{text}");
}

/// What a kernel is made from names the step; any other change of the plan is seen as one.
#[test]
fn a_change_on_either_side_is_seen() {
    type Change = fn(&mut Plan);
    let of_a_kernel: [(&str, Change); 7] = [
        ("step 0, embed", |p| p.kernels[0].scratch_bytes = 0),
        ("step 1, linear", |p| p.model.max_context = 65),
        ("step 0, embed", |p| p.model.chunk = 16),
        ("step 3, head", |p| p.steps[3].kernel = KernelId(1)),
        ("step 0, embed", |p| p.target = other(&p.target)),
        ("step 2, gather", |p| p.kernels[2].name = "other".into()),
        ("step 1, linear", |p| p.weights[1].format.codec = Codec::Bf16),
    ];
    let of_the_plan: [Change; 5] = [
        |p| p.steps[1].operands[1] = Operand::Weight(WeightId(2)),
        |p| p.steps[1].name = "x".into(),
        |p| p.model.max_batch = 3,
        |p| p.buffers[0].offset += 64,
        |p| p.chains.push(Chain { oracle: 0, sparse: vec![], shared_kv: false }),
    ];
    for (plan, code) in both() {
        for (words, change) in of_a_kernel {
            let mut changed = plan.clone();
            change(&mut changed);
            // A processor's code has places and no names; all steps before the one that differs are as they were.
            let by_name = changed.kernels[2].name == "other";
            let Err(error) = check(&changed, &code) else { panic!("{words}") };
            let first = words != "step 1, linear" || changed.model.max_context == 64;
            assert!(
                !first || error.0.contains(words) || (by_name && plan.target.is_host()),
                "{words}: {error}"
            );
            let mut code = code.clone();
            seal_plan(&changed, &mut code);
            assert_eq!(check(&changed, &code).is_err(), !(by_name && plan.target.is_host()), "{words}");
        }
        for change in of_the_plan {
            let mut changed = plan.clone();
            change(&mut changed);
            let error = check(&changed, &code).unwrap_err();
            assert!(error.0.contains("its plan is not the one"), "{error}");
            let mut code = code.clone();
            seal_plan(&changed, &mut code);
            assert_eq!(check(&changed, &code), Ok(()));
        }
        let mut moved = plan.clone();
        match &mut moved.kernels[1].code {
            Code::Host { offset, .. } => *offset += 64,
            Code::Nvidia { launches } => launches[0].entry.push('x'),
        }
        assert!(check(&moved, &code).is_err());
        // Code that is too short, or of nothing.
        for end in [0, 31, 63, code.len() / 2] {
            assert!(check(&plan, &code[..end]).is_err(), "{end} bytes");
        }
    }
}
