//! Loading an artefact.

mod beside;
mod code;
mod digests;
mod fault;
mod file;
mod header;
mod purpose;
mod sources;
mod text;
mod weights;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hyc_plan::Plan;
use hyc_plan::artefact::{
    ASM, CODE, CUBIN, EVAL_KEY, GRAPH, NO_WEIGHTS, PAD, PLAN_KEY, SAMPLING_KEY, TOKENIZER, TREE, WEIGHTS_KEY,
};
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::SamplingDefaults;
use hyc_plan::text_settings::TextSettings;

use self::beside::Beside;
pub(crate) use self::code::HostCode;
use self::code::{check_machine, check_places, executable};
use self::digests::Digests;
#[cfg(feature = "cuda")]
pub(crate) use self::fault::no_weight;
use self::fault::{damaged, unlinked_weights, wrong_weights};
use self::file::FileBytes;
use self::header::read_header;
use self::purpose::Purpose;
use self::text::text;
use self::weights::{Weights, weights};
use crate::error::Result;
use crate::random_weights::RandomWeights;

pub use self::file::Storage;
pub use self::purpose::ModelId;
pub use self::sources::Linked;

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

/// Where a model comes from.
struct Source<'p> {
    /// The artefact.
    file: FileBytes,
    /// A processor's code that is in the program already.
    code: Option<&'static [u8]>,
    /// Another artefact, whose weights are taken.
    weights: Option<(&'p Path, FileBytes)>,
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
    beside: Option<Beside>,
    places: BTreeMap<String, (usize, usize)>,
    sampling: SamplingDefaults,
    eval: Option<EvalGates>,
    pub(crate) code: Option<HostCode>,
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
        let source = Source { file, code: None, weights: None };
        Model::open(path, source, options, progress, Purpose::Run)
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
        let source = Source { file: FileBytes::parts(path)?, code: None, weights: None };
        Model::open(path, source, &options, &mut |_, _| true, Purpose::Look)
    }

    fn open(
        path: &Path,
        source: Source<'_>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        purpose: Purpose,
    ) -> Result<Model> {
        let Source { mut file, code: linked, weights: other } = source;
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
        let eval = metadata.get(EVAL_KEY).map(|json| {
            EvalGates::from_json(json).map_err(|e| damaged(path, format!("its gates of [eval]: {e}")))
        });
        let eval = eval.transpose()?;
        let absent = metadata.get(WEIGHTS_KEY).is_some_and(|value| value == NO_WEIGHTS);
        let stated = metadata.get(PLAN_KEY).map(String::as_str).unwrap_or_default();
        let other = other.map(|(path, file)| Beside::open(path, file, &plan, stated)).transpose()?;
        let (beside, other) = other.unzip();
        let weights = match (absent && other.is_none(), options.random_weights) {
            (false, None) if let Some(places) = other => Weights::File(places),
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
            (true, None) if linked.is_some() => return Err(unlinked_weights(path)),
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
        if let Some(other) = beside.as_ref().filter(|_| options.verify == Verify::Full) {
            other.digests.check(&other.path, &other.file, other.digests.leaves_of(|_| true), progress)?;
        }
        let text = text(path, metadata, plan.model.choices())?;
        let places: BTreeMap<String, (usize, usize)> =
            header.tensors.into_iter().map(|(name, t)| (name, (t.place.start, t.place.end))).collect();
        if purpose == Purpose::Run {
            check_machine(&plan)?;
        }
        let part = places.get(CODE).map(|(start, end)| *start..*end);
        check_places(path, &plan, linked.or(part.clone().map(|part| &file[part])))?;
        let code = match (linked, part.filter(|_| plan.target.is_host())) {
            _ if purpose == Purpose::Look => None,
            (Some(code), _) => Some(HostCode::Linked(code)),
            (None, Some(part)) => Some(executable(path, &file, part)?),
            (None, None) => None,
        };
        let (id, path, verify) = (ModelId::new(), path.to_path_buf(), options.verify);
        Ok(Model {
            id,
            path,
            file,
            digests,
            verify,
            plan,
            text,
            weights,
            beside,
            places,
            sampling,
            eval,
            code,
            purpose,
        })
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

    /// Bytes of the file, and of the one with its weights where that is another.
    pub fn file_bytes(&self) -> u64 {
        (self.file.len() + self.beside.as_ref().map_or(0, |other| other.file.len())) as u64
    }

    fn tensor(&self, name: &str) -> Option<&[u8]> {
        self.places.get(name).map(|(start, end)| &self.file[*start..*end])
    }

    /// The code as it lies in the file, machine code or PTX: nothing to be called.
    pub fn code(&self) -> Option<&[u8]> {
        self.tensor(CODE)
    }

    /// The PTX of an artefact for a GPU.
    pub fn ptx(&self) -> Option<&str> {
        let code = self.code().filter(|_| !self.plan.target.is_host());
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

    /// What must hold of the model on a text, for whoever evaluates it: the description's `[eval]`.
    pub fn eval_gates(&self) -> Option<EvalGates> {
        self.eval
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
