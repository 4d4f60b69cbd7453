//! Where a model's weights come from: its files, or a seed.
//!
//! Tensors are read with `pread` a few rows at a time and never mapped, so that compiling a model of N GB
//! takes a few MB a core: see [`TensorSource`].

mod block;
mod expected;
mod header;
mod index;
mod names;
mod pattern;
pub(crate) mod random;
mod rename;
mod sniff;
mod split;
mod tensor;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyc_plan::{Codec, Plan};
use hyc_runtime::Model;

use crate::error::{Error, ErrorKind, Result};
use crate::gguf;
use crate::words::{listed, place, shortened};
use expected::advice;
use header::Entry;
use index::Index;
use tensor::{OpenFile, Tensor, cut, pairs, stacked};

pub use crate::gguf::{BlockFault, Stored};
pub use block::{Block, Rows, TensorSource, Unfit};
pub use expected::Expected;
pub(crate) use names::generalised;
pub use names::{Names, Stack};
pub use pattern::Pattern;
pub use rename::Rename;
pub use split::Split;

/// Where the weights are.
pub enum Weights {
    /// The files that the model names.
    Files(WeightSource),
    /// Random weights of a seed, for measuring speed without a checkpoint: matrices with elements of
    /// variance 1/columns, norm weights 1, sinks standard normal.
    Random {
        /// Equal seeds give equal weights.
        seed: u64,
    },
    /// Those of a loaded model of the same weights, packed as they are. Of one with
    /// [`random_weights`](hyc_runtime::LoadOptions::random_weights) they are made up at the speed of a copy.
    Packed(Arc<Model>),
    /// None: the artefact says so, and whoever loads it makes them up.
    Absent,
}

impl Weights {
    /// The weights of a plan in these files, by these names. Errors: those of [`WeightSource::open`],
    /// [`WeightSource::renamed`] and [`WeightSource::check`].
    pub fn of_files(files: &[PathBuf], names: &Names, plan: &Plan) -> Result<Weights> {
        let source = WeightSource::open(files)?.renamed(names)?;
        source.check(&Expected::of_plan(plan))?;
        Ok(Weights::Files(source))
    }
}

impl TensorSource for Weights {
    fn block(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Block) -> Result<()> {
        match self {
            Weights::Files(files) => files.block(name, cols, first, count, out),
            Weights::Random { seed } => {
                out.stored = Stored::F32;
                random::rows(*seed, name, cols, first, count, &mut out.bytes);
                Ok(())
            }
            Weights::Packed(_) | Weights::Absent => {
                Err(Error::new(ErrorKind::Internal, format!("no rows, and `{name}` is read")))
            }
        }
    }

    fn unfit(&self, name: &str, codec: Codec, at: u64, why: Unfit) -> Error {
        match self {
            Weights::Files(files) => files.unfit(name, codec, at, why),
            Weights::Random { .. } | Weights::Packed(_) | Weights::Absent => {
                Error::new(ErrorKind::Internal, format!("element {at} of `{name}`: {why:?}"))
            }
        }
    }
}

/// The tensors of all weight files of a model, by the model's names.
pub struct WeightSource {
    files: Vec<OpenFile>,
    tensors: BTreeMap<String, Tensor>,
    /// Tensors that are left out, to the pattern that says so.
    ignored: BTreeMap<String, String>,
}

impl WeightSource {
    /// Opens the files, safetensors or indices of several, and reads their headers. Errors: a file that is
    /// missing, truncated or something else; shards that their index does not describe; a tensor that two
    /// files hold.
    pub fn open(paths: &[PathBuf]) -> Result<WeightSource> {
        let mut source =
            WeightSource { files: Vec::new(), tensors: BTreeMap::new(), ignored: BTreeMap::new() };
        for path in paths {
            let file = open(path)?;
            let mut first = [0u8; 512];
            let read = file.read_at(&mut first, 0).map_err(|e| Error::io("read", path, e))?;
            if first.starts_with(gguf::MAGIC) {
                let held = gguf::read(path, &file)?.tensors.into_iter();
                let entry = |tensor: gguf::Tensor| Entry {
                    dtype: tensor.stored.name().to_string(),
                    shape: tensor.shape,
                    bytes: tensor.bytes,
                };
                source.add_tensors(path, file, held.map(|(name, tensor)| (name, entry(tensor))).collect())?;
            } else if Index::looks_like(path, &first[..read]) {
                source.add_index(path)?;
            } else {
                source.add_file(path, file)?;
            }
        }
        Ok(source)
    }

