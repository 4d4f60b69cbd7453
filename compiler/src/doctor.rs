//! Whether a machine has what `hyc` needs, and what to do where it has not.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_runtime::Machine;
use serde_json::{Value, json};

use crate::assembler::Assembler;
use crate::report::bytes;
use crate::words::place;

/// How one thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As it should be, or not needed.
    Ok,
    /// Slower or less than it could be.
    Warn,
    /// Something that this build promises does not work.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Check {
    /// What it is.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

fn check(name: &'static str, state: State, found: impl Into<String>, advice: &str) -> Check {
    Check { name, state, found: found.into(), advice: advice.to_string() }
}

/// Where the checks look.
pub struct Surroundings {
    /// The folder whose `proc` and `sys` count: `/`.
    pub root: PathBuf,
    /// Where temporary files go.
    pub temporary: PathBuf,
    /// LD_LIBRARY_PATH, which a driver may be found through.
    pub libraries: Option<OsString>,
    /// The features of the build: LLVM, CUDA.
    pub features: (bool, bool),
}

impl Surroundings {
    /// This process's own. The environment is read here alone.
    pub fn here() -> Surroundings {
        Surroundings {
            root: "/".into(),
            temporary: std::env::temp_dir(),
            libraries: std::env::var_os("LD_LIBRARY_PATH"),
            features: (cfg!(feature = "llvm"), cfg!(feature = "cuda")),
        }
    }
}

/// Looks at everything.
pub fn checks(around: &Surroundings) -> Vec<Check> {
    let machine = Machine::at(&around.root);
    vec![
        processor(),
        cores(&machine),
        load(&machine, &around.root),
        memory(&machine),
        temporary(&around.temporary),
        driver(around),
        ptxas(around.features.0),
        llvm(around.features.0),
    ]
}

/// For machines.
pub fn json(checks: &[Check]) -> Value {
    let list = checks.iter().map(|c| {
        let state = format!("{:?}", c.state).to_lowercase();
        let advice = (!c.advice.is_empty()).then_some(&c.advice);
        json!({ "name": c.name, "state": state, "found": c.found, "advice": advice })
    });
    json!({ "ok": checks.iter().all(|c| c.state != State::Broken), "checks": list.collect::<Vec<_>>() })
}

/// For people: a line each, and under it what to do.
pub fn text(checks: &[Check]) -> String {
    let mut out = String::new();
    for c in checks {
        let state = match c.state {
            State::Ok => "ok",
            State::Warn => "warn",
            State::Broken => "broken",
        };
        out.push_str(&format!("{state:7} {:10} {}\n", c.name, c.found));
        if !c.advice.is_empty() {
            out.push_str(&format!("{:18} -> {}\n", "", c.advice));
        }
    }
    out
}

fn processor() -> Check {
    let name = "processor";
    if !cfg!(target_arch = "x86_64") {
        let advice = "generated code is for x86-64: compile here, run it there";
        return check(name, State::Broken, std::env::consts::ARCH, advice);
    }
    let cpu = CpuTarget::host();
    let found = format!("x86_64 with {}", cpu.features().join(" and "));
    match cpu.level {
        Level::V3 => check(name, State::Ok, found, ""),
        Level::Baseline => {
            let advice =
                "products take several times as long without AVX2 and FMA; a virtual machine may hide them";
            check(name, State::Warn, found, advice)
        }
    }
}

fn cores(machine: &Machine) -> Check {
    let (cores, mask) = (machine.cores(), machine.affinity());
    match (machine.quota(), mask) {
        (Some(quota), Some(mask)) if quota < mask as f64 => check(
            "cores",
            State::Warn,
            format!("{quota:.1} of {mask}: the control group's quota; {cores} threads"),
            "raise its cpu.max (cpu.cfs_quota_us) to use them all",
        ),
        _ => check("cores", State::Ok, format!("{cores}, a thread each"), ""),
    }
}

fn load(machine: &Machine, root: &Path) -> Check {
    let text = std::fs::read_to_string(root.join("proc/loadavg")).unwrap_or_default();
    let Some(load) = text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()) else {
        return check("load", State::Ok, "nobody says", "");
    };
    let cores = machine.cores();
    let found = format!("{load:.1} on {cores} cores, of the last minute");
    if load <= 0.5 * cores as f64 {
        return check("load", State::Ok, found, "");
    }
    check("load", State::Warn, found, "others compute here: what `hyc bench` measures will be too low; wait")
}

fn memory(machine: &Machine) -> Check {
    const LITTLE: u64 = 1 << 30;
    match machine.free_memory() {
        None => check("memory", State::Ok, "nobody says how much is free", ""),
        Some(free) => {
            let found = format!("{} free{}", bytes(free.bytes), free.place);
            if free.bytes >= LITTLE {
                return check("memory", State::Ok, found, "");
            }
            let advice = "raise the limit or end other programs; `hyc inspect model.hyc memory` says what a model takes";
            check("memory", State::Warn, found, advice)
        }
    }
}

