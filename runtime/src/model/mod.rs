//! Loading an artefact.

mod code;
mod digests;
mod fault;
mod file;
mod header;
mod purpose;
mod text;
mod weights;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use hyc_plan::artefact::{
    ASM, CODE, CUBIN, GRAPH, NO_WEIGHTS, PAD, PLAN_KEY, SAMPLING_KEY, TOKENIZER, TREE, WEIGHTS_KEY,
};
use hyc_plan::sampling::SamplingDefaults;
use hyc_plan::text_settings::TextSettings;
use hyc_plan::{Plan, Weight, WeightId};
use memmap2::Mmap;

use self::code::{check_machine, check_places, code};
use self::digests::Digests;
pub(crate) use self::fault::no_weight;
use self::fault::{damaged, unread_weights, wrong_weights};
use self::file::FileBytes;
use self::header::read_header;
use self::purpose::Purpose;
use self::text::text;
use self::weights::weights;
use crate::error::Result;
use crate::memory::Aligned;
use crate::random_weights::RandomWeights;

pub use self::file::Storage;
pub use self::purpose::ModelId;

/// When an artefact's weights are checked against their digests. The header with the Plan and every tensor's place,
/// the code and all else that is no weight is checked when the file is loaded, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// When it is loaded, with every other byte: reads the whole file.
    Full,
    /// When they are first read, before anybody gets them: by [`Model::weight`], and all at once by a session.
    #[default]
    OnRead,
    /// Never: a damaged weight gives wrong answers.
    Header,
}

/// How to load.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// What to check.
    pub verify: Verify,
    /// Where the file is then.
    pub storage: Storage,
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
    /// In the file, which is only looked at.
    Unread,
}

/// A loaded artefact: the file in memory, its checked Plan, its code ready to run.
///
/// Loading an artefact is running a program, so that it takes `unsafe`; looking at one ([`Model::open_to_look`]) does
/// not.
///
/// ```compile_fail,E0133
/// let model = hyc_runtime::Model::load("model.hyc", &hyc_runtime::LoadOptions::default());
/// ```
pub struct Model {
    id: ModelId,
    path: PathBuf,
    file: FileBytes,
    digests: Digests,
    verify: Verify,
    plan: Plan,
    text: Option<TextSettings>,
    weights: Weights,
    places: BTreeMap<String, (usize, usize)>,
    sampling: SamplingDefaults,
    pub(crate) code: Option<Arc<Mmap>>,
    purpose: Purpose,
}

impl Model {
    /// Maps a file and checks it. Errors: a file that cannot be read, is no artefact, is truncated, damaged
    /// or of another version; a Plan that breaks a rule; a processor without the features of the code.
    ///
    /// # Safety
    /// An artefact is a program: its machine code runs in this process, with all its rights, as soon as a
    /// [`Session`](crate::Session) steps. The caller vouches for two things.
    ///
    /// * `hyc compile` wrote the file, and whoever could change it since is trusted as the caller's own executable is.
    ///   Digests find damage, not forgery: they are no signature.
    /// * Nobody writes to the file or shortens it while the model lives, unless it is copied ([`Storage::Copied`]). To
    ///   replace an artefact, write another file and rename it, as `hyc compile` does.
    ///
    /// What is promised of such a file: a bit that flipped, a part that is missing or of another artefact, a plan that
    /// was edited, is an error before any of it runs: in a weight when it is first read, unless [`LoadOptions::verify`]
    /// says otherwise; else here. What is promised of any other file: nothing.
    pub unsafe fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Model> {
        // SAFETY: passed on from the caller.
        unsafe { Model::load_observed(path, options, &mut |_, _| true) }
    }

    /// The same; `progress` gets the bytes checked so far and those to check, every few MiB, and ends the
    /// loading with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) where it returns false.
    ///
    /// # Safety
    /// As for [`Model::load`].
    pub unsafe fn load_observed(
        path: impl AsRef<Path>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Model> {
        let path = path.as_ref();
        // SAFETY: the caller's second promise.
        let file = unsafe { FileBytes::open(path, options.storage) }?;
        Model::open(path, file, options, progress, Purpose::Run)
    }

    /// Opens a file to look at it: checked as [`Model::load`] checks it, and none of its code can run. No
    /// [`Session::new`](crate::Session::new) takes such a model. All but the weights is read to memory, so that nothing
    /// that happens to the file later matters; the weights too with [`Verify::Full`], and else reading one is an error.
    /// Weights need not be there, and what running the code would need neither. Errors: those of [`Model::load`]
    /// otherwise.
    ///
    /// ```
    /// # use hyc_handmade::Parts;
    /// # use hyc_runtime::{Model, Verify};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = Parts::new().save(folder.path());
    /// let model = Model::open_to_look(&path, Verify::Full)?;
    /// assert_eq!(model.plan().model.max_context, 40);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_to_look(path: impl AsRef<Path>, verify: Verify) -> Result<Model> {
        let options = LoadOptions { verify, allow_no_weights: true, ..LoadOptions::default() };
        let path = path.as_ref();
        Model::open(path, FileBytes::parts(path)?, &options, &mut |_, _| true, Purpose::Look)
    }

