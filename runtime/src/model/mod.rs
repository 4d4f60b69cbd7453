//! Loading an artefact.

mod code;
mod digests;
mod header;
mod weights;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hyc_ir::artefact::{ASM, CODE, CUBIN, GRAPH, NO_WEIGHTS, PLAN_KEY, TOKENIZER, WEIGHTS_KEY};
use hyc_ir::plan::{Plan, WeightId};
use memmap2::Mmap;

use self::code::{check_machine, code};
use self::digests::check_digests;
use self::header::{check_hash, check_version, places, read_header};
use self::weights::weights;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Aligned;
use crate::random_weights::RandomWeights;

pub use self::weights::stored_shape;

/// How much of an artefact is checked when it is loaded. The header, with the Plan and every tensor's
/// place, always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// Every byte: reads the whole file.
    #[default]
    Full,
    /// The header and the machine code: a damaged weight gives wrong answers.
    Header,
}

/// How to load.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// What to check.
    pub verify: Verify,
    /// For an artefact without weights, to measure with: a seed to make them up from, layer by layer of a size
    /// that keeps activations sane.
    pub random_weights: Option<u64>,
    /// Takes an artefact without weights as it is, to look at it; reading a weight of it is an error.
    pub allow_no_weights: bool,
}

/// Where the weights are.
enum Weights {
    /// In the file, from these offsets.
    File(Vec<usize>),
    /// Nowhere: they are made up, and kept for whoever wants them in the host's memory.
    Random(RandomWeights, Vec<OnceLock<Aligned>>),
    /// Nowhere, and nobody made them up.
    Absent,
}

/// A loaded artefact: the file in memory, its checked Plan, its code ready to run.
pub struct Model {
    path: PathBuf,
    map: Mmap,
    plan: Plan,
    weights: Weights,
    places: BTreeMap<String, (usize, usize)>,
    pub(crate) code: Option<Arc<Mmap>>,
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadArtefact, format!("{} is damaged: {what}", path.display()))
        .help("copy it again, or compile the model again")
}

impl Model {
    /// Maps a file and checks it. Errors: a file that cannot be read, is no artefact, is truncated, damaged
    /// or of another version; a Plan that breaks a rule; a processor without the features of the code.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Model> {
        Model::load_observed(path, options, &mut |_, _| true)
    }

    /// The same; `progress` gets the bytes checked so far and those to check, every few MiB, and ends the
    /// loading with [`ErrorKind::Cancelled`] where it returns false.
    pub fn load_observed(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        let path = path.as_ref();
        let io = |e: std::io::Error| {
            Error::new(ErrorKind::BadInput, format!("cannot read {}: {e}", path.display()))
                .help("check the path")
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the file is only read. Another process that truncates it meanwhile ends this one with
        // SIGBUS; the compiler never does: it writes a new file and renames it.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header, metadata) = read_header(path, &map)?;
        check_version(path, &metadata)?;
        let places = places(path, &map, header)?;
        check_hash(path, &map[8..header], &metadata)?;
        // Damaged code is never run, however little is checked.
        let checked = |name: &str| options.verify == Verify::Full || [CODE, CUBIN].contains(&name);
        check_digests(path, &map, &places, &metadata, &checked, progress)?;
        let plan: Plan =
            metadata.get(PLAN_KEY).ok_or_else(|| damaged(path, "it has no plan")).and_then(|json| {
                serde_json::from_str(json).map_err(|e| damaged(path, format!("its plan: {e}")))
            })?;
        plan.verify().map_err(|errors| damaged(path, format!("its plan: {}", errors[0])))?;
        let absent = metadata.get(WEIGHTS_KEY).is_some_and(|value| value == NO_WEIGHTS);
        let weights = match (absent, options.random_weights) {
            (false, None) => Weights::File(weights(path, &map, &plan, &places)?),
            (true, Some(seed)) => {
                let kept = plan.weights.iter().map(|_| OnceLock::new()).collect();
                Weights::Random(RandomWeights::new(seed, &plan.weights), kept)
            }
            (true, None) if options.allow_no_weights => Weights::Absent,
            (absent, _) => return Err(wrong_weights(path, absent)),
        };
        check_machine(&plan)?;
        let code = code(path, &map, &plan, &places)?;
        Ok(Model { path: path.to_path_buf(), map, plan, weights, places, code })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The packed bytes of a weight.
    /// Errors: no memory for one that is made up.
    pub fn weight(&self, id: WeightId) -> Result<&[u8]> {
        let weight = &self.plan.weights[id.index()];
        let (random, kept) = match &self.weights {
            Weights::File(starts) => {
                let start = starts[id.index()];
                return Ok(&self.map[start..start + weight.bytes() as usize]);
            }
            Weights::Random(random, kept) => (random, &kept[id.index()]),
            Weights::Absent => return Err(wrong_weights(&self.path, true)),
        };
        if kept.get().is_none() {
            let (mut memory, mut at) = (Aligned::zeroed(weight.bytes())?, 0);
            random.pieces(weight, 1 << 20, &mut |piece| {
                memory.bytes_mut()[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
                Ok(())
            })?;
            // Another thread may have been faster, with the same bytes.
            let _ = kept.set(memory);
        }
        Ok(kept.get().map(Aligned::bytes).unwrap_or_default())
    }

    /// Whether the weights are made up.
    pub fn has_random_weights(&self) -> bool {
        matches!(self.weights, Weights::Random(..))
    }

    /// The same in pieces of at most `most` bytes (64 KiB at least), in order; nothing is kept of what is made up.
    pub fn weight_pieces(
        &self,
        id: WeightId,
        most: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match &self.weights {
            Weights::File(_) | Weights::Absent => self.weight(id)?.chunks(most.max(1)).try_for_each(sink),
            Weights::Random(random, _) => random.pieces(&self.plan.weights[id.index()], most, sink),
        }
    }

    fn tensor(&self, name: &str) -> Option<&[u8]> {
        self.places.get(name).map(|(start, end)| &self.map[*start..*end])
    }

    /// The PTX of an artefact for a GPU.
    pub fn ptx(&self) -> Option<&str> {
        let code = self.tensor(CODE).filter(|_| self.plan.target.kind != "cpu");
        code.and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The machine code of an artefact for a GPU, where the compiler had an assembler.
    pub fn cubin(&self) -> Option<&[u8]> {
        self.tensor(CUBIN)
    }

    /// tokenizer.json, where the artefact has one.
    pub fn tokenizer_json(&self) -> Option<&[u8]> {
        self.tensor(TOKENIZER)
    }

    /// The scheduled graph's text, where the artefact has it.
    pub fn graph_text(&self) -> Option<&str> {
        self.tensor(GRAPH).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The kernels' disassembly, where the artefact has it.
    pub fn asm_text(&self) -> Option<&str> {
        self.tensor(ASM).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }
}

/// Weights that are there and shall be made up, or are `absent` and shall not.
fn wrong_weights(path: &Path, absent: bool) -> Error {
    let path = path.display();
    if absent {
        Error::new(ErrorKind::BadInput, format!("{path} was compiled without weights"))
            .help("compile it with its weights; to measure speed, load it with `--random-weights SEED`")
    } else {
        Error::new(ErrorKind::BadInput, format!("{path} has weights: random ones cannot take their place"))
            .help("leave `--random-weights` away, or compile the model with `--no-weights`")
    }
}
