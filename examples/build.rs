//! Compiles the models that `linked` and `two-models` are linked with.

use hyc_build::{Model, Weights};

fn main() -> Result<(), hyc_build::Error> {
    Model::new("tiny-hysparse/model.toml").name("tiny").build()?;
    let embedded = Weights::Embedded { most: 1 << 20 };
    Model::new("../tests/golden/dense/model.toml").name("dense").weights(embedded).build()?;
    Model::new("../tests/golden/dense/model.toml").name("twin").weights(embedded).build()
}
