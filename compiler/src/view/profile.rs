//! What `hyc bench --kernels --json` measured of the model that is shown.

use std::collections::HashMap;
use std::path::Path;

use hyc_plan::Plan;
use serde::Deserialize;

use super::head::Head;
use crate::error::{Error, Result};
use crate::words::{place, shortened};

/// Measurements by kernel.
pub struct Profile {
    /// The points, prefills first.
    pub points: Vec<Point>,
    /// Points that are left out: a table has so many columns.
    pub left_out: usize,
}

/// One measurement.
pub struct Point {
    /// `decode at 32768, batch 1`.
    pub title: String,
    /// Seconds and share of the limit of each kernel's launches.
    pub kernels: HashMap<String, (f64, Option<f64>)>,
    /// Seconds of all kernels.
    pub seconds: f64,
}

/// Points that the page shows.
const MOST_POINTS: usize = 6;
/// The version of the form that is read.
const SCHEMA: u64 = 1;

#[derive(Deserialize)]
struct File {
    #[serde(flatten)]
    head: Head,
    prefill: Vec<FilePoint>,
    decode: Vec<FilePoint>,
}

#[derive(Deserialize)]
struct FilePoint {
    tokens: u64,
    batch: u64,
    kernels: Vec<FileKernel>,
}

#[derive(Deserialize)]
struct FileKernel {
    name: String,
    seconds: f64,
    share_of_limit: Option<f64>,
}

/// Reads a profile of `plan`. Errors: none, or one of another model, target or way to compile.
pub fn read(path: &Path, text: &[u8], plan: &Plan) -> Result<Profile> {
    let refuse = |what: String| {
        Error::input(format!("{} is no profile of this model: {what}", place(path))).help(
            "make one with `hyc bench MODEL.hyc --kernels --json`, of the same model, target and limits",
        )
    };
    let file: File = serde_json::from_slice(text)
        .map_err(|e| refuse(format!("it is not what `hyc bench --json` prints ({e})")))?;
    file.head.check(SCHEMA, plan, "measured").map_err(refuse)?;
    let mut points = Vec::new();
    for (point, prefill) in
        file.prefill.iter().map(|p| (p, true)).chain(file.decode.iter().map(|p| (p, false)))
    {
        let title = match prefill {
            true => format!("prefill {}", point.tokens),
            false => format!("decode at {}, batch {}", point.tokens, point.batch),
        };
        let mut kernels = HashMap::new();
        for kernel in &point.kernels {
            if !plan.kernels.iter().any(|known| known.name == kernel.name) {
                return Err(refuse(format!("the plan has no kernel `{}`", shortened(&kernel.name))));
            }
            if !(kernel.seconds.is_finite() && kernel.seconds >= 0.0) {
                return Err(refuse(format!("`{}` took {} s", kernel.name, kernel.seconds)));
            }
            kernels.insert(kernel.name.clone(), (kernel.seconds, kernel.share_of_limit));
        }
        // In the file's order: a sum of floats in another one is another sum.
        let seconds = point.kernels.iter().map(|kernel| kernel.seconds).sum();
        points.push(Point { title, kernels, seconds });
    }
    points.retain(|point| !point.kernels.is_empty());
    if points.is_empty() {
        return Err(refuse("it has no times of kernels".to_string()));
    }
    let left_out = points.len().saturating_sub(MOST_POINTS);
    points.truncate(MOST_POINTS);
    Ok(Profile { points, left_out })
}
