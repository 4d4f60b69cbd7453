//! The artefact's code on the device.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUjit_option, CUmodule, CUresult};
use hyc_plan::artefact::{DIGEST, Digest};
use hyc_plan::bind::{self, PLAN_SYMBOL};
use hyc_plan::{Launch, Plan};

use super::device::{Device, check};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// Bytes for what the driver says of code that it refuses.
const LOG_BYTES: usize = 8192;

/// Where the driver writes what it has against a text: an option of its calls.
struct Log {
    bytes: Vec<u8>,
    options: [CUjit_option; 2],
    values: [*mut c_void; 2],
}

impl Log {
    fn new() -> Log {
        let mut bytes = vec![0u8; LOG_BYTES];
        let values = [bytes.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
        let options =
            [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        Log { bytes, options, values }
    }

    /// What it holds.
    fn text(&self) -> String {
        let end = self.bytes.iter().position(|b| *b == 0).unwrap_or(0);
        String::from_utf8_lossy(&self.bytes[..end]).trim().to_string()
    }
}

/// A PTX text as the driver takes it.
fn terminated(ptx: &str) -> Result<CString> {
    CString::new(ptx).map_err(|_| Error::new(ErrorKind::BadArtefact, "the artefact's PTX holds a NUL byte"))
}

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
    /// Loads an artefact's code: its machine code where it has some that fits this device, else what the driver compiles of
    /// its PTX. That takes seconds; the driver keeps it for the next process (`CUDA_CACHE_PATH`). Its linker, which would
    /// give the code to us, leaves every warp group the registers that it began with: half the speed.
    ///
    /// Errors: an artefact without code; PTX that the driver does not take, with what it says of it.
    pub fn of(device: &Arc<Device>, model: &Model) -> Result<Module> {
        let Some(ptx) = model.ptx() else {
            let message = format!("{} has no code", model.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message).help("compile it without `--plan-only`"));
        };
        match model.cubin().map(|cubin| Module::load(device, cubin)) {
            Some(Ok(module)) => Ok(module),
            Some(Err(_)) | None => Module::load_text(device, ptx),
        }
    }

    /// Compiles and loads PTX. Errors: text that the driver does not take, with what it says of it.
    fn load_text(device: &Arc<Device>, ptx: &str) -> Result<Module> {
        device.enter()?;
        let (text, mut log) = (terminated(ptx)?, Log::new());
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text ends in NUL; options and their values live through the call.
        let result = unsafe {
            let (options, values) = (log.options.as_mut_ptr(), log.values.as_mut_ptr());
            sys::cuModuleLoadDataEx(&mut handle, text.as_ptr().cast(), 2, options, values)
        };
        check(result, || format!("the driver does not take the artefact's code: {}", log.text()))?;
        Ok(Module { handle, device: device.clone() })
    }

    /// Loads machine code. Errors: code of another device, or no code.
    pub fn load(device: &Arc<Device>, cubin: &[u8]) -> Result<Module> {
        device.enter()?;
        if !cubin.starts_with(b"\x7fELF") {
            return Err(Error::new(ErrorKind::BadArtefact, "the GPU's machine code is none"));
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: a whole ELF file, by the digest of the artefact; a place for the result.
        let result = unsafe { sys::cuModuleLoadData(&mut handle, cubin.as_ptr().cast()) };
        check(result, || "loading the artefact's code".into())?;
        Ok(Module { handle, device: device.clone() })
    }

    /// Checks that the code was made for `plan`, by the digests that it carries: PTX was looked at when the artefact
    /// was loaded, machine code speaks for itself. Errors: code of another plan, or that does not say.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let other = |what: String| {
            Error::new(ErrorKind::BadArtefact, format!("the artefact's GPU code and its plan differ: {what}"))
                .help("compile the model again")
        };
        for (symbol, digest) in bind::code_digests(plan) {
            if self.variable(&symbol)? != digest {
                return Err(other(format!("what `{symbol}` stands for was made for other sizes")));
            }
        }
        match self.variable(PLAN_SYMBOL)? == Some(bind::plan_digest(plan)) {
            true => Ok(()),
            false => Err(other("it was made for another plan".to_string())),
        }
    }

    /// The bytes of a variable that holds a digest; `None` where the code has none of this name.
    fn variable(&self, name: &str) -> Result<Option<Digest>> {
        self.device.enter()?;
        let Ok(symbol) = CString::new(name) else { return Ok(None) };
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: the module is loaded, the name ends in NUL, and both results have places.
        let found =
            unsafe { sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, self.handle, symbol.as_ptr()) };
        if found != CUresult::CUDA_SUCCESS || bytes != DIGEST {
            return Ok(None);
        }
        let mut digest = [0; DIGEST];
        // SAFETY: the variable has as many bytes as `digest`; the copy is through when the call returns.
        let copied = unsafe { sys::cuMemcpyDtoH_v2(digest.as_mut_ptr().cast(), address, DIGEST) };
        check(copied, || format!("reading `{name}` of the artefact's code"))?;
        Ok(Some(digest))
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
