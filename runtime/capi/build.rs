//! Lets the tests, which compile what their programs run, find libMLIR.so, where hyc-kernels is built with the feature
//! `llvm`. The library itself contains no compiler.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(folder) = std::env::var_os("DEP_HYC_MLIR_LIBRARIES") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{}", folder.display());
    }
}
