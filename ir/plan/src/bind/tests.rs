//! Code and plan, and one of them changed.

use super::*;
use crate::*;

/// One layer of nothing but an embedding and a product.
fn plan(kind: &str) -> Plan {
    let b = |i| Operand::Buffer(BufferId(i));
    let w = |i| Operand::Weight(WeightId(i));
    let (embed, gather) = (StepOp::Embed { vocab: 16, hidden: 16 }, StepOp::GatherRows { width: 16 });
    let linear = StepOp::Linear { inn: 16, out: 16, norm: None, epilogue: Epilogue::Store };
    let step = |name: &str, op: StepOp, operands, rows, kernel| Step {
        name: name.into(),
        layer: None,
        op,
        operands,
        grid: op.grid(1, rows),
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
    let weight = |name: &str, layout| Weight { name: name.into(), shape: vec![], elem: Elem::F32, layout };
    let panels = Layout::Panels { count: 1, out: 16, inn: 16, group: 16 };
    let kernel = |name: &str| Kernel {
        name: name.into(),
        code_offset: 0,
        code_bytes: 0,
        scratch_bytes: 64,
        launches: match kind {
            "cpu" => vec![],
            _ => vec![Launch {
                entry: name.into(),
                grid: [Extent::fixed(1); 2],
                threads: 32,
                shared_bytes: 0,
                overlaps: false,
                when: None,
            }],
        },
    };
    let (tokens, outputs) = (Rows::Tokens, Rows::Outputs);
    let plan = Plan {
        version: PLAN_VERSION,
        model: ModelInfo {
            name: "t".into(),
            layers: 1,
            hidden: 16,
            vocab: 16,
            max_context: 64,
            max_batch: 2,
            chunk: 8,
            max_outputs: 8,
            page: 8,
        },
        target: TargetInfo { kind: kind.into(), arch: String::new(), features: vec![] },
        arena_bytes: 4 * 512,
        buffers: vec![buffer(0, tokens), buffer(1, tokens), buffer(2, outputs), buffer(3, outputs)],
        weights: vec![
            weight("table", Layout::Rows { rows: 16, cols: 16 }),
            weight("a", panels),
            weight("head", panels),
        ],
        caches: vec![],
        steps: vec![
            step("embed", embed, vec![w(0), b(0)], tokens, 0),
            step("linear", linear, vec![b(0), w(1), b(1)], tokens, 1),
            step("gather", gather, vec![b(1), b(2)], outputs, 2),
            step("head", linear, vec![b(2), w(2), b(3)], outputs, 3),
        ],
        kernels: ["embed", "linear-1", "gather", "head"].map(kernel).to_vec(),
        chains: vec![],
        logits: BufferId(3),
        sampled: None,
    };
    assert_eq!(plan.verify(), Ok(()));
    plan
}

/// A plan and its code, on a processor and on a GPU.
fn both() -> [(Plan, Vec<u8>); 2] {
    let (mut cpu, mut gpu) = (plan("cpu"), plan("sm_90a"));
    let functions: Vec<Vec<u8>> = [3usize, 64, 65, 1].iter().map(|n| vec![0xc3; *n]).collect();
    let code = lay_out(&mut cpu, &functions);
    let ptx = lay_out_ptx(&mut gpu, ".visible .entry embed() { ret; }\n");
    [(cpu, code), (gpu, ptx)]
}

#[test]
fn code_is_laid_out_and_bound() {
    let [(cpu, code), (gpu, ptx)] = both();
    for kernel in &cpu.kernels {
        let at = kernel.code_offset as usize;
        assert_eq!(at % 64, 0, "{}", kernel.name);
        assert!(
            code[at..at + kernel.code_bytes as usize].iter().all(|byte| *byte == 0xc3),
            "{}",
            kernel.name
        );
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
        ("step 0, embed", |p| p.target.features = vec!["avx2".into()]),
        ("step 2, gather", |p| p.kernels[2].name = "other".into()),
        ("step 1, linear", |p| p.weights[1].elem = Elem::Bf16),
    ];
    let of_the_plan: [Change; 5] = [
        |p| p.steps[1].operands[1] = Operand::Weight(WeightId(2)),
        |p| p.steps[1].name = "x".into(),
        |p| p.model.max_batch = 3,
        |p| p.buffers[0].offset += 64,
        |p| p.kernels[0].code_bytes += 1,
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
                !first || error.0.contains(words) || (by_name && plan.target.kind == "cpu"),
                "{words}: {error}"
            );
            let mut code = code.clone();
            seal_plan(&changed, &mut code);
            assert_eq!(check(&changed, &code).is_err(), !(by_name && plan.target.kind == "cpu"), "{words}");
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
        moved.kernels[1].code_offset += 64;
        assert!(check(&moved, &code).is_err());
        // Code that is too short, or of nothing.
        for end in [0, 31, 63, code.len() / 2] {
            assert!(check(&plan, &code[..end]).is_err(), "{end} bytes");
        }
    }
}