    /// The same tensors by the model's names. Errors: see [`Names::resolve`].
    pub fn renamed(mut self, names: &Names) -> Result<WeightSource> {
        let resolved = names.resolve(self.tensors.keys())?;
        let mut tensors = std::mem::take(&mut self.tensors);
        scale(&mut tensors, &names.scale)?;
        for (new, parts) in &resolved.stacked {
            let parts = parts.iter().filter_map(|name| tensors.remove(name)).collect();
            self.tensors.insert(new.clone(), stacked(new, parts)?);
        }
        for (old, parts) in &resolved.split {
            if let Some(tensor) = tensors.remove(old) {
                self.tensors.extend(cut(&tensor, parts)?);
            }
        }
        let mut used = vec![false; names.interleaved.len()];
        for (old, mut tensor) in tensors {
            let pattern = names.interleaved.iter().position(|pattern| pattern.is_of(&old));
            if let Some(pattern) = pattern {
                used[pattern] = true;
                tensor.pairs = Some(pairs(&tensor, names.head)?);
            }
            if let Some(new) = resolved.names.get(&old) {
                self.tensors.insert(new.clone(), tensor);
            }
        }
        if let Some(unused) = used.iter().position(|used| !used) {
            let message =
                format!("`interleaved`: no tensor is called `{}`", names.interleaved[unused].text());
            return Err(Error::input(message).help("patterns match names as they are in the files"));
        }
        self.ignored = resolved.ignored;
        Ok(self)
    }

    /// The tensors' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// How a tensor's numbers are stored, where it is of a type that is read, and they are not multiplied.
    pub fn stored(&self, name: &str) -> Option<Stored> {
        self.tensors
            .get(name)
            .filter(|tensor| tensor.scale.is_none())
            .and_then(|tensor| Stored::named(&tensor.entry.dtype))
    }

    /// Whether a tensor's numbers are f32.
    pub fn is_f32(&self, name: &str) -> bool {
        self.stored(name) == Some(Stored::F32)
    }

    /// The files that were opened, shards in place of their index.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    fn add_index(&mut self, path: &Path) -> Result<()> {
        let index = Index::read(path)?;
        let first = self.files.len();
        for shard in index.paths()? {
            let file = open(&shard)?;
            self.add_file(&shard, file)?;
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let holds = self.tensors.iter().filter(|(_, tensor)| tensor.file >= first).map(|(name, tensor)| {
            let shard = &self.files[tensor.file].0;
            (name.clone(), shard.strip_prefix(folder).unwrap_or(shard).to_string_lossy().into_owned())
        });
        index.check(&holds.collect())
    }

    fn add_file(&mut self, path: &Path, file: File) -> Result<()> {
        let identity = |file: &File| file.metadata().ok().map(|m| (m.dev(), m.ino()));
        let this = identity(&file);
        if let Some((other, _)) =
            self.files.iter().find(|(_, other)| this.is_some() && identity(other) == this)
        {
            let message = format!("{} is given twice, also as {}", place(path), place(other));
            return Err(Error::input(message).help("name each weight file once, or their index alone"));
        }
        let tensors = header::read(path, &file)?;
        self.add_tensors(path, file, tensors)
    }

