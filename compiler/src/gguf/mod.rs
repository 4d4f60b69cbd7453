//! GGUF files: what stands before their data.
//!
//! A file is not believed: counts and lengths are held against the bytes that are left before anything is allocated, and
//! every tensor must lie within the file. Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, version 3
//! (2 is read, too: it is the same).

mod reader;
mod stored;
mod taken;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::words::{place, shortened};
use reader::{Fault, Reader};
pub use stored::Stored;
pub use taken::BlockFault;

/// How a file begins.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Where data begins is a multiple of this, where nothing else is said.
const ALIGNMENT: u64 = 32;
/// Most keys, and most tensors.
const MOST_KEYS: u64 = 1 << 16;
const MOST_TENSORS: u64 = 1 << 20;
/// Most dimensions of a tensor.
const MOST_DIMS: u32 = 4;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer that is not negative, of any width.
    Unsigned(u64),
    /// One that is.
    Negative(i64),
    /// A number.
    Float(f64),
    /// true or false.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
}

/// A tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its numbers' form.
    pub stored: Stored,
    /// Shape, the innermost dimension last (a file has it first).
    pub shape: Vec<u64>,
    /// Its bytes in the file.
    pub bytes: Range<u64>,
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Gguf {
    /// Metadata by key.
    pub keys: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

/// Reads an open file. Errors: everything else than a whole file of a known version; a tensor of a type that is not read.
pub fn read(path: &Path, file: &File) -> Result<Gguf> {
    let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    parse(Reader::new(file, size)).map_err(|fault| match fault {
        Fault::Read(e) => Error::io("read", path, e),
        Fault::Short => Error::input(format!("{} ends before what it says it holds", place(path)))
            .help("it is truncated or damaged: download it again"),
        Fault::Wrong(what) => {
            Error::input(format!("{} is no GGUF file that can be read: {what}", place(path)))
                .help("GGUF of version 2 and 3 is read; if it is one, it is damaged: download it again")
        }
        Fault::Type(name, kind) => {
            let message = format!("tensor `{}` in {} is of type {kind}", shortened(&name), place(path));
            Error::input(message).help(format!("hyc reads {}", Stored::names()))
        }
    })
}

fn parse(mut reader: Reader<'_>) -> std::result::Result<Gguf, Fault> {
    let wrong = |what: String| Err(Fault::Wrong(what));
    if reader.array::<4>()? != *MAGIC {
        return wrong("it does not begin as one".to_string());
    }
    let version = reader.u32()?;
    if ![2, 3].contains(&version) {
        return wrong(format!("its version is {version}"));
    }
    let (tensors, keys) = (reader.u64()?, reader.u64()?);
    if tensors > MOST_TENSORS || keys > MOST_KEYS {
        return wrong(format!("it would hold {tensors} tensors and {keys} keys"));
    }
    let mut gguf = Gguf::default();
    for _ in 0..keys {
        let key = reader.text()?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0)?;
        if gguf.keys.insert(key.clone(), value).is_some() {
            return wrong(format!("the key `{}` is there twice", shortened(&key)));
        }
    }
    let alignment = match gguf.keys.get("general.alignment") {
        None => ALIGNMENT,
        Some(Value::Unsigned(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
        Some(other) => return wrong(format!("its alignment is {other:?}")),
    };
    let mut begins = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        let count = reader.u32()?;
        if count == 0 || count > MOST_DIMS {
            return wrong(format!("tensor `{}` has {count} dimensions", shortened(&name)));
        }
        let mut shape = (0..count).map(|_| reader.u64()).collect::<std::result::Result<Vec<_>, _>>()?;
        shape.reverse();
        let kind = reader.u32()?;
        let stored = Stored::of(kind).map_err(|kind| Fault::Type(name.clone(), kind))?;
        begins.push((name, shape, stored, reader.u64()?));
    }
    let data = reader.position().next_multiple_of(alignment);
    for (name, shape, stored, begin) in begins {
        let bytes = size(&shape, stored).and_then(|bytes| {
            let begin = data.checked_add(begin)?;
            Some(begin..begin.checked_add(bytes)?)
        });
        let Some(bytes) = bytes.filter(|_| begin % alignment == 0) else {
            return wrong(format!("tensor `{}` of {shape:?} at {begin} is not possible", shortened(&name)));
        };
        if bytes.end > reader.size() {
            return Err(Fault::Short);
        }
        if gguf.tensors.insert(name.clone(), Tensor { stored, shape, bytes }).is_some() {
            return wrong(format!("the tensor `{}` is there twice", shortened(&name)));
        }
    }
    Ok(gguf)
}

/// Bytes of a tensor. `None`: a row is no whole number of blocks, or it has more than can be counted.
fn size(shape: &[u64], stored: Stored) -> Option<u64> {
    let (cols, rows) = shape.split_last()?;
    let row = cols.is_multiple_of(stored.elements()).then(|| cols / stored.elements())?;
    rows.iter().try_fold(row, |all, n| all.checked_mul(*n))?.checked_mul(stored.bytes())
}