    fn open(
        path: &Path,
        mut file: FileBytes,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        purpose: Purpose,
    ) -> Result<Model> {
        let header = read_header(path, &file)?;
        if let Some(tree) = header.tensors.get(TREE) {
            file.need(path, tree.place.clone())?;
        }
        let digests = Digests::new(path, &file, &header)?;
        let metadata = &header.metadata;
        let plan: Plan =
            metadata.get(PLAN_KEY).ok_or_else(|| damaged(path, "it has no plan")).and_then(|json| {
                serde_json::from_str(json).map_err(|e| damaged(path, format!("its plan: {e}")))
            })?;
        plan.verify().map_err(|errors| damaged(path, format!("its plan: {}", errors[0])))?;
        let sampling = metadata.get(SAMPLING_KEY).map(|json| {
            SamplingDefaults::from_json(json).map_err(|e| damaged(path, format!("its sampling: {e}")))
        });
        let sampling = sampling.transpose()?.unwrap_or_default();
        let absent = metadata.get(WEIGHTS_KEY).is_some_and(|value| value == NO_WEIGHTS);
        let weights = match (absent, options.random_weights) {
            (false, None) => {
                let places = weights(path, &plan, &header)?;
                let unread = purpose == Purpose::Look && options.verify != Verify::Full;
                if unread { Weights::Unread } else { Weights::File(places) }
            }
            (true, Some(seed)) => {
                let kept = plan.weights.iter().map(|_| OnceLock::new()).collect();
                Weights::Random(RandomWeights::new(seed, &plan.weights), kept)
            }
            (true, None) if options.allow_no_weights => Weights::Absent,
            (absent, _) => return Err(wrong_weights(path, absent)),
        };
        // Damaged code is never run, however little is checked.
        let names = plan.weights.iter().map(|weight| weight.name.as_str());
        let later: HashSet<&str> = names.filter(|name| !name.starts_with("hyc.")).collect();
        let now =
            |name: &str| options.verify == Verify::Full || (!later.contains(name) && !name.starts_with(PAD));
        for (_, tensor) in header.tensors.iter().filter(|(name, _)| now(name)) {
            file.need(path, tensor.place.clone())?;
        }
        digests.check(path, &file, digests.leaves_of(now), progress)?;
        let text = text(path, metadata)?;
        let places =
            header.tensors.into_iter().map(|(name, t)| (name, (t.place.start, t.place.end))).collect();
        if purpose == Purpose::Run {
            check_machine(&plan)?;
        }
        check_places(path, &file, &plan, &places)?;
        let code = match purpose {
            Purpose::Look => None,
            Purpose::Run => code(&file, &plan, &places)?,
        };
        let (id, path, verify) = (ModelId::new(), path.to_path_buf(), options.verify);
        Ok(Model { id, path, file, digests, verify, plan, text, weights, places, sampling, code, purpose })
    }

    /// Which loaded model this is.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// Errors: it was opened to be looked at.
    pub(crate) fn check_runnable(&self) -> Result<()> {
        self.purpose.check_run(&self.path)
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
        self.file.len() as u64
    }

    /// Checks all weights that nobody has checked, on all cores, where [`LoadOptions::verify`] has left that for later;
    /// `progress` as in [`Model::load_observed`]. Errors: a damaged weight; `Cancelled`.
    pub fn check_weights(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        if self.verify == Verify::Header || !matches!(self.weights, Weights::File(_)) {
            return Ok(());
        }
        let bytes = |weight: &Weight| self.digests.leaves(&weight.name, 0..weight.bytes() as usize);
        self.digests.check(&self.path, &self.file, self.plan.weights.iter().flat_map(bytes), progress)
    }

    /// The same of some bytes of one weight.
    fn check_weight(&self, name: &str, bytes: Range<usize>) -> Result<()> {
        if self.verify == Verify::Header {
            return Ok(());
        }
        self.digests.check(&self.path, &self.file, self.digests.leaves(name, bytes), &mut |_, _| true)
    }

    /// The packed bytes of a weight, checked. Errors: no such weight; a damaged one; no memory for one that is made
    /// up.
    pub fn weight(&self, id: WeightId) -> Result<&[u8]> {
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        let (random, kept) = match &self.weights {
            Weights::File(starts) => {
                let (start, len) = (starts[id.index()], weight.bytes() as usize);
                self.check_weight(&weight.name, 0..len)?;
                return Ok(&self.file[start..start + len]);
            }
            Weights::Random(random, kept) => (random, &kept[id.index()]),
            Weights::Absent => return Err(wrong_weights(&self.path, true)),
            Weights::Unread => return Err(unread_weights(&self.path)),
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

    /// Whether the file has the weights.
    pub fn has_weights(&self) -> bool {
        matches!(self.weights, Weights::File(_) | Weights::Unread)
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
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        match &self.weights {
            Weights::File(starts) => {
                let (start, len, most) = (starts[id.index()], weight.bytes() as usize, most.max(1 << 16));
                (0..len).step_by(most).try_for_each(|at| {
                    let end = len.min(at + most);
                    self.check_weight(&weight.name, at..end)?;
                    sink(&self.file[start + at..start + end])
                })
            }
            Weights::Absent => Err(wrong_weights(&self.path, true)),
            Weights::Unread => Err(unread_weights(&self.path)),
            Weights::Random(random, _) => random.pieces(weight, most, sink),
        }
    }

    fn tensor(&self, name: &str) -> Option<&[u8]> {
        self.places.get(name).map(|(start, end)| &self.file[*start..*end])
    }

    /// The PTX of an artefact for a GPU.
    pub fn ptx(&self) -> Option<&str> {
        let code = self.tensor(CODE).filter(|_| !self.plan.target.is_host());
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

    /// What the model wants of its text, where the compiler had a tokenizer.
    pub fn text_settings(&self) -> Option<&TextSettings> {
        self.text.as_ref()
    }

    /// How tokens are chosen where nobody says otherwise: the description's `[sampling]`; greedy without one.
    pub fn sampling_defaults(&self) -> SamplingDefaults {
        self.sampling
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
