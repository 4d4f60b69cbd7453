//! Where a model's weights come from: its files, or a seed.
//!
//! Tensors are read with `pread` a few rows at a time and never mapped, so that compiling a model of N GB
//! takes a few MB: see [`WeightSource::rows`].

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, ErrorKind, Result};

/// Something that gives a tensor's rows as f32.
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
    /// Rows `first .. first + count` of a tensor seen as `[rows, cols]`, as f32 into `out`.
    pub fn rows(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Vec<f32>) -> Result<()> {
        match self {
            Weights::Files(files) => files.rows(name, cols, first, count, out),
            Weights::Random { seed } => {
                random_rows(*seed, name, cols, first, count, out);
                Ok(())
            }
            Weights::Absent => Err(Error::new(ErrorKind::Internal, format!("no weights, `{name}` is read"))),
        }
    }
}

fn random_rows(seed: u64, name: &str, cols: u64, first: u64, count: u64, out: &mut Vec<f32>) {
    out.clear();
    if name.ends_with("norm.weight") {
        out.resize((count * cols) as usize, 1.0);
        return;
    }
    let scale = if name.contains("sink") { 1.0 } else { 1.0 / (cols as f32).sqrt() };
    let tensor = name
        .bytes()
        .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    for row in first..first + count {
        let mut state = tensor ^ row.wrapping_mul(0xd134_2543_de82_ef95);
        out.extend((0..cols).map(|_| normal(&mut state) * scale));
    }
}

/// Nearly a standard normal: the sum of four uniforms, scaled to variance 1. Tails do not matter here.
fn normal(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 3.0f32.sqrt()
}

/// The tensors of all weight files of a model.
pub struct WeightSource {
    files: Vec<(PathBuf, File)>,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    file: usize,
    dtype: Dtype,
    shape: Vec<u64>,
    offset: u64,
}

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Name in the files.
    pub name: String,
    /// Shape in the files.
    pub shape: Vec<u64>,
}

impl WeightSource {
    /// Opens the files and reads their headers. Errors: a file that is missing, truncated or no
    /// safetensors; a tensor that two files hold.
    pub fn open(paths: &[PathBuf]) -> Result<WeightSource> {
        let mut source = WeightSource { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let file = File::open(path).map_err(|e| Error::io("open the weight file", path, e))?;
            source.add_tensors(path, &file)?;
            source.files.push((path.clone(), file));
        }
        Ok(source)
    }

    fn add_tensors(&mut self, path: &Path, file: &File) -> Result<()> {
        // SAFETY: the map is read for its header and dropped; a file that another process truncates
        // meanwhile would end this one with SIGBUS, as it does for every reader of mapped files.
        let map = unsafe { memmap2::Mmap::map(file) }.map_err(|e| Error::io("map", path, e))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::input(format!("{} is not a whole safetensors file: {e:?}", path.display()))
                .help("it may be truncated: copy or export it again")
        })?;
        let data = 8 + header as u64;
        for (name, info) in metadata.tensors() {
            let tensor = Tensor {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.iter().map(|dim| *dim as u64).collect(),
                offset: data + info.data_offsets.0 as u64,
            };
            if let Some(other) = self.tensors.insert(name.clone(), tensor) {
                let first = self.files.get(other.file).map_or(path, |(path, _)| path);
                return Err(Error::input(format!(
                    "tensor `{name}` is in both {} and {}",
                    first.display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// Compares the files with what the model needs: every missing, extra or wrongly shaped tensor is
    /// named, in one error.
    pub fn check(&self, expected: &[Expected]) -> Result<()> {
        let mut faults = Vec::new();
        for want in expected {
            match self.tensors.get(&want.name) {
                None => faults.push(format!("missing: `{}` {:?}", want.name, want.shape)),
                Some(tensor) if tensor.shape != want.shape => faults.push(format!(
                    "wrong shape: `{}` is {:?}, the model needs {:?}",
                    want.name, tensor.shape, want.shape
                )),
                Some(tensor) if element_bytes(tensor.dtype).is_none() => {
                    faults.push(format!(
                        "dtype of `{}` is {:?}, not F32, BF16 or F16",
                        want.name, tensor.dtype
                    ));
                }
                Some(_) => {}
            }
        }
        let names: std::collections::HashSet<&str> = expected.iter().map(|e| e.name.as_str()).collect();
        let extra = self.tensors.keys().filter(|name| !names.contains(name.as_str()));
        faults.extend(extra.map(|name| format!("not used by the model: `{name}`")));
        if faults.is_empty() {
            return Ok(());
        }
        let shown = faults.len().min(12);
        let mut list = faults[..shown].join("\n  ");
        if faults.len() > shown {
            list.push_str(&format!("\n  and {} more", faults.len() - shown));
        }
        let files: Vec<String> = self.files.iter().map(|(path, _)| path.display().to_string()).collect();
        Err(Error::input(format!("the weights in {} do not fit the model:\n  {list}", files.join(", ")))
            .help("`hyc check --weights MODEL.toml` lists every tensor with its shape"))
    }

    /// Rows `first .. first + count` of the tensor seen as `[rows, cols]`, as f32 into `out`. NaN and
    /// infinite elements are errors that name the element.
    pub fn rows(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Vec<f32>) -> Result<()> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(Error::input(format!("no tensor is named `{name}`")));
        };
        let (path, file) = &self.files[tensor.file];
        let size = element_bytes(tensor.dtype).unwrap_or(4);
        let mut raw = vec![0u8; (count * cols * size) as usize];
        file.read_exact_at(&mut raw, tensor.offset + first * cols * size)
            .map_err(|e| Error::io("read", path, e))?;
        out.clear();
        match tensor.dtype {
            Dtype::F32 => {
                out.extend(raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            }
            Dtype::BF16 => {
                out.extend(raw.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()));
            }
            _ => out.extend(raw.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())),
        }
        match out.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => {
                let (row, col) = (first + at as u64 / cols, at as u64 % cols);
                Err(Error::input(format!(
                    "tensor `{name}` in {} holds {} at row {row}, column {col}",
                    path.display(),
                    out[at]
                ))
                .help("weights must be finite: export them again"))
            }
        }
    }
}

fn element_bytes(dtype: Dtype) -> Option<u64> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::BF16 | Dtype::F16 => Some(2),
        _ => None,
    }
}
