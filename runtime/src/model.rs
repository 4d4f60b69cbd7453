//! Loading an artefact.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use hyc_ir::artefact::{
    ALIGN, ASM, CODE, CUBIN, DIGESTS_KEY, GRAPH, HASH_KEY, NO_HASH, NO_WEIGHTS, PAD, PLAN_KEY, TOKENIZER,
    VERSION, VERSION_KEY, WEIGHTS_KEY,
};
use hyc_ir::plan::{Elem, Layout, Plan, WeightId};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::memory::Aligned;
use crate::random_weights::RandomWeights;

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

/// The end of the header in the file, and its metadata.
fn read_header(path: &Path, map: &[u8]) -> Result<(usize, BTreeMap<String, String>)> {
    let no_artefact = || {
        Error::new(ErrorKind::BadArtefact, format!("{} is no hyc artefact", path.display()))
            .help("an artefact is what `hyc compile` writes")
    };
    let length = map.get(..8).and_then(|b| <[u8; 8]>::try_from(b).ok()).ok_or_else(no_artefact)?;
    let end = usize::try_from(u64::from_le_bytes(length)).ok().and_then(|n| n.checked_add(8));
    let end = end.filter(|end| *end <= map.len()).ok_or_else(|| match map.get(8) {
        Some(b'{') => damaged(path, "it ends inside its header"),
        _ => no_artefact(),
    })?;
    let json: serde_json::Value =
        serde_json::from_slice(&map[8..end]).map_err(|e| damaged(path, format!("its header: {e}")))?;
    let metadata = json.get("__metadata__").and_then(|m| m.as_object()).ok_or_else(no_artefact)?;
    let strings = metadata.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string())));
    Ok((end, strings.collect()))
}

fn check_version(path: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
    match metadata.get(VERSION_KEY) {
        Some(version) if *version == VERSION.to_string() => Ok(()),
        Some(version) => Err(Error::new(
            ErrorKind::BadArtefact,
            format!("{} has format version {version}; this build reads {VERSION}", path.display()),
        )
        .help("compile the model again with this build")),
        None => Err(Error::new(
            ErrorKind::BadArtefact,
            format!("{} is a safetensors file but no hyc artefact", path.display()),
        )
        .help("an artefact is what `hyc compile` writes")),
    }
}

/// Byte ranges of all tensors, in the file.
fn places(path: &Path, map: &[u8], header: usize) -> Result<BTreeMap<String, (usize, usize)>> {
    let tensors = SafeTensors::deserialize(map).map_err(|e| damaged(path, format!("{e:?}")))?;
    let base = map.as_ptr() as usize;
    let mut places = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        let start = view.data().as_ptr() as usize - base;
        // A pad begins where its tensor ended; it only has to end aligned.
        if start < header || (start as u64 % ALIGN != 0 && !name.starts_with(PAD)) {
            return Err(damaged(path, format!("tensor `{name}` is not aligned")));
        }
        places.insert(name, (start, start + view.data().len()));
    }
    Ok(places)
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_hash(path: &Path, header: &[u8], metadata: &BTreeMap<String, String>) -> Result<()> {
    let hash = metadata.get(HASH_KEY).filter(|hash| hash.len() == NO_HASH.len());
    let hash = hash.ok_or_else(|| damaged(path, "it has no hash"))?;
    let text = std::str::from_utf8(header).map_err(|_| damaged(path, "its header is not UTF-8"))?;
    let blank = text.replacen(hash.as_str(), NO_HASH, 1);
    if hex(&Sha256::digest(blank.as_bytes())) == *hash {
        return Ok(());
    }
    Err(damaged(path, "its header does not have the hash that it states"))
}

/// Every tensor that `checked` names has its digest. Tensors are shared out to eight threads at most: the
/// file is read at the disk's speed long before that.
fn check_digests(
    path: &Path,
    map: &[u8],
    places: &BTreeMap<String, (usize, usize)>,
    metadata: &BTreeMap<String, String>,
    checked: &dyn Fn(&str) -> bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    const PIECE: usize = 4 << 20;
    let digests: BTreeMap<String, String> = metadata
        .get(DIGESTS_KEY)
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| damaged(path, "it has no digests"))?;
    let list: Vec<(&String, &(usize, usize))> = places.iter().filter(|(name, _)| checked(name)).collect();
    let total: usize = list.iter().map(|(_, (start, end))| end - start).sum();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = |pieces: mpsc::Sender<usize>| -> Option<String> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (name, (start, end)) = list.get(i)?;
            let mut digest = Sha256::new();
            for piece in map[*start..*end].chunks(PIECE) {
                digest.update(piece);
                // Nobody listens any more only where the loading is being cancelled.
                let _ = pieces.send(piece.len());
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
            }
            if digests.get(*name) != Some(&hex(&digest.finalize())) {
                return Some((*name).clone());
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let bad = std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::channel();
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(move || work(sender))
            })
            .collect();
        drop(sender);
        let mut done = 0;
        for piece in pieces {
            done += piece;
            if !stop.load(Ordering::Relaxed) && !progress(done as u64, total as u64) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        workers.into_iter().filter_map(|worker| worker.join().ok().flatten()).min()
    });
    if stop.into_inner() {
        return Err(Error::new(ErrorKind::Cancelled, format!("cancelled while loading {}", path.display())));
    }
    match bad {
        None => Ok(()),
        Some(name) => Err(damaged(path, format!("tensor `{name}` does not have the digest that is stated"))),
    }
}

