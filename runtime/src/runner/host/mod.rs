//! Passes on the host: kernels that are called, step by step.

mod kernels;
mod native;
mod steps;

pub use self::kernels::{Kernels, StepCall};
pub use self::native::NativeKernels;
pub use self::steps::{HostMemory, HostRunner};
