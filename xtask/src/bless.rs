//! Expected texts, written anew: the tests that go through `hyc_filetest`, with `HYC_BLESS=1`.

use crate::{cargo, done};

/// Tests that write expected texts.
struct Expected {
    name: &'static str,
    /// The sources of the tests: a file, or a folder with a slash behind it.
    sources: &'static str,
    /// Words of `cargo test`.
    test: &'static [&'static str],
}

const EXPECTED: [Expected; 6] = [
    Expected {
        name: "passes",
        sources: "tests/kernels/tests/passes.rs",
        test: &["-p", "hyc-kernel-tests", "--test", "passes"],
    },
    // docs/ir.md.
    Expected { name: "ir", sources: "ir/graph/tests/", test: &["-p", "hyc-ir", "--test", "reference"] },
    // tests/configs, docs/model-toml.md and its schema.
    Expected { name: "configs", sources: "compiler/src/", test: &["-p", "hyc", "--lib"] },
    Expected { name: "says", sources: "tests/tests/says.rs", test: &["-p", "hyc-tests", "--test", "says"] },
    // hyc.h, and what libhyc exports.
    Expected {
        name: "header",
        sources: "runtime/capi/tests/header.rs",
        test: &["-p", "hyc-capi", "--test", "header"],
    },
    // Needs LLVM 22 (setup.sh --llvm), so that it stands last.
    Expected {
        name: "mlir",
        sources: "tests/kernels/tests/mlir.rs",
        test: &["-p", "hyc-kernel-tests", "--features", "llvm", "--test", "mlir", "--test", "passes"],
    },
];

/// Blesses those of a name, or all, each whatever becomes of the others. Errors: an exit code.
pub fn run(arguments: &[String]) -> Result<(), u8> {
    let wanted =
        |expected: &Expected| arguments.is_empty() || arguments.iter().any(|name| name == expected.name);
    if let Some(name) = arguments.iter().find(|name| EXPECTED.iter().all(|expected| expected.name != *name)) {
        let names = EXPECTED.map(|expected| expected.name).join(", ");
        eprintln!("error: no expected texts are called `{name}`; there are {names}");
        return Err(2);
    }
    let mut result = Ok(());
    for expected in EXPECTED.iter().filter(|expected| wanted(expected)) {
        println!("== {}: HYC_BLESS=1 cargo test {}", expected.sources, expected.test.join(" "));
        let blessed =
            done(cargo().env("HYC_BLESS", "1").args(["test", "-q", "--locked"]).args(expected.test));
        if blessed.is_err() {
            eprintln!("error: `{}` failed, in something else than a text that differs", expected.name);
            result = blessed;
        }
    }
    println!("Read the diff: `git diff` has what changed.");
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    /// Rust files under a folder that compare with expected texts.
    fn blessed(folder: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                if !path.ends_with("target") && !path.contains("/.") && !path.starts_with('.') {
                    blessed(&format!("{path}/"), found);
                }
            } else if path.ends_with(".rs") {
                let text = std::fs::read_to_string(root().join(&path)).unwrap();
                if ["run", "expect", "differs"]
                    .iter()
                    .any(|call| text.contains(&format!("filetest::{call}(")))
                {
                    found.push(path);
                }
            }
        }
    }

    #[test]
    fn every_test_with_expected_texts_is_blessed() {
        let mut found = Vec::new();
        blessed("", &mut found);
        for path in &found {
            let covered = EXPECTED.iter().any(|expected| path.starts_with(expected.sources));
            assert!(covered, "{path} compares with expected texts, and `cargo xtask bless` does not run it");
        }
        for expected in &EXPECTED {
            assert!(found.iter().any(|path| path.starts_with(expected.sources)), "{}", expected.name);
        }
    }
}