    fn add_tensors(&mut self, path: &Path, file: File, tensors: BTreeMap<String, Entry>) -> Result<()> {
        for (name, entry) in tensors {
            let tensor = Tensor {
                file: self.files.len(),
                entry,
                name: name.clone(),
                more: Vec::new(),
                before: 0,
                pairs: None,
                scale: None,
            };
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let first = self.files.get(other.file).map_or(path, |(path, _)| path);
                let (name, first, path) = (shortened(&name), place(first), place(path));
                return Err(Error::input(format!("tensor `{name}` is in both {first} and {path}")));
            }
        }
        self.files.push((path.to_path_buf(), file));
        Ok(())
    }

    /// Compares the files with what the model needs: every missing, extra or wrongly shaped tensor is
    /// named, in one error.
    pub fn check(&self, expected: &[Expected]) -> Result<()> {
        let mut faults = Vec::new();
        let mut missing = Vec::new();
        for want in expected {
            match (self.tensors.get(&want.name), self.ignored.get(&want.name)) {
                (None, Some(pattern)) => faults
                    .push(format!("`{}` is needed, and left out by `ignore = [\"{pattern}\"]`", want.name)),
                (None, None) => {
                    faults.push(format!("missing: `{}` {:?}", want.name, want.shape));
                    missing.push(want.name.as_str());
                }
                (Some(tensor), _) => faults.extend(tensor.unlike(want)),
            }
        }
        let names: std::collections::HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
        // By their names in the files, which are those that `rename` and `ignore` see.
        let extra = self.tensors.iter().filter(|(name, _)| !names.contains(name.as_str()));
        let extra: Vec<&str> = extra.map(|(_, tensor)| tensor.name.as_str()).collect();
        faults.extend(extra.iter().map(|name| format!("not used by the model: `{name}`")));
        if faults.is_empty() {
            return Ok(());
        }
        let files: Vec<String> = self.files.iter().map(|(path, _)| place(path)).collect();
        let message = format!(
            "the weights in {} do not fit the model:\n  {}",
            listed(&files, ", "),
            listed(&faults, "\n  ")
        );
        Err(Error::input(message).help(advice(&missing, &extra)))
    }

    /// Reads every element of every tensor that the model needs; `progress` gets the bytes read and may end it.
    /// Errors: the first element that is not finite, or not once it is stored.
    pub fn check_elements(
        &self,
        expected: &[Expected],
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let (mut block, mut out) = (Block::default(), Vec::new());
        for want in expected {
            let (cols, rows) = want.rows();
            let step = ((1 << 18) / cols.max(1)).max(1);
            let mut first = 0;
            while first < rows {
                let count = step.min(rows - first);
                self.rows(&want.name, want.codec, (cols, first, count), &mut block, &mut out)?;
                progress(want.codec.code_bytes(count * cols))?;
                first += count;
            }
        }
        Ok(())
    }
}

impl TensorSource for WeightSource {
    fn block(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Block) -> Result<()> {
        let Some(tensor) = self.tensors.get(name) else { return Err(unnamed(name)) };
        tensor.read(&self.files, name, (cols, first, count), out)
    }

    fn unfit(&self, name: &str, codec: Codec, at: u64, why: Unfit) -> Error {
        self.tensors
            .get(name)
            .map_or_else(|| unnamed(name), |tensor| tensor.unfit(&self.files, codec, at, why))
    }
}

fn unnamed(name: &str) -> Error {
    Error::input(format!("no tensor is named `{name}`"))
}

/// Notes what each tensor is multiplied by. Errors: a pattern of no tensor; a tensor of two patterns.
fn scale(tensors: &mut BTreeMap<String, Tensor>, patterns: &[(Pattern, f64)]) -> Result<()> {
    for (pattern, by) in patterns {
        let mut found = tensors.iter_mut().filter(|(name, _)| pattern.is_of(name)).peekable();
        if found.peek().is_none() {
            return Err(Error::input(format!("`scale`: no tensor is called `{}`", pattern.text()))
                .help("patterns match names as they are in the files"));
        }
        for (name, tensor) in found {
            if tensor.scale.replace(*by).is_some() {
                let message = format!("`scale`: `{}` is scaled twice", shortened(name));
                return Err(Error::input(message).help("let one pattern match it"));
            }
        }
    }
    Ok(())
}

/// The files that an index of weight files names; none where `path` is something else. They need not be there.
pub fn shards(path: &Path) -> Vec<PathBuf> {
    let mut first = [0u8; 512];
    let read = open(path).ok().and_then(|file| file.read_at(&mut first, 0).ok()).unwrap_or(0);
    let index = Some(path).filter(|path| Index::looks_like(path, &first[..read]));
    index.and_then(|path| Index::read(path).ok()).map(|index| index.places()).unwrap_or_default()
}

/// Opens a weight file. Errors: a folder, with what it holds; something that is no file.
fn open(path: &Path) -> Result<File> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io("open the weight file", path, e))?;
    if meta.is_dir() {
        let names = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = names
            .map(|entry| place(&entry.path()))
            .filter(|name| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
            .collect();
        // An index stands for all its shards.
        names.sort_by_key(|name| (name.ends_with(".safetensors"), name.clone()));
        let help = match names.first() {
            Some(name) => format!("name the files in it, as {name}"),
            None => "name the weight files; none in it ends in .safetensors".to_string(),
        };
        return Err(Error::input(format!("{} is a folder", place(path))).help(help));
    }
    if !meta.is_file() {
        let message = format!("{} is a device or a pipe, which cannot be read at any place", place(path));
        return Err(Error::input(message).help("weights are read from files"));
    }
    File::open(path).map_err(|e| Error::io("open the weight file", path, e))
}
