//! The header of a safetensors file: which tensors it holds and where.
//!
//! A file is not believed: its header is bounded before it is read, every tensor must have the bytes that its
//! dtype and shape ask for, and together they must fill the file without gap or overlap.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::sniff;
use crate::error::{Error, Result};
use crate::words::{place, shortened};

/// Bytes of the header's length, which stands first.
const LENGTH: u64 = 8;
/// Most bytes of a header, as the format says.
pub const MOST_HEADER_BYTES: u64 = 100_000_000;
/// Most bytes of a tensor's name: those of models have a few dozen.
pub const MOST_NAME_BYTES: usize = 4096;
/// Most dimensions of a tensor.
const MOST_DIMS: usize = 8;

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Element type, as written.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// Its bytes in the file.
    pub bytes: std::ops::Range<u64>,
}

/// Reads and checks the header of an open file. Errors: everything else than a whole safetensors file, with
/// what it seems to be.
pub fn read(path: &Path, file: &File) -> Result<BTreeMap<String, Entry>> {
    let shown = place(path);
    let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let mut first = [0u8; 512];
    let sample = size.min(first.len() as u64) as usize;
    file.read_exact_at(&mut first[..sample], 0).map_err(|e| Error::io("read", path, e))?;
    if let Some(fault) = sniff::other_format(path, &first[..sample]) {
        return Err(fault);
    }
    let Some(length) = first[..sample].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Err(truncated(path, LENGTH, size));
    };
    if length > MOST_HEADER_BYTES {
        let message = format!(
            "{shown} is no safetensors file: its first 8 bytes would be a header's length of {length} bytes, and \
             {MOST_HEADER_BYTES} are the most"
        );
        return Err(Error::input(message).help("give a safetensors file, or an index of several"));
    }
    let data = LENGTH + length;
    if data > size {
        return Err(truncated(path, data, size));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact_at(&mut header, LENGTH).map_err(|e| Error::io("read", path, e))?;
    let header: Header = serde_json::from_slice(&header).map_err(|e| malformed(path, &e))?;
    if header.compiled {
        return Err(Error::input(format!("{shown} is a compiled artefact, its tensors are packed"))
            .help("give the weight files that it was compiled from"));
    }
    let fault = |message: String| Err(Error::input(format!("{shown}: {message}")).help(AGAIN));
    let mut tensors = BTreeMap::new();
    for (name, raw) in header.tensors {
        if name.len() > MOST_NAME_BYTES {
            let (bytes, begin) = (name.len(), shortened(&name));
            return fault(format!(
                "the name of tensor `{begin}` has {bytes} bytes, {MOST_NAME_BYTES} are the most"
            ));
        }
        match raw.entry(data) {
            Ok(entry) => tensors.insert(name, entry),
            Err(message) => return fault(format!("tensor `{}` {message}", shortened(&name))),
        };
    }
    let end = match contiguous(&tensors, data) {
        Ok(end) => end,
        Err(message) => return fault(message),
    };
    match end.cmp(&size) {
        std::cmp::Ordering::Greater => Err(truncated(path, end, size)),
        std::cmp::Ordering::Less => {
            fault(format!("the header describes {end} bytes, the file has {size}: {} too many", size - end))
        }
        std::cmp::Ordering::Equal => Ok(tensors),
    }
}

const AGAIN: &str = "the file is damaged or was not written whole: copy or export it again";

fn truncated(path: &Path, expected: u64, found: u64) -> Error {
    let shown = place(path);
    Error::input(format!(
        "{shown} is not a whole safetensors file: at least {expected} bytes are expected, it has {found}"
    ))
    .help("it is truncated: download, copy or export it again")
}

fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    let text = error.to_string();
    // The header is one line, in which nobody looks for a column.
    let text = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
    let help = if text.contains("__metadata__") {
        "safetensors takes strings alone: export it again with `metadata={\"key\": \"text\"}`"
    } else {
        AGAIN
    };
    let text = shortened(text);
    Error::input(format!("the header of {} is not a safetensors header: {text}", place(path))).help(help)
}

