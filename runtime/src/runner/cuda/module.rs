//! The artefact's code on the device.

use std::ffi::{CString, c_void};
use std::path::Path;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction, CUjit_option, CUmodule, CUresult};
use hyc_plan::bind::{self, DIGEST_BYTES, PLAN_SYMBOL, Sha};
use hyc_plan::{Launch, Plan};

use super::device::{Device, check};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::module_cache;

/// Bytes for what the driver says of code that it refuses.
const LOG_BYTES: usize = 8192;

/// The driver's linker at work.
struct Linker(sys::CUlinkState);

impl Drop for Linker {
    fn drop(&mut self) {
        // SAFETY: made by `compile`, destroyed once, in its context.
        unsafe {
            let _ = sys::cuLinkDestroy(self.0);
        }
    }
}

/// Where the driver writes what it has against a text: an option of its calls.
struct Log {
    bytes: Vec<u8>,
    options: [CUjit_option; 3],
    values: [*mut c_void; 3],
}

impl Log {
    fn new() -> Log {
        let mut bytes = vec![0u8; LOG_BYTES];
        let target = sys::CUjit_target::CU_TARGET_COMPUTE_90A as usize;
        let values = [bytes.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void, target as *mut c_void];
        let options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
            // The linker's own choice is plain sm_90, which has no tensor cores' `wgmma`.
            CUjit_option::CU_JIT_TARGET,
        ];
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

/// The device's machine code of a PTX text, from the driver's linker.
fn compile(device: &Device, ptx: &str) -> Result<Vec<u8>> {
    device.enter()?;
    let (text, mut log) = (terminated(ptx)?, Log::new());
    let mut handle = std::ptr::null_mut();
    // SAFETY: options and values are three each and live as long as the linker, which writes to them and to the
    // log.
    let made =
        unsafe { sys::cuLinkCreate_v2(3, log.options.as_mut_ptr(), log.values.as_mut_ptr(), &mut handle) };
    check(made, || "starting the driver's linker".into())?;
    let linker = Linker(handle);
    let bytes = text.as_bytes_with_nul();
    let (mut cubin, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the text ends in NUL, which its size counts; the result belongs to the linker and is copied.
    let result = unsafe {
        let kind = sys::CUjitInputType::CU_JIT_INPUT_PTX;
        let (data, name) = (bytes.as_ptr().cast_mut().cast(), c"hyc".as_ptr());
        let (none, no_values) = (std::ptr::null_mut(), std::ptr::null_mut());
        match sys::cuLinkAddData_v2(linker.0, kind, data, bytes.len(), name, 0, none, no_values) {
            CUresult::CUDA_SUCCESS => sys::cuLinkComplete(linker.0, &mut cubin, &mut size),
            other => other,
        }
    };
    check(result, || format!("linking the artefact's code: {}", log.text()))?;
    // SAFETY: the linker has set both, and lives.
    let code = unsafe { std::slice::from_raw_parts(cubin.cast::<u8>(), size) }.to_vec();
    drop(linker);
    Ok(code)
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
    /// Loads an artefact's code: its machine code where it has some that fits this device; else what `cache`
    /// keeps of its PTX; else what the driver compiles of it now, which `cache` keeps.
    ///
    /// Errors: an artefact without code; PTX that the driver does not take, with what it says of it.
    pub fn of(device: &Arc<Device>, model: &Model, cache: Option<&Path>) -> Result<Module> {
        let Some(ptx) = model.ptx() else {
            let message = format!("{} has no code", model.path().display());
            return Err(Error::new(ErrorKind::Unsupported, message).help("compile it without `--plan-only`"));
        };
        if let Some(Ok(module)) = model.cubin().map(|cubin| Module::load(device, cubin)) {
            return Ok(module);
        }
        let Some(folder) = cache else { return Module::load_text(device, ptx) };
        let name = module_cache::name(ptx.as_bytes(), device.driver, device.capability);
        let kept = module_cache::read(folder, &name);
        if let Some(Ok(module)) = kept.map(|cubin| Module::load(device, &cubin)) {
            return Ok(module);
        }
        let Ok(cubin) = compile(device, ptx) else { return Module::load_text(device, ptx) };
        let Ok(module) = Module::load(device, &cubin) else { return Module::load_text(device, ptx) };
        // Where it cannot be kept, the next process compiles again.
        let _ = module_cache::write(folder, &name, &cubin);
        Ok(module)
    }

    /// Compiles and loads PTX. Errors: text that the driver does not take, with what it says of it.
    fn load_text(device: &Arc<Device>, ptx: &str) -> Result<Module> {
        device.enter()?;
        let (text, mut log) = (terminated(ptx)?, Log::new());
        let mut handle = std::ptr::null_mut();
        // SAFETY: the text ends in NUL; options and their values live through the call. The first two are the
        // log's: a module's own choice of target is right.
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
        // SAFETY: a whole ELF file, by the digest of the artefact or of the cache; a place for the result.
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
        for (kernel, digest) in plan.kernels.iter().zip(bind::kernel_digests(plan)) {
            if self.variable(&bind::symbol(&kernel.name))? != digest {
                return Err(other(format!("kernel `{}` was made for other sizes", kernel.name)));
            }
        }
        match self.variable(PLAN_SYMBOL)? == Some(bind::plan_digest(plan)) {
            true => Ok(()),
            false => Err(other("it was made for another plan".to_string())),
        }
    }

    /// The bytes of a variable that holds a digest; `None` where the code has none of this name.
    fn variable(&self, name: &str) -> Result<Option<Sha>> {
        self.device.enter()?;
        let Ok(symbol) = CString::new(name) else { return Ok(None) };
        let (mut address, mut bytes) = (0, 0);
        // SAFETY: the module is loaded, the name ends in NUL, and both results have places.
        let found =
            unsafe { sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, self.handle, symbol.as_ptr()) };
        if found != CUresult::CUDA_SUCCESS || bytes != DIGEST_BYTES {
            return Ok(None);
        }
        let mut digest = [0; DIGEST_BYTES];
        // SAFETY: the variable has as many bytes as `digest`; the copy is through when the call returns.
        let copied = unsafe { sys::cuMemcpyDtoH_v2(digest.as_mut_ptr().cast(), address, DIGEST_BYTES) };
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
