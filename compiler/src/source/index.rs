//! `*.safetensors.index.json`: one model in several files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::header::{MOST_HEADER_BYTES, MOST_NAME_BYTES};
use crate::error::{Error, Result};
use crate::words::{listed, place, shortened};

/// Which file holds which tensor.
pub struct Index {
    /// Path of the index.
    pub path: PathBuf,
    /// Tensor to shard, as written.
    map: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct Json {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Whether a file of these first bytes is to be read as an index.
    pub fn looks_like(path: &Path, first: &[u8]) -> bool {
        let named = path.extension().is_some_and(|end| end == "json");
        let text = String::from_utf8_lossy(first);
        let begins = text.trim_start_matches('\u{feff}').trim_start().starts_with('{');
        // The first 8 bytes of a safetensors file are a length, of which the last are zeros.
        begins && first.get(7) != Some(&0) && (named || text.contains("weight_map"))
    }

    /// Reads an index. Errors: one that is no JSON, has no `weight_map`, or names files outside its folder.
    pub fn read(path: &Path) -> Result<Index> {
        let shown = place(path);
        let size = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
        if size > MOST_HEADER_BYTES {
            return Err(Error::input(format!("{shown} has {size} bytes: no index is that large")));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let json: Json = serde_json::from_slice(bytes).map_err(|e| {
            let text = shortened(&e.to_string()).into_owned();
            Error::input(format!("{shown} is no index of weight files: {text}"))
                .help("an index is JSON with `weight_map`, from each tensor's name to the name of its file")
        })?;
        let index = Index { path: path.to_path_buf(), map: json.weight_map };
        for shard in index.shards() {
            let plain = Path::new(shard).components().all(|part| matches!(part, Component::Normal(_)));
            if shard.is_empty() || !plain || shard.contains('\0') {
                let shard = shortened(shard);
                return Err(Error::input(format!("{shown} names `{shard}`, which is no file beside it"))
                    .help("the shards of an index lie in its folder"));
            }
        }
        if let Some(name) = index.map.keys().find(|name| name.len() > MOST_NAME_BYTES) {
            let (bytes, begin) = (name.len(), shortened(name));
            return Err(Error::input(format!(
                "{shown}: the name of tensor `{begin}` has {bytes} bytes, {MOST_NAME_BYTES} are the most"
            )));
        }
        if index.map.is_empty() {
            return Err(Error::input(format!("{shown} names no tensors: its `weight_map` is empty")));
        }
        Ok(index)
    }

    fn shards(&self) -> BTreeSet<&str> {
        self.map.values().map(String::as_str).collect()
    }

    /// The paths of the shards, whether or not they are there.
    pub fn places(&self) -> Vec<PathBuf> {
        self.shards().into_iter().map(|shard| self.path.with_file_name(shard)).collect()
    }

    /// The paths of the shards. Errors: all that are missing.
    pub fn paths(&self) -> Result<Vec<PathBuf>> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let all = self.shards();
        let missing: Vec<&str> = all.iter().copied().filter(|shard| !folder.join(shard).exists()).collect();
        if missing.is_empty() {
            return Ok(all.into_iter().map(|shard| folder.join(shard)).collect());
        }
        let message = format!(
            "{} names {} files, of which {} not there: {}",
            place(&self.path),
            all.len(),
            if missing.len() == 1 { "one is".to_string() } else { format!("{} are", missing.len()) },
            listed(&missing, ", ")
        );
        Err(Error::input(message).help("download the missing files into the folder of the index"))
    }

    /// Compares the index with what its files hold: `holds` gives the shard of each tensor that was found.
    pub fn check(&self, holds: &BTreeMap<String, String>) -> Result<()> {
        let mut faults: Vec<String> = Vec::new();
        for (name, shard) in &self.map {
            match holds.get(name) {
                Some(found) if found == shard => {}
                Some(found) => faults.push(format!("`{name}` is in {found}, the index says {shard}")),
                None => faults.push(format!("`{name}` is not in {shard}")),
            }
        }
        let extra = holds.iter().filter(|(name, _)| !self.map.contains_key(*name));
        faults.extend(extra.map(|(name, shard)| format!("`{name}` of {shard} is not in the index")));
        if faults.is_empty() {
            return Ok(());
        }
        let message = format!("{} and its files disagree:\n  {}", place(&self.path), listed(&faults, "\n  "));
        Err(Error::input(message).help("download the index and its files again, all of one revision"))
    }
}
