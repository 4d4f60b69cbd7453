//! What runs a plan: a device with its memory and its kernels. The host's and the GPU's stand beside each other.

mod contract;
#[cfg(feature = "cuda")]
mod cuda;
mod host;
mod memory;
mod open;

pub use self::contract::{Clock, LaunchTimes, Runner};
pub use self::host::{HostMemory, HostRunner, Kernels, NativeKernels, StepCall};
pub use self::memory::{DeviceMemory, Memory};
pub use self::open::open_runner;
