//! What code is made for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A machine that code is made for, as a description and a graph name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// The processor of this machine: `cpu`.
    Host,
    /// A GPU of this architecture, by the architecture's name: `sm_90a`.
    Nvidia(NvidiaArch),
}

/// An architecture of NVIDIA's GPUs, as PTX names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NvidiaArch {
    /// Hopper with all its instructions: H100, H200, GH200.
    #[serde(rename = "sm_90a")]
    Sm90a,
}

impl NvidiaArch {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            NvidiaArch::Sm90a => "sm_90a",
        }
    }

    /// The compute capability that a device must have, major and minor: code of an `a` architecture runs on no other.
    pub const fn compute_capability(self) -> (u32, u32) {
        match self {
            NvidiaArch::Sm90a => (9, 0),
        }
    }

    /// Multiprocessors of the card that code is made for where nothing else is said: an H100 SXM's.
    pub const fn multiprocessors(self) -> u32 {
        match self {
            NvidiaArch::Sm90a => 132,
        }
    }

    /// The name of that card, as its driver gives it: measurements of it count where nothing else is said.
    pub const fn card(self) -> &'static str {
        match self {
            NvidiaArch::Sm90a => "NVIDIA H100 80GB HBM3",
        }
    }

    /// Bytes per second between that card and its memory, by its data sheet.
    pub const fn bytes_per_s(self) -> f64 {
        match self {
            NvidiaArch::Sm90a => 3.35e12,
        }
    }

    /// Operations per second in f32, by its data sheet.
    pub const fn flop_per_s(self) -> f64 {
        match self {
            NvidiaArch::Sm90a => 67e12,
        }
    }

    /// Operations per second of its tensor cores on bf16, by its data sheet.
    pub const fn tensor_flop_per_s(self) -> f64 {
        match self {
            NvidiaArch::Sm90a => 989e12,
        }
    }

    /// Whether its tensor cores multiply e4m3.
    pub const fn multiplies_fp8(self) -> bool {
        match self {
            NvidiaArch::Sm90a => true,
        }
    }

    /// Operations per second of its tensor cores on e4m3, by its data sheet.
    pub const fn fp8_flop_per_s(self) -> f64 {
        match self {
            NvidiaArch::Sm90a => 1979e12,
        }
    }

    /// Nanoseconds from the start of a function in a captured pass to that of the next, if neither did anything: about a
    /// microsecond was measured.
    pub const fn launch_ns(self) -> u64 {
        match self {
            NvidiaArch::Sm90a => 1000,
        }
    }
}

impl TargetKind {
    /// Every one that there is.
    pub const ALL: [TargetKind; 2] = [TargetKind::Host, TargetKind::Nvidia(NvidiaArch::Sm90a)];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            TargetKind::Host => "cpu",
            TargetKind::Nvidia(arch) => arch.name(),
        }
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TargetKind {
    type Err = String;

    /// Errors: what the name is not, and the names that there are.
    fn from_str(name: &str) -> Result<TargetKind, String> {
        TargetKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names = TargetKind::ALL.map(|kind| format!("`{kind}`"));
            format!("no target is named `{name}`; there are {}", names.join(" and "))
        })
    }
}

/// What a plan's code was made for; checked when an artefact is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Target {
    /// A processor.
    Host {
        /// Architecture, as Rust names it (`x86_64`); empty for a plan that gets no code.
        arch: String,
        /// Features that the code uses, as Rust names them (`avx2`, `fma`, ...).
        features: Vec<String>,
    },
    /// A GPU.
    Nvidia(Gpu),
}

/// A GPU that code is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Architecture.
    pub arch: NvidiaArch,
    /// Multiprocessors that grids are spread over. The code runs on a card with another number as well, only less evenly
    /// spread.
    pub multiprocessors: u32,
}

impl Gpu {
    /// The usual card of an architecture.
    pub const fn of(arch: NvidiaArch) -> Gpu {
        Gpu { arch, multiprocessors: arch.multiprocessors() }
    }
}

impl Target {
    /// The usual card of this architecture.
    pub const fn nvidia(arch: NvidiaArch) -> Target {
        Target::Nvidia(Gpu::of(arch))
    }

    /// Its kind.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Target::Host { .. } => TargetKind::Host,
            Target::Nvidia(gpu) => TargetKind::Nvidia(gpu.arch),
        }
    }

    /// Whether the processor runs it.
    pub const fn is_host(&self) -> bool {
        matches!(self, Target::Host { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        for kind in TargetKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        let error = "tpu".parse::<TargetKind>().unwrap_err();
        assert_eq!(error, "no target is named `tpu`; there are `cpu` and `sm_90a`");
    }

    #[test]
    fn what_is_not_known_of_a_target_is_refused() {
        let known = Target::nvidia(NvidiaArch::Sm90a);
        let json = serde_json::to_string(&known).unwrap();
        assert_eq!(json, r#"{"kind":"nvidia","arch":"sm_90a","multiprocessors":132}"#);
        assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), known);
        for (from, to) in [("nvidia", "tpu"), ("sm_90a", "sm_70"), ("multiprocessors", "cores")] {
            assert!(serde_json::from_str::<Target>(&json.replace(from, to)).is_err(), "{to}");
        }
    }
}
