//! Compiles the models that `linked` and `two-models` are linked with. What stands below them is this repository's own:
//! its tests compile another, and with all features that needs libMLIR.so.

use hyc_build::{Model, Weights};

fn main() -> Result<(), hyc_build::Error> {
    Model::new("tiny-hysparse/model.toml").name("tiny").build()?;
    let embedded = Weights::Embedded { most: 1 << 20 };
    Model::new("../tests/golden/dense/model.toml").name("dense").weights(embedded).build()?;
    Model::new("../tests/golden/dense/model.toml").name("twin").weights(embedded).build()?;

    if let Some(prefix) = std::env::var_os("MLIR_SYS_220_PREFIX") {
        println!("cargo::rustc-link-arg-tests=-Wl,-rpath,{}/lib", prefix.display());
    }
    Ok(())
}
