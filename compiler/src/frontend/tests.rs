//! tests/configs: valid descriptions are taken, invalid ones give the diagnostics beside them.
//!
//! `HYC_BLESS=1 cargo test -p hyc --lib` writes the diagnostics.

use std::path::{Path, PathBuf};

use super::*;

fn configs(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/configs").join(kind);
    hyc_filetest::files(&folder, "toml")
}

fn parse(path: &Path) -> Result<ModelDesc, Diagnostics> {
    let text = std::fs::read_to_string(path).unwrap();
    parse_model(Path::new(path.file_name().unwrap()), &text)
}

#[test]
fn valid_descriptions_are_taken() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models");
    let examples = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
    for path in configs("valid").into_iter().chain(examples) {
        let desc = parse(&path).unwrap_or_else(|e| panic!("{}", e.render(false)));
        hyc_ir::verify::verify(&build_graph(&desc))
            .unwrap_or_else(|v| panic!("{}: {}", path.display(), v[0]));
    }
}

#[test]
fn invalid_descriptions_give_their_diagnostics() {
    let wrong: Vec<String> = configs("invalid")
        .iter()
        .filter_map(|path| {
            let found = parse(path).expect_err(&path.display().to_string()).render(false);
            let snapshot = path.with_extension("stderr");
            let why = hyc_filetest::differs(&snapshot, &found).err()?;
            Some(format!("{}: {why}\n{found}", snapshot.display()))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lines of `formats` are taken as they stand in the file, and not as they sort.
#[test]
fn the_first_line_that_fits_counts() {
    let text = std::fs::read_to_string(&configs("valid")[0]).unwrap();
    let name = "model.layers.0.self_attn.o_proj.weight";
    let codec = |lines: &str| {
        let text = format!("{text}\n[weights.formats]\n{lines}");
        let desc =
            parse_model(Path::new("model.toml"), &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        desc.weights.formats.codec(name, &[64, 64], hyc_plan::Codec::F32).to_string()
    };
    let (one, all) = (format!("\"{name}\" = \"int8(32)\"\n"), "\"*.o_proj.weight\" = \"int4(32)\"\n");
    assert_eq!(codec(&format!("{one}{all}")), "int8(32)");
    assert_eq!(codec(all), "int4(32)");
    assert_eq!(codec(""), "f32");
}

/// Damaged text gives diagnostics that can be laid out, never a panic.
#[test]
fn damaged_descriptions_do_not_panic() {
    let texts: Vec<String> =
        configs("valid").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut state = 3u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n.max(1)
    };
    let pieces = [
        "=",
        "\"",
        "[",
        "]",
        "{",
        "}",
        "0",
        "-1",
        "1e999",
        "99999999999999999999",
        "é",
        "\n",
        "true",
        "full",
        "\0",
        "0x10",
    ];
    for _ in 0..4000 {
        let mut text: Vec<char> = texts[next(texts.len())].chars().collect();
        for _ in 0..1 + next(4) {
            let at = next(text.len());
            let end = (at + next(6)).min(text.len());
            text.splice(at..end, pieces[next(pieces.len())].chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(diagnostics) = parse_model(Path::new("model.toml"), &text) {
            assert!(!diagnostics.list.is_empty());
            diagnostics.render(false);
        }
    }
}