/// Offsets of the plan's weights, checked against the plan's sizes and types.
fn weights(
    path: &Path,
    map: &[u8],
    plan: &Plan,
    places: &BTreeMap<String, (usize, usize)>,
) -> Result<Vec<usize>> {
    let tensors = SafeTensors::deserialize(map).map_err(|e| damaged(path, format!("{e:?}")))?;
    let place = |weight: &hyc_ir::plan::Weight| {
        let (start, end) = places.get(&weight.name).copied().unwrap_or((0, 0));
        let view = tensors.tensor(&weight.name).ok();
        let dtype = match weight.elem {
            Elem::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        };
        let right =
            view.is_some_and(|view| view.dtype() == dtype && view.shape() == stored_shape(weight.layout));
        match right && (end - start) as u64 == weight.bytes() {
            true => Ok(start),
            false => Err(damaged(path, format!("weight `{}` is not what the plan says", weight.name))),
        }
    };
    plan.weights.iter().map(place).collect()
}

/// The shape of a weight's tensor in the artefact.
pub fn stored_shape(layout: Layout) -> Vec<usize> {
    let dims = match layout {
        Layout::Vector { len } => vec![len],
        Layout::Rows { rows, cols } => vec![rows, cols],
        Layout::Panels { count, inn, .. } => vec![count * layout.panels(), inn, hyc_ir::abi::PANEL],
        Layout::Tiles { count, out, inn } => {
            let tiles = |n: u64| n.div_ceil(hyc_ir::abi::TILE);
            vec![count * tiles(out), tiles(inn), hyc_ir::abi::TILE, hyc_ir::abi::TILE]
        }
    };
    dims.into_iter().map(|dim| dim as usize).collect()
}

fn check_machine(plan: &Plan) -> Result<()> {
    match plan.target.kind.as_str() {
        "cpu" => {}
        // Whether there is such a device is seen when a session opens it.
        "sm_90a" => return Ok(()),
        kind => {
            let message = format!("this artefact is for target `{kind}`, which this runtime does not know");
            return Err(
                Error::new(ErrorKind::Unsupported, message).help("compile the model with `--target cpu`")
            );
        }
    }
    if plan.target.arch != std::env::consts::ARCH {
        let message = format!(
            "this artefact's code is for {}, this machine is {}",
            plan.target.arch,
            std::env::consts::ARCH
        );
        return Err(Error::new(ErrorKind::Unsupported, message).help("compile the model on such a machine"));
    }
    let missing: Vec<&str> =
        plan.target.features.iter().map(String::as_str).filter(|feature| !has_feature(feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("this artefact's code needs {}, which this processor lacks", missing.join(", "));
    Err(Error::new(ErrorKind::Unsupported, message).help("compile the model with `--cpu baseline`"))
}

#[cfg(target_arch = "x86_64")]
fn has_feature(name: &str) -> bool {
    match name {
        "sse4.1" => std::is_x86_feature_detected!("sse4.1"),
        "avx2" => std::is_x86_feature_detected!("avx2"),
        "fma" => std::is_x86_feature_detected!("fma"),
        _ => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn has_feature(_: &str) -> bool {
    false
}

/// The code, copied to memory that may be executed; `None` where the artefact has none.
fn code(
    path: &Path,
    map: &[u8],
    plan: &Plan,
    places: &BTreeMap<String, (usize, usize)>,
) -> Result<Option<Arc<Mmap>>> {
    let Some((start, end)) = places.get(CODE).copied() else { return Ok(None) };
    let len = (end - start) as u64;
    for kernel in &plan.kernels {
        let inside = kernel.code_offset.checked_add(kernel.code_bytes).is_some_and(|end| end <= len);
        if !inside || kernel.code_bytes == 0 || kernel.code_offset % ALIGN != 0 {
            return Err(damaged(path, format!("kernel {} is not inside the code", kernel.name)));
        }
    }
    if plan.target.kind != "cpu" {
        return Ok(None);
    }
    let io =
        |e: std::io::Error| Error::new(ErrorKind::Resource, format!("cannot map memory for the code: {e}"));
    let mut memory = memmap2::MmapMut::map_anon(len.max(1) as usize).map_err(io)?;
    memory[..len as usize].copy_from_slice(&map[start..end]);
    memory.make_exec().map(|code| Some(Arc::new(code))).map_err(io)
}
