//! Where a model's weights come from: its files, or a seed.
//!
//! Tensors are read with `pread` a few rows at a time and never mapped, so that compiling a model of N GB
//! takes a few MB: see [`TensorSource`].

mod block;
mod header;
mod index;
mod names;
mod pattern;
pub(crate) mod random;
mod rename;
mod sniff;
mod split;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use hyc_ir::{Graph, Op, Type, op};
use hyc_plan::{Codec, Plan};

use crate::error::{Error, ErrorKind, Result};
use crate::gguf::{self, Stored};
use crate::words::{listed, place, shortened};
use header::Entry;
use index::Index;

pub use block::{Block, Encoding, TensorSource};
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
                out.encoding = Encoding::F32;
                random::rows(*seed, name, cols, first, count, &mut out.bytes);
                Ok(())
            }
            Weights::Absent => Err(Error::new(ErrorKind::Internal, format!("no weights, `{name}` is read"))),
        }
    }

    fn unfit(&self, name: &str, codec: Codec, at: u64, x: f32) -> Error {
        match self {
            Weights::Files(files) => files.unfit(name, codec, at, x),
            Weights::Random { .. } | Weights::Absent => {
                Error::new(ErrorKind::Internal, format!("element {at} of `{name}` is {x}"))
            }
        }
    }
}

/// The tensors of all weight files of a model, by the model's names.
pub struct WeightSource {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Tensor>,
    /// Tensors that are left out, to the pattern that says so.
    ignored: BTreeMap<String, String>,
}

struct Tensor {
    file: usize,
    entry: Entry,
    /// Name in the file.
    name: String,
    /// What follows its rows, of tensors that are stacked: file and entry of each.
    more: Vec<(usize, Entry)>,
    /// Rows of the file's tensor before its first one.
    before: u64,
    /// Rows of a head, where the two elements of each pair that turns stand side by side and not in halves.
    pairs: Option<u64>,
    /// What its numbers are multiplied by.
    scale: Option<f64>,
}

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The model's name for it.
    pub name: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// How its numbers are stored in the artefact.
    pub codec: Codec,
}

impl Expected {
    /// The weights of a plan.
    pub fn of_plan(plan: &Plan) -> Vec<Expected> {
        let weight = |w: &hyc_plan::Weight| Expected {
            name: w.name.clone(),
            shape: w.shape.clone(),
            codec: w.format.codec,
        };
        plan.weights.iter().map(weight).collect()
    }

    /// The weights of a graph.
    pub fn of_graph(graph: &Graph) -> Vec<Expected> {
        let results = graph.ops().filter(|id| graph.op(*id).op == (Op::Weight(op::Weight {})));
        results
            .filter_map(|id| {
                let value = *graph.op(id).results.first()?;
                let Type::Weight { codec, dims } = graph.ty(value) else { return None };
                Some(Expected { name: graph.name(value).to_string(), shape: dims.clone(), codec: *codec })
            })
            .collect()
    }

    /// Elements of a row, as [`TensorSource`] counts them, and rows.
    fn rows(&self) -> (u64, u64) {
        let cols = self.shape.last().copied().unwrap_or(1);
        (cols, self.shape.iter().rev().skip(1).product())
    }
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

