//! Tells the library how well it is optimised itself, and lets its tests find libMLIR.so, where hyc-kernels is built with
//! the feature `llvm`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(folder) = std::env::var_os("DEP_HYC_MLIR_LIBRARIES") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
    let level = std::env::var("OPT_LEVEL").unwrap_or_default();
    println!("cargo::rustc-env=HYC_BUILD_OPT_LEVEL={level}");
}