/// Where the data ends. Errors: tensors that overlap, or leave bytes between them.
fn contiguous(tensors: &BTreeMap<String, Entry>, data: u64) -> Result<u64, String> {
    let mut order: Vec<(&String, &Entry)> = tensors.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.bytes.start, entry.bytes.end));
    let mut end = data;
    for (name, entry) in order {
        if entry.bytes.start != end {
            let (at, end) = (entry.bytes.start - data, end.abs_diff(data));
            let what =
                if at < end { "overlaps the tensor before it" } else { "leaves bytes before it unused" };
            return Err(format!(
                "tensor `{}` begins at byte {at} of the data and {what}, which ends at {end}",
                shortened(name)
            ));
        }
        end = entry.bytes.end;
    }
    Ok(end)
}

/// Bits of an element of each of the format's types.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

struct Header {
    tensors: BTreeMap<String, Raw>,
    /// Whether it is an artefact of `hyc`.
    compiled: bool,
}

#[derive(serde::Deserialize)]
struct Raw {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

impl Raw {
    fn entry(self, data: u64) -> Result<Entry, String> {
        let (begin, end) = self.data_offsets;
        let Some(bytes) = end.checked_sub(begin) else {
            return Err(format!("begins at byte {begin} and ends at {end}"));
        };
        let Shape(shape) = self.shape;
        let elements = shape.iter().try_fold(1u64, |n, dim| n.checked_mul(*dim));
        // A type that this list does not know is refused by name where the tensor is used.
        if let Some(bits) = bits(&self.dtype) {
            let wanted = elements.and_then(|n| n.checked_mul(bits)).map(|bits| bits.div_ceil(8));
            if wanted != Some(bytes) {
                let wanted = wanted.map_or("more than can be".to_string(), |n| n.to_string());
                return Err(format!("of {} {shape:?} takes {wanted} bytes, it has {bytes}", self.dtype));
            }
        }
        let end = data.checked_add(end).ok_or("ends beyond any file")?;
        Ok(Entry { dtype: self.dtype, shape, bytes: data + begin..end })
    }
}

/// A shape of a bounded number of dimensions.
struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Shape, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a shape")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = items.next_element()? {
                    if dims.len() == MOST_DIMS {
                        let message = format!("a tensor has more than {MOST_DIMS} dimensions");
                        return Err(serde::de::Error::custom(message));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        from.deserialize_seq(Dims)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: BTreeMap::new(), compiled: false };
                while let Some(name) = items.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.compiled = items.next_value::<Metadata>()?.compiled;
                        continue;
                    }
                    let raw = items.next_value()?;
                    if header.tensors.contains_key(&name) {
                        let message = format!("tensor `{}` is there twice", shortened(&name));
                        return Err(serde::de::Error::custom(message));
                    }
                    header.tensors.insert(name, raw);
                }
                Ok(header)
            }
        }
        from.deserialize_map(Map)
    }
}

/// Free text about the file, of which nothing is kept.
struct Metadata {
    compiled: bool,
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Metadata, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`__metadata__` as a table of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Metadata, A::Error> {
                let mut compiled = false;
                while let Some(key) = items.next_key::<String>()? {
                    compiled |= key == hyc_plan::artefact::VERSION_KEY;
                    if let Kind(Some(kind)) = items.next_value()? {
                        let message = format!(
                            "`__metadata__` holds `{}`, which is {kind} and not a string",
                            shortened(&key)
                        );
                        return Err(serde::de::Error::custom(message));
                    }
                }
                Ok(Metadata { compiled })
            }
        }
        from.deserialize_map(Map)
    }
}

/// What a value of JSON is; `None` for a string.
struct Kind(Option<&'static str>);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Kind, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_str<E>(self, _: &str) -> Result<Kind, E> {
                Ok(Kind(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
                Ok(Kind(Some("true or false")))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
                Ok(Kind(Some("an integer")))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
                Ok(Kind(Some("an integer")))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
                Ok(Kind(Some("a number")))
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind(Some("null")))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kind(Some("a list")))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
                while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Kind(Some("a table")))
            }
        }
        from.deserialize_any(Any)
    }
}
