//! The artefact's code on the device.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUjit_option, CUmodule};
use hyc_ir::plan::Launch;

use super::device::{Device, check};
use crate::error::{Error, ErrorKind, Result};

/// Loaded code.
pub struct Module {
    handle: CUmodule,
    device: Arc<Device>,
}

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: loaded by `Module::load`, unloaded once.
            unsafe {
                let _ = sys::cuModuleUnload(self.handle);
            }
        }
    }
}

impl Module {
    /// Compiles and loads PTX. Errors: PTX that the driver does not take, with what it says of it.
    pub fn load(device: &Arc<Device>, ptx: &str) -> Result<Module> {
        device.enter()?;
        let text = CString::new(ptx)
            .map_err(|_| Error::new(ErrorKind::BadArtefact, "the artefact's PTX holds a NUL byte"))?;
        let mut log = vec![0u8; 8192];
        let mut options =
            [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text ends in NUL; options and their values live through the call and are two each.
        let result = unsafe {
            sys::cuModuleLoadDataEx(
                &mut handle,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        check(result, || {
            let end = log.iter().position(|b| *b == 0).unwrap_or(0);
            format!("the driver does not take the artefact's code: {}", String::from_utf8_lossy(&log[..end]))
        })?;
        Ok(Module { handle, device: device.clone() })
    }

    /// The function of a launch, ready to be launched or captured. Errors: the code has no such function; it
    /// wants more shared memory than there is.
    pub fn function(&self, launch: &Launch) -> Result<CUfunction> {
        let missing = || format!("the artefact's code has no function `{}`", launch.entry);
        let name =
            CString::new(launch.entry.as_str()).map_err(|_| Error::new(ErrorKind::BadArtefact, missing()))?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in NUL.
        check(unsafe { sys::cuModuleGetFunction(&mut handle, self.handle, name.as_ptr()) }, missing)?;
        // The driver loads lazily, which a capture does not allow.
        // SAFETY: the function belongs to the loaded module.
        check(unsafe { sys::cuFuncLoad(handle) }, || format!("loading `{}`", launch.entry))?;
        // 48 KiB are free with static memory included: asking is cheap, so that any size is asked for.
        if launch.shared_bytes > 0 {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to the loaded module.
            let result = unsafe { sys::cuFuncSetAttribute(handle, attribute, launch.shared_bytes as i32) };
            check(result, || {
                format!("giving `{}` {} bytes of shared memory", launch.entry, launch.shared_bytes)
            })?;
        }
        Ok(handle)
    }
}
