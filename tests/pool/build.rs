//! Builds the pool on loom, here alone: with RUSTFLAGS every dependency would be built again.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=build.rs");
}
