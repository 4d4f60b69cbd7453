//! What the whole-program tests share.

#![allow(clippy::print_stdout, clippy::print_stderr)] // Tables of test programs: they may end at a closed pipe.

pub mod card;
pub mod directed;
#[cfg(feature = "cuda")]
pub mod first_gpu;
pub mod gguf;
pub mod guard;
pub mod mutate;
pub mod parity;
pub mod retrieval;
pub mod smollm2;
pub mod stored;
mod table;
pub mod tokenizers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyc::driver;
use hyc::frontend::ModelDesc;
use hyc::output::{Kept, Target};
use hyc::source::{WeightSource, Weights};
use hyc::write::{self, Artefact};
use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_plan::Plan;
use hyc_runtime::{LoadOptions, Model};
use safetensors::SafeTensors;

pub use table::{Table, each_artefact, text};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folders of tests/golden.
pub fn golden_names() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("tests/golden")).expect("tests/golden");
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("golden.safetensors").exists())
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// A plan and its code as a model, whose weights are made up when it is loaded.
pub fn with_made_up_weights(plan: &Plan, code: &[u8]) -> Arc<Model> {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("made-up.hyc");
    let target = Target::new(&out, &Kept::default()).expect("can be written");
    let artefact = Artefact::bare(plan, code);
    write::artefact(&target, &artefact, &Weights::Absent, &mut |_| Ok(())).expect("writes the artefact");
    let load = LoadOptions { random_weights: Some(9), ..LoadOptions::default() };
    // SAFETY: made here, and nobody changes it.
    Arc::new(unsafe { Model::load(&out, &load) }.expect("loads"))
}

/// Compiles a model.toml into `out`, after `edit` has changed its description.
pub fn compile(model: &Path, out: &Path, level: Level, edit: impl FnOnce(&mut ModelDesc)) {
    compile_wrongly(model, out, level, edit, |_| {});
}

/// The same; `spoil` changes the plan behind the code's back.
pub fn compile_wrongly(
    model: &Path,
    out: &Path,
    level: Level,
    edit: impl FnOnce(&mut ModelDesc),
    spoil: impl FnOnce(&mut Plan),
) {
    let text = std::fs::read_to_string(model).expect("a model.toml");
    let mut desc = hyc::frontend::parse_model(model, &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
    edit(&mut desc);
    let text = hyc::text::read(&desc.tokenizer, desc.vocab as u64).expect("reads the tokenizer");
    let mut graph = hyc::frontend::build_graph(&desc);
    driver::choose_of(&mut graph, text.as_ref());
    let lowered = driver::lower(graph, level, &mut |_| Ok(())).expect("lowers");
    let mut plan = lowered.plan;
    let mut code = driver::generate_code(&mut plan, level, false, &|| Ok(())).expect("generates code");
    spoil(&mut plan);
    hyc_plan::bind::seal(&plan, &mut code.blob);
    let source = WeightSource::open(&desc.weights.files).and_then(|files| files.renamed(&desc.weights.names));
    let weights = Weights::Files(source.expect("opens the weights"));
    let artefact = Artefact {
        plan: &plan,
        code: &code.blob,
        cubin: None,
        graph: &lowered.graph.to_string(),
        asm: "",
        text: text.as_ref(),
        sampling: desc.sampling,
        eval: desc.eval,
    };
    let target = Target::new(out, &Kept::default()).expect("can be written");
    write::artefact(&target, &artefact, &weights, &mut |_| Ok(())).expect("writes the artefact");
}

/// Compiles one of tests/golden for this machine and loads it.
pub fn golden_model(name: &str, folder: &Path) -> Arc<Model> {
    let model = root().join("tests/golden").join(name).join("model.toml");
    compiled_model(&model, &folder.join(format!("{name}.hyc")))
}

/// Compiles a model.toml for this machine into `out`, and loads it.
pub fn compiled_model(model: &Path, out: &Path) -> Arc<Model> {
    edited_model(model, out, |_| {})
}

/// The same, after `edit` has changed its description.
pub fn edited_model(model: &Path, out: &Path, edit: impl FnOnce(&mut ModelDesc)) -> Arc<Model> {
    compile(model, out, CpuTarget::host().level, edit);
    // SAFETY: made here, and nobody changes it.
    Arc::new(unsafe { Model::load(out, &LoadOptions::default()) }.expect("loads"))
}

/// The golden tensors of one of tests/golden.
pub fn golden_tensors(name: &str) -> Golden {
    Golden::open(&root().join("tests/golden").join(name).join("golden.safetensors"))
}

/// The golden tensors of one model.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    /// Reads them.
    pub fn open(path: &Path) -> Golden {
        Golden { bytes: std::fs::read(path).expect("a safetensors file") }
    }

    fn words(&self, name: &str) -> Option<(Vec<usize>, Vec<[u8; 4]>)> {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = tensors.tensor(name).ok()?;
        let words = view.data().chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]).collect();
        Some((view.shape().to_vec(), words))
    }

    /// Shape and elements of an f32 tensor.
    pub fn f32(&self, name: &str) -> Option<(Vec<usize>, Vec<f32>)> {
        self.words(name).map(|(shape, words)| (shape, words.into_iter().map(f32::from_le_bytes).collect()))
    }

    /// Shape and elements of an i32 tensor.
    pub fn i32(&self, name: &str) -> Option<(Vec<usize>, Vec<i32>)> {
        self.words(name).map(|(shape, words)| (shape, words.into_iter().map(i32::from_le_bytes).collect()))
    }
}

/// The square root of the mean of the squares.
pub fn root_mean_square(numbers: &[f32]) -> f32 {
    (numbers.iter().map(|x| x * x).sum::<f32>() / numbers.len() as f32).sqrt()
}

/// ||a - b|| / ||b||.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let distance: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (distance / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}