    /// Whether a tensor's numbers are f32.
    pub fn is_f32(&self, name: &str) -> bool {
        self.tensors.get(name).is_some_and(|tensor| tensor.entry.dtype == "F32")
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
                (Some(tensor), _) => faults.extend(unlike(tensor, want)),
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
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::input(format!("no tensor is named `{name}`")));
        };
        let dtype = tensor.entry.dtype.as_str();
        let Some(stored) = Stored::named(dtype) else {
            return Err(Error::input(format!("dtype of `{name}` is {dtype}, not {READ}")));
        };
        let row = cols / stored.elements() * stored.bytes();
        out.bytes.resize((count * row) as usize, 0);
        let read = |bytes: &mut [u8], (file, entry): (usize, &Entry), first: u64| {
            let (path, file) = &self.files[file];
            file.read_exact_at(bytes, entry.bytes.start + first * row).map_err(|e| Error::io("read", path, e))
        };
        let own = (tensor.file, &tensor.entry);
        match tensor.pairs {
            None if tensor.more.is_empty() => read(&mut out.bytes, own, first)?,
            None => {
                let parts: Vec<_> =
                    [own].into_iter().chain(tensor.more.iter().map(|(f, e)| (*f, e))).collect();
                // Rows of one part.
                let each =
                    (tensor.entry.shape.iter().rev().skip(1).product::<u64>() / parts.len() as u64).max(1);
                let mut left = &mut out.bytes[..];
                let mut at = first;
                while !left.is_empty() {
                    let (part, inside) = ((at / each) as usize, at % each);
                    let rows = (each - inside).min(left.len() as u64 / row.max(1));
                    let (now, rest) = left.split_at_mut((rows * row) as usize);
                    read(now, parts[part], inside)?;
                    (left, at) = (rest, at + rows);
                }
            }
            Some(head) => {
                let mut rows = out.bytes.chunks_exact_mut(row.max(1) as usize).zip(first..);
                rows.try_for_each(|(bytes, row)| read(bytes, own, side_by_side(row, head)))?;
            }
        }
        match Encoding::of_dtype(dtype) {
            Some(encoding) => out.encoding = encoding,
            None => {
                let blocks = std::mem::take(&mut out.bytes);
                stored.decode(&blocks, &mut |x| out.bytes.extend(x.to_le_bytes()));
                out.encoding = Encoding::F32;
            }
        }
        if let Some(by) = tensor.scale {
            out.scale(by);
        }
        Ok(())
    }

    fn unfit(&self, name: &str, codec: Codec, at: u64, x: f32) -> Error {
        match self.tensors.get(name) {
            Some(tensor) => {
                // The file of the part that holds it.
                let each = tensor.entry.shape.iter().product::<u64>() / (1 + tensor.more.len() as u64);
                let before = at.checked_div(each).and_then(|part| part.checked_sub(1));
                let part = before.and_then(|part| tensor.more.get(usize::try_from(part).ok()?));
                let file = part.map_or(tensor.file, |(file, _)| *file);
                unfit(tensor, &self.files[file].0, codec, at, x)
            }
            None => Error::input(format!("no tensor is named `{name}`")),
        }
    }
}

/// Element types that are read, for whoever has another.
const READ: &str = "F32, BF16 or F16";

/// Where a row stands whose head holds pairs side by side: element `i` of the first half at `2 i`, of the second at
/// `2 i + 1`.
fn side_by_side(row: u64, head: u64) -> u64 {
    let (first, at) = (row - row % head, row % head);
    let half = head / 2;
    first + 2 * (at % half) + at / half
}

