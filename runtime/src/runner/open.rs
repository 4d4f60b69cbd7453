//! The runner that an artefact needs.

use std::sync::Arc;

use super::contract::Runner;
use super::host::{HostRunner, NativeKernels};
use crate::error::Result;
#[cfg(not(feature = "cuda"))]
use crate::error::{Error, ErrorKind};
use crate::memory_plan::MemoryPlan;
use crate::model::Model;
use crate::options::SessionOptions;

/// The runner that an artefact's target needs: the host's generated code on threads, or a GPU. `memory` is what it will
/// allocate, with the room of its caches; `progress` gets the bytes of weights checked, or copied to a GPU, and all bytes,
/// and ends that where it returns false.
///
/// Errors: a target that this build of the runtime does not carry; no such device; too little memory;
/// `Cancelled`.
pub fn open_runner(
    model: &Arc<Model>,
    options: &SessionOptions,
    memory: &MemoryPlan,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Box<dyn Runner>> {
    model.check_runnable()?;
    let target = &model.plan().target;
    if target.is_host() {
        memory.check(model.plan())?;
        model.check_weights(progress)?;
        let kernels = Box::new(NativeKernels::new(model, options.thread_count())?);
        return Ok(Box::new(HostRunner::new(Arc::clone(model), kernels, memory.room)?));
    }
    #[cfg(feature = "cuda")]
    return Ok(Box::new(super::cuda::CudaRunner::new(model, memory, &options.gpu, progress)?));
    #[cfg(not(feature = "cuda"))]
    {
        let message = format!("this build of the runtime does not execute `{}` code", target.kind());
        Err(Error::new(ErrorKind::Unsupported, message)
            .help("build it with the feature `cuda`, or compile the model with `--target cpu`"))
    }
}
