//! Lets the tests, which compile what their programs run, find libMLIR.so where they are built with all features. The
//! library itself contains no compiler. (What hyc-kernels says of the place reaches the scripts of crates that depend on it,
//! and not those whose tests alone do.)

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=MLIR_SYS_220_PREFIX");
    if let Some(prefix) = std::env::var_os("MLIR_SYS_220_PREFIX") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{}/lib", prefix.display());
    }
}
