//! NVIDIA's GPUs as the passes see them: what can be said without LLVM.

use hyc_plan::{Backend, CacheSpec, Codec, Gpu, KernelSpec, Kind, KvOrder, Layout, Target};

use crate::panels::panels;

/// The back end of a GPU.
#[derive(Debug, Clone)]
pub struct Nvidia {
    /// What its code is for.
    pub gpu: Gpu,
    /// Whether tensor cores multiply: bf16 matrices and caches are then stored as those read them, where their shapes
    /// allow it. Else all products are in f32, of panels.
    pub tensor_cores: bool,
    /// Whether there is a kernel for a spec: `gpu::supports` where this build has LLVM.
    pub supports: fn(&KernelSpec, &Gpu) -> Result<(), String>,
}

impl Backend for Nvidia {
    fn target(&self) -> Target {
        Target::Nvidia(self.gpu)
    }

    fn layout(&self, kind: &Kind, codec: Codec) -> Option<Layout> {
        match *kind {
            Kind::Matrices { count, out, inn, .. } if self.tensor_cores && codec == Codec::Bf16 => {
                Some(Layout::Tiles { count, out: out?, inn })
            }
            _ => panels(kind),
        }
    }

    fn kv_order(&self, cache: &CacheSpec) -> KvOrder {
        if self.tensor_cores && cache.can_tile() { KvOrder::Tiles } else { KvOrder::Columns }
    }

    fn samples(&self) -> bool {
        true
    }

    fn supports(&self, spec: &KernelSpec) -> Result<(), String> {
        (self.supports)(spec, &self.gpu)
    }
}
