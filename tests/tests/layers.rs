//! Work grows with the layers, not with their square, and layers have a limit.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::hyc_binary;
use hyc::driver;
use hyc::frontend::{AttentionKind, ModelDesc, build_graph, parse_model};
use hyc_ir::text;
use hyc_kernels::cpu::Level;
use hyc_plan::MAX_LAYERS;
use hyc_tests::root;
use rustix::time::{ClockId, clock_gettime};

/// tests/golden/dense of so many layers. `attention` replaces its pattern.
fn model(layers: u64, attention: &str) -> String {
    let text = std::fs::read_to_string(root().join("tests/golden/dense/model.toml")).unwrap();
    text.replace("layers = 6", &format!("layers = {layers}")).replace("pattern = \"1:3\"", attention)
}

fn describe(layers: u64, attention: &str) -> ModelDesc {
    let text = model(layers, attention);
    parse_model(Path::new("model.toml"), &text).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

/// Everything that `hyc compile --plan-only` does, and a dump out and in: this thread's time on a processor, which other
/// processes do not count in, the best of some runs.
fn seconds(desc: &ModelDesc) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
    };
    let run = || {
        let start = now();
        let graph = text::parse(&text::print(&build_graph(desc))).unwrap();
        let lowered = driver::lower(graph, Level::Baseline, &mut |_| Ok(())).unwrap();
        assert!(lowered.plan.steps.len() > 4 * desc.layers.len());
        lowered.plan.verify().unwrap();
        now() - start
    };
    (0..2).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Full attention in every layer.
fn full(layers: u64) -> ModelDesc {
    let mut desc = describe(layers, "pattern = \"1:3\"");
    desc.layers.iter_mut().for_each(|layer| layer.attention.kind = AttentionKind::Full { top_k: None });
    desc
}

/// Eight times the layers take about eight times the time, up to as many as there may be. The least models stay in a
/// processor's caches and the largest do not, which is 13 times on a quiet machine; what grows with the square takes 64.
#[test]
fn time_is_linear_in_the_layers() {
    let chains = |layers: u64| describe(layers, "pattern = \"1:3\"");
    // One chain, from the first layer to the last but one.
    let one_chain = |layers: u64| describe(layers, &format!("full = [0, {}]", layers - 1));
    let cases: [(&str, &dyn Fn(u64) -> ModelDesc); 3] =
        [("chains of four", &chains), ("one chain", &one_chain), ("full layers", &full)];
    for (name, model) in cases {
        let mut ratio = f64::INFINITY;
        // Again where something else has taken the caches.
        for _ in 0..4 {
            if ratio >= 20.0 {
                ratio = seconds(&model(MAX_LAYERS)) / seconds(&model(MAX_LAYERS / 8));
            }
        }
        println!("{name}: {ratio:.1}");
        assert!(ratio < 20.0, "{name}: {ratio:.1} times the time for eight times the layers");
    }
}

fn hyc(folder: &Path, args: &[&str]) -> (i32, String) {
    let out = Command::new(hyc_binary()).args(args).current_dir(folder).output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn more_layers_than_any_model_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for layers in [MAX_LAYERS + 1, 1_000_000, 16_777_216] {
        write("m.toml", &model(layers, "pattern = \"1:3\""));
        let (code, said) = hyc(folder.path(), &["check", "m.toml"]);
        assert!(code == 3 && said.contains("between 1 and 1024"), "{said}");
    }
    let most = describe(MAX_LAYERS, "pattern = \"1:3\"");
    let dump = text::print(&build_graph(&most));
    write("most.hyir", &dump);
    let (code, said) = hyc(folder.path(), &["compile", "--plan-only", "-q", "most.hyir"]);
    assert_eq!(code, 0, "{said}");
    write("over.hyir", &dump.replace("layers = 1024", "layers = 1025"));
    let (code, said) = hyc(folder.path(), &["compile", "--plan-only", "over.hyir"]);
    assert!(code == 3 && said.contains("at most 1024"), "{said}");
    let mut plan = driver::lower(build_graph(&most), Level::Baseline, &mut |_| Ok(())).unwrap().plan;
    plan.model.layers = 1025;
    assert!(plan.verify().unwrap_err().iter().any(|e| e.message.contains("layers = 1025")));
}

/// A dump is read in time that its length alone decides, and its faults are counted, not all printed.
#[test]
fn faults_of_a_dump_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    hyc_binary();
    let head = text::print(&build_graph(&describe(2, "full = [0, 1]")));
    let head = &head[..head.find("}\n").unwrap() + 2];
    let body = |line: &dyn Fn(usize) -> String| -> String { (0..20_000).map(line).collect() };
    let texts = [
        body(&|_| "= =\n".to_string()),
        format!("{}\n", "= ".repeat(500_000)),
        format!("%x = add({})\n", "%y, ".repeat(200_000)),
        format!("%{} = ?\n", "x".repeat(1 << 20)),
        body(&|i| format!("%v{i} = add(%u{i}, %w{i}) : tensor<tokens x 4 x f32>\n")),
        body(&|i| format!("%v{i} = silu_mul(%a, %a) : tensor<tokens x 4 x f32>\n")),
        format!(
            "@t = weight() : weight<4 x 4 x f32>\n%a = embed(@t) : tensor<tokens x 4 x f32>\n{}output(%a)\n",
            body(&|i| format!("%v{i} = add(%a, %a) : tensor<tokens x 4 x f32>\n"))
        ),
    ];
    for text in texts {
        std::fs::write(folder.path().join("g.hyir"), format!("{head}{text}")).unwrap();
        let start = Instant::now();
        let (code, said) = hyc(folder.path(), &["compile", "--plan-only", "-q", "g.hyir"]);
        let begin = &text[..30.min(text.len())];
        assert!(code == 3 && said.len() < 20_000, "{begin:?}: {code}, {} bytes", said.len());
        // A hundredth of it on a quiet machine.
        assert!(start.elapsed().as_secs() < 30, "{begin:?}: {:?}", start.elapsed());
    }
}
