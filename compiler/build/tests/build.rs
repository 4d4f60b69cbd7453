//! What a build script says to cargo and leaves behind, and what it does the second time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use object::{Object, ObjectSection, ObjectSymbol};

/// The variables that say what the build script in a child process shall do.
const MODEL: &str = "HYC_BUILD_TEST_MODEL";
const MOST: &str = "HYC_BUILD_TEST_MOST";

/// Not a test of its own: the build script of the others.
#[test]
fn as_a_build_script() {
    let Some(model) = std::env::var_os(MODEL) else { return };
    let mut model = hyc_build::Model::new(model).name("small");
    if let Some(most) = std::env::var(MOST).ok().and_then(|most| most.parse().ok()) {
        model = model.weights(hyc_build::Weights::Embedded { most });
    }
    if let Err(error) = model.build() {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A package with a model of its own, whose files a test may change.
fn package(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("out")).unwrap();
    for entry in std::fs::read_dir(root().join(model)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name() != Some("golden.safetensors".as_ref()) {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// Runs the build script of a package.
fn script(package: &Path, set: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "as_a_build_script", "--nocapture"]).env(MODEL, "model.toml");
    command
        .env("CARGO_MANIFEST_DIR", package)
        .env("CARGO_PKG_NAME", "a-package")
        .env("OUT_DIR", package.join("out"));
    command.env("CARGO_CFG_TARGET_ARCH", "x86_64").env("CARGO_CFG_TARGET_FEATURE", "fxsr,sse,sse2");
    for name in ["TARGET", "HOST"] {
        command.env(name, "x86_64-unknown-linux-gnu");
    }
    command.env("OPT_LEVEL", "0").env_remove("HYC").env_remove("DOCS_RS").envs(set.iter().copied());
    command.output().unwrap()
}

fn good(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("cargo::")).map(str::to_string).collect()
}

fn bad(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// When each output was written last.
fn times(package: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let files = std::fs::read_dir(package.join("out")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect()
}

#[test]
fn cargo_looks_at_the_files_that_were_read_and_at_no_others() {
    let package = package("examples/tiny-hysparse");
    let said = good(&script(package.path(), &[]));
    let mut changed: Vec<&str> =
        said.iter().filter_map(|line| line.strip_prefix("rerun-if-changed=")).collect();
    changed.sort_unstable();
    let expected =
        ["model.safetensors", "model.toml", "tokenizer.json"].map(|name| package.path().join(name));
    assert_eq!(changed, expected.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>());
    assert!(said.contains(&"rerun-if-env-changed=HYC".to_string()));
    assert!(
        !said.iter().any(|line| line.starts_with("rustc-link-arg")),
        "it would not reach a program's program"
    );
}

/// A description that is wrong is looked at again when it changes, and what it names too where it says so.
#[test]
fn what_fails_is_looked_at_again() {
    let package = package("tests/golden/dense");
    let model = package.path().join("model.toml");
    std::fs::write(&model, "nonsense").unwrap();
    let output = script(package.path(), &[]);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.contains(&format!("rerun-if-changed={}", model.display())), "{said}");
    assert!(bad(&output).contains("model.toml"));
    std::fs::remove_file(&model).unwrap();
    let output = script(package.path(), &[]);
    assert!(bad(&output).contains("cannot read"));
}

#[test]
fn nothing_is_done_again_where_nothing_has_changed() {
    let package = package("tests/golden/dense");
    good(&script(package.path(), &[]));
    let first = times(package.path());
    std::thread::sleep(std::time::Duration::from_millis(20));
    // A touch, and a file beside: the model is the same.
    let model = package.path().join("model.toml");
    let text = std::fs::read_to_string(&model).unwrap();
    std::fs::write(&model, &text).unwrap();
    std::fs::write(package.path().join("unrelated"), "x").unwrap();
    good(&script(package.path(), &[]));
    assert_eq!(times(package.path()), first);
    std::fs::write(&model, format!("{text}\n# a comment\n")).unwrap();
    good(&script(package.path(), &[]));
    assert_ne!(times(package.path()), first);
    let module = |times: &BTreeMap<PathBuf, SystemTime>| times[&package.path().join("out/small.rs")];
    assert_eq!(module(&times(package.path())), module(&first), "the module says the same as before");
}

#[test]
fn an_object_has_two_globals_and_no_relocations() {
    let package = package("tests/golden/dense");
    good(&script(package.path(), &[(MOST, "1000000")]));
    let bytes = std::fs::read(package.path().join("out/small.o")).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let globals: Vec<&str> = file.symbols().filter(|s| s.is_global()).map(|s| s.name().unwrap()).collect();
    assert_eq!(globals, ["a_package_small_hyc_code", "a_package_small_hyc_artefact"]);
    for section in file.sections() {
        assert_eq!(section.relocations().count(), 0, "{:?}", section.name());
    }
    for symbol in file.symbols().filter(|s| s.is_global()) {
        let object::SymbolFlags::Elf { st_other, .. } = symbol.flags() else { panic!("no ELF") };
        assert_eq!(st_other & 3, object::elf::STV_HIDDEN);
        assert_eq!(symbol.address() % 64, 0);
    }
    let kernels = file.symbols().filter(|s| s.is_local() && s.kind() == object::SymbolKind::Text).count();
    assert!(kernels > 5, "debuggers know {kernels} kernels");
    assert!(file.section_by_name(".note.GNU-stack").is_some());
    let artefact = file.symbol_by_name("a_package_small_hyc_artefact").unwrap();
    assert!(artefact.size() > 20_000, "the weights are in it");
}

#[test]
fn what_cannot_be_built_is_told() {
    let package = package("tests/golden/dense");
    let of = |set: &[(&str, &str)]| bad(&script(package.path(), set));
    let arm = of(&[("CARGO_CFG_TARGET_ARCH", "aarch64")]);
    assert!(
        arm.contains("the program is built for aarch64") && arm.contains("help: build it with `--target"),
        "{arm}"
    );
    let large = of(&[(MOST, "10")]);
    assert!(
        large.contains("10 may be embedded") && large.contains("leave them beside the program"),
        "{large}"
    );
    let none = of(&[("HYC", "/no/such/hyc")]);
    assert!(none.contains("cannot run HYC, /no/such/hyc") && none.contains("help: set HYC"), "{none}");
    let failed = of(&[("HYC", "/bin/false")]);
    assert!(failed.contains("/bin/false"), "{failed}");
    let text = std::fs::read_to_string(package.path().join("model.toml")).unwrap();
    std::fs::write(package.path().join("model.toml"), text.replace("hidden", "hiden")).unwrap();
    let fault = of(&[]);
    assert!(fault.contains("hiden"), "with a caret: {fault}");
}

/// The documentation of a crate that links a model is made without one.
#[test]
fn documentation_needs_no_model() {
    let package = tempfile::tempdir().unwrap();
    std::fs::create_dir(package.path().join("out")).unwrap();
    good(&script(package.path(), &[("DOCS_RS", "1")]));
    let module = std::fs::read_to_string(package.path().join("out/small.rs")).unwrap();
    assert!(module.contains("pub fn load("));
    assert!(!module.contains("#[link("));
}