fn temporary(folder: &Path) -> Check {
    let attempt = tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&[0; 4096]));
    let found = place(folder);
    match attempt {
        Ok(()) => check("temporary", State::Ok, format!("{found} can be written"), ""),
        Err(e) => {
            let found = format!("{found} cannot be written: {e}");
            check("temporary", State::Broken, found, "name another folder in TMPDIR, or make room there")
        }
    }
}

/// NVIDIA's driver. The least is that of CUDA 12.8.
fn driver(around: &Surroundings) -> Check {
    const LEAST: u64 = 570;
    let (name, wanted) = ("driver", around.features.1);
    let proc = std::fs::read_to_string(around.root.join("proc/driver/nvidia/version")).unwrap_or_default();
    let is_version = |word: &&str| word.split('.').count() >= 2 && word.split('.').all(is_number);
    let version = proc.lines().next().and_then(|line| line.split_whitespace().find(is_version));
    let library = library(around);
    if !wanted {
        let found = version.map_or("none".to_string(), |version| format!("NVIDIA {version}"));
        return check(
            name,
            State::Ok,
            format!("{found}; this build has no feature `cuda` and asks for none"),
            "",
        );
    }
    let advice = "install NVIDIA driver 570 or newer to run artefacts for a GPU here";
    match (library, version) {
        (None, _) => check(name, State::Warn, "there is no libcuda.so.1", advice),
        (Some(_), Some(version)) if major(version) < LEAST => {
            check(name, State::Warn, format!("NVIDIA {version}, older than {LEAST}"), advice)
        }
        (Some(path), version) => {
            let version = version.map_or(String::new(), |version| format!("NVIDIA {version}, "));
            check(name, State::Ok, format!("{version}{}", place(&path)), "")
        }
    }
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn major(version: &str) -> u64 {
    version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Where the system's loader would find the driver; nothing is loaded.
fn library(around: &Surroundings) -> Option<PathBuf> {
    let named = around.libraries.iter().flat_map(std::env::split_paths);
    let usual = [
        "usr/lib/x86_64-linux-gnu",
        "usr/lib64",
        "usr/lib",
        "lib/x86_64-linux-gnu",
        "usr/local/nvidia/lib64",
    ];
    let usual = usual.iter().map(|folder| around.root.join(folder));
    named.chain(usual).map(|folder| folder.join("libcuda.so.1")).find(|path| path.exists())
}

fn ptxas(wanted: bool) -> Check {
    match Assembler::default().version() {
        Some(version) => check("ptxas", State::Ok, version, ""),
        None if !wanted => check("ptxas", State::Ok, "none; this build has no GPU target and needs none", ""),
        None => check(
            "ptxas",
            State::Warn,
            "none on PATH: the driver assembles at the first load",
            "for `--cubin` and `--emit cubin` or `sass`: install the CUDA toolkit or the Python package \
             nvidia-cuda-nvcc",
        ),
    }
}

fn llvm(built: bool) -> Check {
    if built {
        return check("LLVM", State::Ok, "22, linked: GPU target sm_90a", "");
    }
    check("LLVM", State::Ok, "not in this build: cpu alone (`./build-gpu.sh` builds one with sm_90a)", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'c>(checks: &'c [Check], name: &str) -> &'c Check {
        checks.iter().find(|check| check.name == name).expect("a check")
    }

    fn file(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes it");
        std::fs::write(path, text).expect("writes it");
    }

    fn around(root: &Path, features: (bool, bool)) -> Surroundings {
        Surroundings { root: root.into(), temporary: root.into(), libraries: None, features }
    }

    #[test]
    fn a_made_machine_is_seen_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        file(root, "proc/loadavg", "7.50 6.00 5.00 1/100 4242\n");
        file(
            root,
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n",
        );
        file(root, "usr/lib64/libcuda.so.1", "");
        let old = checks(&around(root, (false, true)));
        assert_eq!(of(&old, "load").state, State::Warn);
        assert_eq!(of(&old, "temporary").state, State::Ok);
        let driver = of(&old, "driver");
        assert!(driver.state == State::Warn && driver.found.contains("535.104.05, older"), "{driver:?}");
        file(
            root,
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module  580.82.07  R\n",
        );
        assert_eq!(of(&checks(&around(root, (false, true))), "driver").state, State::Ok);
        file(root, "proc/loadavg", "0.00 0.00 0.00 1/100 4242\n");
        assert_eq!(of(&checks(&around(root, (false, true))), "load").state, State::Ok);
    }

    #[test]
    fn what_is_missing_has_advice() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bare = around(folder.path(), (true, true));
        bare.temporary = folder.path().join("absent");
        let all = checks(&bare);
        assert_eq!(of(&all, "temporary").state, State::Broken);
        assert_eq!(of(&all, "driver").state, State::Warn);
        assert!(all.iter().all(|check| check.state == State::Ok || !check.advice.is_empty()));
        assert!(json(&all)["ok"] == false && text(&all).contains("broken  temporary"));
        // A build that promises no GPU misses none.
        bare.features = (false, false);
        assert_eq!(of(&checks(&bare), "driver").state, State::Ok);
    }
}
