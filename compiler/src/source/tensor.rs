//! One tensor of the files, which may be a part of one, several of them, or one whose rows are put in another order.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use hyc_plan::Codec;

use super::block::{Block, Unfit};
use super::header::Entry;
use super::{Expected, split};
use crate::error::{Error, Result};
use crate::gguf::{BlockFault, Stored};
use crate::words::{listed, place, shortened};

/// A file, and where it is.
pub type OpenFile = (PathBuf, File);

/// A tensor of the files.
pub struct Tensor {
    pub file: usize,
    pub entry: Entry,
    /// Name in the file.
    pub name: String,
    /// What follows its rows, of tensors that are stacked: file and entry of each.
    pub more: Vec<(usize, Entry)>,
    /// Rows of the file's tensor before its first one.
    pub before: u64,
    /// Rows of a head, where the two elements of each pair that turns stand side by side and not in halves.
    pub pairs: Option<u64>,
    /// What its numbers are multiplied by.
    pub scale: Option<f64>,
}

/// Element types that are read, for whoever has another.
const READ: &str = "F32, BF16 or F16";

impl Tensor {
    /// Rows `first .. first + count` of `cols` numbers into `out`. Errors: a type that is not read; a file that is not.
    pub fn read(
        &self,
        files: &[OpenFile],
        name: &str,
        (cols, first, count): (u64, u64, u64),
        out: &mut Block,
    ) -> Result<()> {
        let dtype = self.entry.dtype.as_str();
        let Some(stored) = Stored::named(dtype) else {
            return Err(Error::input(format!("dtype of `{name}` is {dtype}, not {READ}")));
        };
        out.stored = stored;
        let row = cols / stored.elements() * stored.bytes();
        out.bytes.resize((count * row) as usize, 0);
        let read = |bytes: &mut [u8], (file, entry): (usize, &Entry), first: u64| {
            let (path, file) = &files[file];
            file.read_exact_at(bytes, entry.bytes.start + first * row).map_err(|e| Error::io("read", path, e))
        };
        let own = (self.file, &self.entry);
        match self.pairs {
            None if self.more.is_empty() => read(&mut out.bytes, own, first)?,
            None => {
                let parts: Vec<_> = [own].into_iter().chain(self.more.iter().map(|(f, e)| (*f, e))).collect();
                // Rows of one part.
                let each =
                    (self.entry.shape.iter().rev().skip(1).product::<u64>() / parts.len() as u64).max(1);
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
        if let Some(by) = self.scale {
            out.scale(by);
        }
        Ok(())
    }

    /// How it differs from what is needed.
    pub fn unlike(&self, want: &Expected) -> Option<String> {
        let Entry { shape, dtype, .. } = &self.entry;
        let called = if self.name == want.name { String::new() } else { format!(" (`{}`)", self.name) };
        if *shape != want.shape {
            let (name, need) = (&want.name, &want.shape);
            return Some(format!("wrong shape: `{name}`{called} is {shape:?}, the model needs {need:?}"));
        }
        let unknown = Stored::named(dtype).is_none();
        unknown.then(|| format!("dtype of `{}`{called} is {dtype}, not {READ}", want.name))
    }

    /// The error of element `at`, which a codec does not take.
    pub fn unfit(&self, files: &[OpenFile], codec: Codec, at: u64, why: Unfit) -> Error {
        // The file of the part that holds it.
        let each = self.entry.shape.iter().product::<u64>() / (1 + self.more.len() as u64);
        let before = at.checked_div(each).and_then(|part| part.checked_sub(1));
        let part = before.and_then(|part| self.more.get(usize::try_from(part).ok()?));
        let file = part.map_or(self.file, |(file, _)| *file);
        let cols = self.entry.shape.last().copied().unwrap_or(1).max(1);
        let row = self.pairs.map_or(at / cols, |head| side_by_side(at / cols, head));
        let (row, column) = (self.before + row, at % cols);
        let at = match self.entry.shape[..] {
            [_, rows, _] => {
                format!("matrix {}, row {}, column {column}", row / rows.max(1), row % rows.max(1))
            }
            [_] => format!("element {column}"),
            _ => format!("row {row}, column {column}"),
        };
        let tensor = format!("tensor `{}` in {}", shortened(&self.name), place(&files[file].0));
        match why {
            Unfit::Number(x) if x.is_finite() => Error::input(format!(
                "{tensor} holds {x:e} at {at}, which {codec} stores as an infinity"
            ))
            .help(
                "write `dtype = \"f32\"` under [weights], or export the weights again with smaller numbers",
            ),
            Unfit::Number(x) => Error::input(format!("{tensor} holds {x} at {at}"))
                .help("weights must be finite: export them again"),
            Unfit::Block(BlockFault::Scale(x)) => {
                damaged(format!("{tensor} has the scale {x} in the block from {at} on"))
            }
            Unfit::Block(BlockFault::Least(x)) => {
                damaged(format!("{tensor} has the least value {x} in the block from {at} on"))
            }
            Unfit::Block(BlockFault::NoScale) => {
                let message = format!(
                    "{tensor} has a scale of 0, and codes that it makes nothing of, in the block from {at} on"
                );
                Error::input(message).help(
                    "its numbers were too small for a scale, or the file is damaged: a line of `formats` under [weights] that \
                     gives this matrix bf16 takes them as the equal numbers that they are now",
                )
            }
        }
    }
}

/// The error of blocks that are no numbers.
fn damaged(message: String) -> Error {
    Error::input(message)
        .help("blocks have finite scales: download the file again, or quantise the weights again")
}

/// Where a row stands whose head holds pairs side by side: element `i` of the first half at `2 i`, of the second at
/// `2 i + 1`.
fn side_by_side(row: u64, head: u64) -> u64 {
    let (first, at) = (row - row % head, row % head);
    let half = head / 2;
    first + 2 * (at % half) + at / half
}

/// The rows of a head of a tensor that holds pairs side by side. Errors: it has no whole heads.
pub fn pairs(tensor: &Tensor, head: u64) -> Result<u64> {
    let rows = tensor.entry.shape.first().copied().unwrap_or(0);
    if tensor.entry.shape.len() == 2 && head >= 2 && head.is_multiple_of(2) && rows.is_multiple_of(head) {
        return Ok(head);
    }
    let (name, shape) = (shortened(&tensor.name), &tensor.entry.shape);
    Err(Error::input(format!("`interleaved`: `{name}` {shape:?} holds no whole heads of {head} rows"))
        .help("it is for the projections of queries and keys"))
}

/// Several tensors of one, by their names and how many of its rows each of them has. Errors: they are not all of its rows.
pub fn cut(tensor: &Tensor, parts: &[(String, u64)]) -> Result<Vec<(String, Tensor)>> {
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
pub fn stacked(name: &str, mut parts: Vec<Tensor>) -> Result<Tensor> {
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
