//! An artefact's header: its metadata, where its tensors are, and its hash.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use hyc_plan::artefact::{ALIGN, HASH_KEY, MOST_HEADER, NO_HASH, PAD, VERSION, VERSION_KEY, digest, hex};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::fault::damaged;
use crate::error::{Error, ErrorKind, Result};

/// Most dimensions of a tensor.
const MOST_DIMS: usize = 8;

/// What a header says, checked against the file's length.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

/// A tensor of the file.
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    /// Its bytes in the file.
    pub(super) place: Range<usize>,
}

/// The element types of an artefact's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Dtype {
    U8,
    #[serde(rename = "BF16")]
    Bf16,
    F32,
}

impl Dtype {
    /// As safetensors names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dtype::U8 => "U8",
            Dtype::Bf16 => "BF16",
            Dtype::F32 => "F32",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Dtype::U8 => 1,
            Dtype::Bf16 => 2,
            Dtype::F32 => 4,
        }
    }
}

/// The JSON, in types that are no larger than a few times its text.
struct Json {
    metadata: Option<BTreeMap<String, String>>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (u64, u64),
}

struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Json, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
                let mut json = Json { metadata: None, tensors: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        json.metadata = Some(map.next_value()?);
                        continue;
                    }
                    // Of two tensors of one name, one reader would see the first, another the last.
                    let entry =
                        map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
                    if json.tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
                    }
                    json.tensors.insert(name, entry);
                }
                Ok(json)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Shape, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MOST_DIMS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(dim) = seq.next_element()? {
                    if dims.len() == MOST_DIMS {
                        return Err(A::Error::invalid_length(MOST_DIMS + 1, &self));
                    }
                    dims.push(dim);
                }
                Ok(Shape(dims))
            }
        }
        deserializer.deserialize_seq(Dims)
    }
}

/// Reads the header of a file that may be anything: its length and first byte are looked at before any of it is
/// parsed. Errors: no artefact; one of another version; one that is damaged.
pub(super) fn read_header(path: &Path, file: &[u8]) -> Result<Header> {
    let no_artefact = || {
        Error::new(ErrorKind::BadArtefact, format!("{} is no hyc artefact", path.display()))
            .help("an artefact is what `hyc compile` writes")
    };
    let length = file.get(..8).and_then(|b| <[u8; 8]>::try_from(b).ok()).ok_or_else(no_artefact)?;
    let length = u64::from_le_bytes(length);
    if file.get(8) != Some(&b'{') {
        return Err(no_artefact());
    }
    if length > MOST_HEADER {
        return Err(damaged(
            path,
            format!("its header says that it has {length} bytes; {MOST_HEADER} are the most"),
        ));
    }
    let end = 8 + length as usize;
    let text = file.get(8..end).ok_or_else(|| damaged(path, "it ends inside its header"))?;
    let json: Json = serde_json::from_slice(text).map_err(|e| match e.classify() {
        // Other programs' files have element types that no artefact has.
        serde_json::error::Category::Data if !has_version(text) => no_artefact(),
        _ => damaged(path, format!("its header: {e}")),
    })?;
    let metadata = json.metadata.ok_or_else(no_artefact)?;
    check_version(path, &metadata)?;
    check_hash(path, text, &metadata)?;
    let tensors = tensors(path, file.len(), end, json.tensors)?;
    Ok(Header { metadata, tensors })
}

/// Whether a header that does not parse is one of an artefact.
fn has_version(text: &[u8]) -> bool {
    text.windows(VERSION_KEY.len()).any(|window| window == VERSION_KEY.as_bytes())
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

/// The tensors with their places: one after the other to the end of the file, as large as their shapes, aligned.
fn tensors(
    path: &Path,
    len: usize,
    header: usize,
    entries: BTreeMap<String, Entry>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut order: Vec<(u64, u64, &str)> =
        entries.iter().map(|(name, e)| (e.data_offsets.0, e.data_offsets.1, name.as_str())).collect();
    order.sort_unstable();
    let mut at = 0;
    for (start, end, name) in order {
        if start != at || end < start {
            return Err(damaged(
                path,
                format!("tensor `{name}` does not begin where the one before it ends"),
            ));
        }
        at = end;
    }
    if at != (len - header) as u64 {
        let message = format!("its tensors have {at} bytes, the file has {} for them", len - header);
        return Err(damaged(path, message));
    }
    let tensor = |(name, entry): (String, Entry)| {
        let (start, end) = entry.data_offsets;
        let place = header + start as usize..header + end as usize;
        let bytes = entry.shape.0.iter().try_fold(entry.dtype.bytes(), |n, dim| n.checked_mul(*dim));
        if bytes != Some(end - start) {
            return Err(damaged(path, format!("tensor `{name}` is not as large as its shape")));
        }
        // A pad begins where its tensor ended; it only has to end aligned.
        if place.start as u64 % ALIGN != 0 && !name.starts_with(PAD) {
            return Err(damaged(path, format!("tensor `{name}` is not aligned")));
        }
        Ok((name, Tensor { dtype: entry.dtype, shape: entry.shape.0, place }))
    };
    entries.into_iter().map(tensor).collect()
}

fn check_hash(path: &Path, header: &[u8], metadata: &BTreeMap<String, String>) -> Result<()> {
    let hash = metadata.get(HASH_KEY).filter(|hash| hash.len() == NO_HASH.len());
    let hash = hash.ok_or_else(|| damaged(path, "it has no hash"))?;
    let text = std::str::from_utf8(header).map_err(|_| damaged(path, "its header is not UTF-8"))?;
    let found = text
        .split_once(hash.as_str())
        .map(|(before, after)| digest([before, NO_HASH, after].concat().as_bytes()));
    if found.is_some_and(|found| hex(&found) == *hash) {
        return Ok(());
    }
    Err(damaged(path, "its header does not have the hash that it states"))
}
