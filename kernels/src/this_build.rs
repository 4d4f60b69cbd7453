//! What this build can make for GPUs.

use crate::nvidia::Generator;

/// The code generator of GPUs. Without LLVM it has no kernel for anything, and says so.
pub fn gpu_generator() -> Generator {
    #[cfg(feature = "llvm")]
    return Generator {
        candidates: crate::gpu::candidates,
        digest: |spec, variant, gpu| crate::gpu::digest(spec, variant, gpu).ok(),
    };
    #[cfg(not(feature = "llvm"))]
    Generator {
        candidates: |spec, gpu| {
            Err(format!("no code of `{}` for {}: this build has no LLVM", spec.op.name(), gpu.arch.name()))
        },
        digest: |_, _, _| None,
    }
}
