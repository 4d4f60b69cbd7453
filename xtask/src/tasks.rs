//! The list of tasks.

/// What a task runs.
pub enum Run {
    /// A script, from the repository's root.
    Script(&'static str),
    /// Cargo with these words.
    Cargo(&'static [&'static str]),
    /// See `bless.rs`.
    Bless,
}

/// One task.
pub struct Task {
    pub name: &'static str,
    /// Its arguments, which its script or cargo takes; empty: none.
    pub arguments: &'static str,
    /// What it does, in a line.
    pub what: &'static str,
    pub run: Run,
}

const fn script(name: &'static str, arguments: &'static str, what: &'static str, path: &'static str) -> Task {
    Task { name, arguments, what, run: Run::Script(path) }
}

const BENCH: Run = Run::Cargo(&["bench", "--locked", "-p", "hyc-kernel-tests", "--bench", "cpu", "--"]);

/// All of them.
pub const TASKS: [Task; 20] = [
    script("tiny", "[PROMPT]", "compile the trained tiny model and stream text from it", "run-tiny.sh"),
    script(
        "smollm2",
        "[ARGUMENTS OF hyc chat]",
        "fetch SmolLM2-135M-Instruct, compile it and talk with it",
        "run-smollm2.sh",
    ),
    script("fetch-smollm2", "", "fetch it alone, for the tests", "examples/smollm2.sh"),
    script("test", "", "pass the tests", "run-tests.sh"),
    script("lint", "", "look at Python, shell, spelling and golden tensors", ".ci/lint"),
    script("ci", "", "what must hold of every commit, with LLVM; half an hour", ".ci/run"),
    Task {
        name: "bless",
        arguments: "[NAME]",
        what: "write the tests' expected texts anew",
        run: Run::Bless,
    },
    Task { name: "bench", arguments: "[FILTER]...", what: "time the CPU's kernels", run: BENCH },
    script(
        "threads",
        "[MODEL]",
        "time threads beyond the cores, with HYC=PROGRAM",
        "tests/pool/oversubscribed.sh",
    ),
    script("fuzz", "[SECONDS [TARGET]...]", "fuzz the parsers", "tests/fuzz/run.sh"),
    script("valgrind", "[ARGUMENTS OF hyc run]", "the host's path under memcheck", "tests/valgrind.sh"),
    script("runtime-alone", "", "the runtime without its default features", ".ci/runtime-alone"),
    script("wheel", "", "the Python package, built, installed and tested", ".ci/wheel"),
    script("sizes", "", "what a program takes that is linked with a model", "examples/sizes.sh"),
    script("install-c", "[PREFIX]", "install libhyc, hyc.h and hyc.pc", "runtime/capi/install.sh"),
    script("gpu-build", "", "build hyc with its GPU target, and a 7B model's PTX", "build-gpu.sh"),
    script(
        "gpu-assemble",
        "[--quiet] [MODEL.toml]...",
        "all GPU kernels through ptxas",
        "tests/gpu/assemble.sh",
    ),
    script(
        "gpu-same-ptx",
        "OLD NEW",
        "the kernels whose PTX two checkouts differ in",
        "tests/gpu/same-ptx.sh",
    ),
    script("gpu-pack", "[FOLDER]", "build what a machine with a card needs", "tests/gpu/build.sh"),
    script("gpu-run", "[OPTIONS] [FOLDER]", "check all of that there", "tests/gpu/run.sh"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::root;

    /// Scripts in a folder of the repository and below: what ends in `.sh`, and everything in `.ci`.
    fn scripts(folder: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if folder == "." { name.clone() } else { format!("{folder}/{name}") };
            if entry.file_type().unwrap().is_file() {
                if name.ends_with(".sh") || folder == ".ci" {
                    found.insert(path);
                }
            } else if folder != "." && name != "target" {
                scripts(&path, found);
            }
        }
    }

    #[test]
    fn every_script_is_a_task() {
        let mut found = BTreeSet::new();
        [".", ".ci", "examples", "runtime", "tests"].iter().for_each(|folder| scripts(folder, &mut found));
        // The others source it.
        assert!(found.remove("setup.sh"));
        let paths = TASKS.iter().filter_map(|task| match task.run {
            Run::Script(path) => Some(path.to_string()),
            Run::Cargo(_) | Run::Bless => None,
        });
        let paths: BTreeSet<String> = paths.collect();
        assert_eq!(paths, found);
        for path in paths {
            let mode = std::fs::metadata(root().join(&path)).unwrap().permissions().mode();
            assert!(mode & 0o100 != 0, "{path} cannot be executed");
        }
    }

    #[test]
    fn each_task_has_a_line() {
        let list = crate::list();
        let names: BTreeSet<&str> = TASKS.iter().map(|task| task.name).collect();
        assert_eq!((names.len(), list.lines().count()), (TASKS.len(), TASKS.len()));
        assert!(list.lines().all(|line| line.len() <= 110), "{list}");
    }
}