/// The rows of a head of a tensor that holds pairs side by side. Errors: it has no whole heads.
fn pairs(tensor: &Tensor, head: u64) -> Result<u64> {
    let rows = tensor.entry.shape.first().copied().unwrap_or(0);
    if tensor.entry.shape.len() == 2 && head >= 2 && head.is_multiple_of(2) && rows.is_multiple_of(head) {
        return Ok(head);
    }
    let (name, shape) = (shortened(&tensor.name), &tensor.entry.shape);
    Err(Error::input(format!("`interleaved`: `{name}` {shape:?} holds no whole heads of {head} rows"))
        .help("it is for the projections of queries and keys"))
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

/// Several tensors of one, by their names and how many of its rows each of them has. Errors: they are not all of its rows.
fn cut(tensor: &Tensor, parts: &[(String, u64)]) -> Result<Vec<(String, Tensor)>> {
    let Entry { dtype, shape, bytes } = &tensor.entry;
    let rows = shape.first().copied().unwrap_or(0);
    let Some(places) = split::rows(parts, rows).filter(|_| shape.len() == 2) else {
        let wanted: Vec<String> = parts.iter().map(|(_, rows)| rows.to_string()).collect();
        let (name, wanted) = (shortened(&tensor.name), listed(&wanted, " + "));
        let message = format!("`split`: `{name}` is {shape:?}, and its parts have {wanted} rows");
        return Err(Error::input(message).help("all rows of a matrix are split, each belongs to one part"));
    };
    let row = (bytes.end - bytes.start) / rows.max(1);
    let part = |((to, _), (first, count)): (&(String, u64), (u64, u64))| {
        let begin = bytes.start + first * row;
        let entry =
            Entry { dtype: dtype.clone(), shape: vec![count, shape[1]], bytes: begin..begin + count * row };
        let (file, name) = (tensor.file, tensor.name.clone());
        (
            to.clone(),
            Tensor { file, entry, name, more: Vec::new(), before: first, pairs: None, scale: tensor.scale },
        )
    };
    Ok(parts.iter().zip(places).map(part).collect())
}

/// One tensor of several: its first axis counts them. Errors: two that are not alike.
fn stacked(name: &str, mut parts: Vec<Tensor>) -> Result<Tensor> {
    let count = parts.len() as u64;
    let more = parts.split_off(1);
    let Some(mut first) = parts.pop() else {
        return Err(Error::input(format!("nothing is stacked to `{}`", shortened(name))));
    };
    for part in more {
        let alike = |tensor: &Tensor| (tensor.entry.shape.clone(), tensor.entry.dtype.clone(), tensor.scale);
        if alike(&part) != alike(&first) {
            let says = |tensor: &Tensor| {
                format!("`{}` is {:?} of {}", shortened(&tensor.name), tensor.entry.shape, tensor.entry.dtype)
            };
            let message = format!("`stack`: {}, {}", says(&first), says(&part));
            return Err(
                Error::input(message).help("what is stacked has one shape, one element type and one scale")
            );
        }
        first.more.push((part.file, part.entry));
    }
    first.entry.shape.insert(0, count);
    Ok(first)
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

/// How a tensor differs from what is needed.
fn unlike(tensor: &Tensor, want: &Expected) -> Option<String> {
    let Entry { shape, dtype, .. } = &tensor.entry;
    let called = if tensor.name == want.name { String::new() } else { format!(" (`{}`)", tensor.name) };
    if *shape != want.shape {
        let (name, need) = (&want.name, &want.shape);
        return Some(format!("wrong shape: `{name}`{called} is {shape:?}, the model needs {need:?}"));
    }
    let unknown = Stored::named(dtype).is_none();
    unknown.then(|| format!("dtype of `{}`{called} is {dtype}, not {READ}", want.name))
}

/// What to write where names do not fit.
fn advice(missing: &[&str], extra: &[&str]) -> String {
    const LIST: &str = "`hyc check --tensors MODEL.toml` lists every tensor that the model needs";
    let shared = |a: &str, b: &str| a.bytes().rev().zip(b.bytes().rev()).take_while(|(a, b)| a == b).count();
    if let (Some(need), false) = (missing.first(), extra.is_empty()) {
        let need = names::generalised(need);
        let near = extra.iter().map(|name| names::generalised(name)).max_by_key(|name| shared(name, &need));
        let near = near.unwrap_or_default();
        return format!(
            "where names differ, write under [weights] for example `rename = {{ \"{near}\" = \"{need}\" }}`; {LIST}"
        );
    }
    if extra.is_empty() {
        return LIST.to_string();
    }
    let mut patterns: Vec<String> =
        extra.iter().map(|name| format!("\"{}\"", names::generalised(name))).collect();
    patterns.sort();
    patterns.dedup();
    let more = if patterns.len() > 4 { ", ..." } else { "" };
    patterns.truncate(4);
    format!("to leave them out, write under [weights] `ignore = [{}{more}]`", patterns.join(", "))
}

/// The error of one element.
fn unfit(tensor: &Tensor, path: &Path, codec: Codec, at: u64, x: f32) -> Error {
    let cols = tensor.entry.shape.last().copied().unwrap_or(1).max(1);
    let (row, column) = (tensor.before + at / cols, at % cols);
    let at = match tensor.entry.shape[..] {
        [_, rows, _] => format!("matrix {}, row {}, column {column}", row / rows.max(1), row % rows.max(1)),
        [_] => format!("element {column}"),
        _ => format!("row {row}, column {column}"),
    };
    let (name, path) = (shortened(&tensor.name), place(path));
    if x.is_finite() {
        let message =
            format!("tensor `{name}` in {path} holds {x:e} at {at}, which {codec} stores as an infinity");
        return Error::input(message).help(
            "write `dtype = \"f32\"` under [weights], or export the weights again with smaller numbers",
        );
    }
    Error::input(format!("tensor `{name}` in {path} holds {x} at {at}"))
        .help("weights must be finite: export them again")
}
