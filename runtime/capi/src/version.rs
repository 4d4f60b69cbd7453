//! Which library this is.

/// The version of the library, as `1.2.3`; valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn hyc_version() -> *const std::ffi::c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
