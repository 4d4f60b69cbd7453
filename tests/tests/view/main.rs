//! `hyc view`: the page without a browser; in one, where Debian's is there ([`in_a_browser`]).

#[path = "../common/mod.rs"]
mod common;
mod in_a_browser;
mod markup;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::hyc_binary;
use hyc::driver;
use hyc::output::{Kept, Target};
use hyc::source::Weights;
use hyc::write::{self, Artefact};
use hyc_kernels::cpu::CpuTarget;
use hyc_tests::{compile, root};
use markup::Page;

/// `hyc view` of these arguments, whose page goes to standard output.
pub fn view(args: &[&str]) -> Output {
    let output =
        Command::new(hyc_binary()).arg("view").args(args).args(["-o", "-"]).current_dir(root()).output();
    output.expect("runs")
}

/// The page of these arguments.
pub fn page(args: &[&str]) -> String {
    let output = view(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The trained model.
pub const TINY: &str = "examples/tiny-hysparse/model.toml";
/// The 80B.
pub const LARGE: &str = "examples/models/hysparse-80b.toml";
const FULL: &str = "examples/models/full-80b.toml";

/// An artefact of a small model, whose names in the plan are changed.
fn artefact(out: &Path, spoil: impl FnOnce(&mut hyc_plan::Plan)) {
    let model = root().join("tests/golden/dense/model.toml");
    let input = driver::load_input(&model).unwrap();
    let level = CpuTarget::host().level;
    let mut lowered = driver::lower(input.graph, level, &mut |_| Ok(())).unwrap();
    let mut code = driver::generate_code(&mut lowered.plan, level, true, &|| Ok(())).unwrap();
    spoil(&mut lowered.plan);
    hyc_plan::bind::seal(&lowered.plan, &mut code.blob);
    let graph = lowered.graph.to_string();
    let artefact = Artefact { graph: &graph, asm: &code.asm, ..Artefact::bare(&lowered.plan, &code.blob) };
    let target = Target::new(out, &Kept::default()).unwrap();
    write::artefact(&target, &artefact, &Weights::Absent, &mut |_| Ok(())).unwrap();
}

#[test]
fn every_page_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (out, dump) = (folder.path().join("m.hyc"), folder.path().join("dump.hyir"));
    artefact(&out, |_| {});
    let text = Command::new(hyc_binary())
        .args(["compile", "--emit", "graph", "--cpu", "baseline", "-o"])
        .args([dump.as_os_str(), root().join(TINY).as_os_str()])
        .output()
        .unwrap();
    assert!(text.status.success());
    // So many layers that not each has cards of its own.
    let many = folder.path().join("many.toml");
    let text = std::fs::read_to_string(root().join(LARGE)).unwrap();
    let text = text
        .replace("layers = 49", "layers = 150")
        .replace("full = [0, 12, 24, 36, 48]", "pattern = \"1:2\"");
    std::fs::write(&many, text).unwrap();
    for args in [
        vec![TINY],
        vec![many.to_str().unwrap()],
        vec!["examples/models/hysparse-7b.toml"],
        vec!["examples/models/swa-7b.toml"],
        vec![LARGE],
        vec![LARGE, "--compare", FULL],
        vec!["tests/golden/own/model.toml"],
        vec![out.to_str().unwrap()],
        vec![dump.to_str().unwrap(), "--compare", out.to_str().unwrap()],
    ] {
        let text = page(&args);
        let page = Page::read(&text);
        page.check(&format!("{args:?}"));
        assert!(text == self::page(&args), "{args:?}: equal input gives equal bytes");
    }
}

#[test]
fn the_largest_model_keeps_to_its_budget() {
    let text = page(&[LARGE]);
    let page = Page::read(&text);
    assert!(text.len() < 3 << 20, "{} bytes", text.len());
    // Elements and texts, but for those that wait in the template.
    assert!(page.nodes < 6000, "{} nodes", page.nodes);
    let count = |what: &str| text.matches(what).count();
    assert_eq!(count("data-layer=\"12\" aria-label"), 1);
    assert_eq!(count("<details class=\"card\""), 631, "a card of each op that names no weight");
    let steps = text.split("id=\"step-lines\"").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap();
    assert_eq!(steps.matches('\n').count(), 581);
    assert_eq!(count("<tr id=\"k."), 17);
}

/// What an engineer who has never seen the project looks for.
#[test]
fn what_is_looked_for_is_there() {
    let text = page(&[LARGE]);
    let row = |id: &str| {
        let at = text.find(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id}"));
        text[at..].split("</tr>").next().unwrap().to_string()
    };
    // Which layers share layer 12's cache.
    assert!(row("cache.12").contains("<td>12–23</td>"), "{}", row("cache.12"));
    assert!(row("L20").contains("<td>L12</td><td>L12</td>"), "{}", row("L20"));
    // What fuse-topk replaced in layer 24.
    let card = text.split("id=\"op.L24.attn\"").nth(1).unwrap().split("</details>").next().unwrap();
    let made = "attention %L24.attn, block_max %L24.block_max, group_max %L24.group_max, topk %L24.sel";
    assert!(card.contains(made), "{card}");
    // A selected op marks its ancestors where the timeline shows them: as the first layer of its shape.
    let marks = card.split("data-made=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(marks.split(' ').any(|mark| mark == "2:L0.block_max"), "{marks}");
    assert!(text.contains("data-v=\"2:L0.block_max\""));
    // Which steps take most bytes: the first row of the table.
    let first = text.split("Steps by bytes read").nth(1).unwrap().split("</tr>").nth(1).unwrap();
    assert!(first.contains("q_rot<small> q_proj, k_proj, v_proj"), "{first}");
    // What differs from full attention: differences stand before what is the same.
    let compared = page(&[LARGE, "--compare", FULL]);
    let section = compared.split("<section id=\"compare\"").nth(1).unwrap();
    let table = section.split("</table>").next().unwrap();
    assert!(table.find("class=\"same\"").unwrap() > table.rfind("class=\"differs\"").unwrap());
    assert!(section.contains("Outside the layers"));
    assert!(section.contains("Layers 1–11, 13–23, 25–35, 37–47: here sparse layer, there full layer"));
}

#[test]
fn names_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.hyc");
    let bad = "</script><img src=x onerror=\"alert(1)\"> '&\u{202e}\u{1b}]0;x\u{7}";
    artefact(&out, |plan| {
        plan.model.name = bad.to_string();
        plan.buffers.iter_mut().for_each(|buffer| buffer.name = bad.to_string());
        plan.caches.iter_mut().for_each(|cache| cache.name = bad.to_string());
        let weights = plan.weights.iter_mut().enumerate();
        weights.for_each(|(at, weight)| weight.name = format!("{bad}{at}"));
        plan.steps.iter_mut().for_each(|step| step.name = bad.to_string());
    });
    let out = out.to_str().unwrap();
    let text = page(&[out, "--compare", out]);
    Page::read(&text).check("hostile names");
    assert!(!text.contains("<img") && text.contains("&lt;/script&gt;&lt;img"));
    assert!(!text.contains(['\u{202e}', '\u{1b}', '\u{7}']));
}

#[test]
fn what_is_none_of_the_three_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> String {
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    let cases: [(&str, &[u8], &str); 5] = [
        ("text", b"Dear reader,\n", "error"),
        ("json", b"{ \"a\": 1 }", "is JSON, and no model.toml"),
        ("binary", &[0xff; 64], "is not text"),
        ("header", b"\x10\0\0\0\0\0\0\0{\"a\":", "error"),
        ("empty", b"", "error"),
    ];
    for (name, bytes, says) in cases {
        let output = view(&[&file(name, bytes)]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{name}: {stderr}");
        assert!(output.stdout.is_empty() && stderr.contains(says), "{name}: {stderr}");
    }
    assert_eq!(view(&["nowhere.toml"]).status.code(), Some(3));
    assert_eq!(view(&[TINY, "--compare", "nowhere.toml"]).status.code(), Some(3));
    // The page never replaces what it is made of, nor the weights of its model.
    let weights = file("hysparse-80b.safetensors", b"weights");
    let model = file("model.toml", &std::fs::read(root().join(LARGE)).unwrap());
    let output = Command::new(hyc_binary()).args(["view", &model, "-o", &model]).output().unwrap();
    assert!(!output.status.success() && std::fs::read_to_string(&model).unwrap().starts_with("# HySparse"));
    let output = Command::new(hyc_binary()).args(["view", &model, "-o", &weights]).output().unwrap();
    assert!(!output.status.success() && std::fs::read(&weights).unwrap() == b"weights");
}

#[test]
fn a_text_shows_what_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("tiny.hyc");
    compile(&root().join(TINY), &out, CpuTarget::host().level, |_| {});
    let out = out.to_str().unwrap();
    let long = std::fs::read_to_string(root().join("README.md")).unwrap();
    std::fs::write(folder.path().join("text"), long).unwrap();
    let file = folder.path().join("text");
    let text = page(&[out, "--run-file", file.to_str().unwrap(), "--run-tokens", "300"]);
    Page::read(&text).check("a text");
    let section = text.split("id=\"chosen\"").nth(1).unwrap().split("</section>").next().unwrap();
    assert!(section.contains("300 tokens of a text whose other"), "{section}");
    // Two oracles of two KV heads each, and eight layers that read a selection.
    assert_eq!(section.matches("<svg class=\"map\"").count(), 4);
    assert_eq!(section.matches("% </span>").count() + section.matches(" %</span>").count(), 8);
    // A text of fewer tokens than are kept chooses nothing.
    let text = page(&[out, "--run", "The kernel"]);
    assert_eq!(text.matches("every block is kept").count(), 8);
    std::fs::write(&file, "[1, 2\n3]").unwrap();
    let text = page(&[out, "--run-ids", file.to_str().unwrap()]);
    assert_eq!(text.matches("every block is kept").count(), 8);
    for (ids, says) in [("1, -2", "word 2 of "), ("[1, 4096]", "4096"), ("", "empty")] {
        std::fs::write(&file, ids).unwrap();
        let output = view(&[out, "--run-ids", file.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(says), "{ids}: {stderr}");
    }
    let output = view(&[TINY, "--run", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("a description has no weights to run a text with")
    );
}

#[test]
fn a_profile_is_of_the_model_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (out, bench) = (folder.path().join("tiny.hyc"), folder.path().join("bench.json"));
    compile(&root().join(TINY), &out, CpuTarget::host().level, |_| {});
    let args = ["bench", "--json", "--kernels", "--prefill", "8", "--context", "16", "--steps", "1"];
    let output = Command::new(hyc_binary()).args(args).arg(&out).output().unwrap();
    assert!(output.status.success());
    std::fs::write(&bench, &output.stdout).unwrap();
    let (out, path) = (out.to_str().unwrap(), bench.to_str().unwrap());
    let text = page(&[out, "--profile", path]);
    Page::read(&text).check("profile");
    assert!(text.contains("decode at 16, batch 1") && text.contains("% of limit"));
    assert_eq!(text.matches("class=\"n heat h").count(), 2 * text.matches("<tr id=\"k.").count());

    let measured = String::from_utf8(output.stdout).unwrap();
    let kernel = measured.split("\"name\": \"").nth(1).unwrap().split('"').next().unwrap();
    for (from, to, says) in [
        ("\"schema\": 1", "\"schema\": 2", "its schema is 2"),
        ("\"target\": \"cpu\"", "\"target\": \"sm_90a\"", "on sm_90a"),
        (kernel, "</td>another", "no kernel `</td>another"),
        ("\"prefill\"", "\"fill\"", "is not what `hyc bench --json` prints"),
        ("\"kernels\": [", "\"kernels\": 3, \"k\": [", "is not what `hyc bench --json` prints"),
    ] {
        assert!(measured.contains(from), "{from}");
        std::fs::write(&bench, measured.replace(from, to)).unwrap();
        let output = view(&[out, "--profile", path]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{to}: {stderr}");
        assert!(stderr.contains(says) && stderr.contains("help"), "{to}: {stderr}");
    }
    std::fs::write(&bench, measured).unwrap();
    let output = view(&[LARGE, "--profile", path]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("it measured `tiny-hysparse`"));
}

#[test]
fn a_comparison_says_which_step_differs() {
    let folder = tempfile::tempdir().unwrap();
    let (out, diff) = (folder.path().join("tiny.hyc"), folder.path().join("diff.json"));
    compile(&root().join(TINY), &out, CpuTarget::host().level, |_| {});
    let (out, path) = (out.to_str().unwrap(), diff.to_str().unwrap());
    let compared = |tolerance: &str| {
        let args = ["diff", "--json", "--tokens", "4", "--tolerance", tolerance, out];
        let output = Command::new(hyc_binary()).args(args).output().unwrap();
        std::fs::write(&diff, &output.stdout).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    compared("1e-3");
    let text = page(&[out, "--diff", path]);
    Page::read(&text).check("diff");
    assert!(text.contains("steps agree.") && !text.contains("≠"));
    // No two ways to add are equal to the last bit.
    let found = compared("0");
    let text = page(&[out, "--diff", path]);
    assert!(text.contains(" differs first: element ") && text.matches("≠").count() == 1);

    for (from, to, says) in [
        ("\"schema\": 1", "\"schema\": 2", "its schema is 2"),
        ("\"target\": \"cpu\"", "\"target\": \"sm_90a\"", "on sm_90a"),
        ("\"index\": ", "\"index\": 99999", "the plan has no step 99999"),
        ("\"steps\"", "\"s\"", "is not what `hyc diff --json` prints"),
    ] {
        assert!(found.contains(from), "{from}");
        std::fs::write(&diff, found.replace(from, to)).unwrap();
        let output = view(&[out, "--diff", path]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{to}: {stderr}");
        assert!(stderr.contains(says) && stderr.contains("help"), "{to}: {stderr}");
    }
}
