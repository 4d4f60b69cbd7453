//! The files that a model is made of.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hyc::frontend::{self, TemplateSource};
use hyc::source;
use hyc::text::NEIGHBOURS;
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A description, and what it names.
pub struct Inputs {
    /// The description first.
    files: Vec<PathBuf>,
}

impl Inputs {
    /// The files of a model; of a description that does not parse, itself alone. Nothing fails here, so that cargo knows
    /// what to look at whatever is wrong.
    pub fn of(path: &Path) -> Inputs {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let desc = frontend::parse_model(path, &text).ok();
        let mut files = vec![path.to_path_buf()];
        if let Some(desc) = &desc {
            for weights in &desc.weights.files {
                files.push(weights.clone());
                files.extend(source::shards(weights));
            }
            if let Some(tokenizer) = &desc.tokenizer.file {
                files.push(tokenizer.clone());
                files.extend(NEIGHBOURS.map(|name| tokenizer.with_file_name(name)));
            }
            if let Some(TemplateSource::File(template)) = &desc.tokenizer.chat_template {
                files.push(template.clone());
            }
        }
        Inputs { files }
    }

    /// Those that are there: cargo would take a missing one for one that changes all the time. The description always is
    /// one of them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let (first, others) = self.files.split_at(1);
        let others = others.iter().filter(|path| path.is_file());
        first.iter().chain(others).map(PathBuf::as_path)
    }

    /// A digest of all of them and of `says`, what else matters. Errors: one that cannot be read.
    pub fn stamp(&self, says: &str) -> Result<String> {
        let mut sha = Sha256::new();
        sha.update(says);
        let mut buffer = vec![0; 1 << 20];
        for path in self.files() {
            let fail = |e| Error::io("read", path, &e);
            sha.update(path.to_string_lossy().as_bytes());
            let mut file = File::open(path).map_err(fail)?;
            sha.update(file.metadata().map_err(fail)?.len().to_le_bytes());
            loop {
                match file.read(&mut buffer).map_err(fail)? {
                    0 => break,
                    count => sha.update(&buffer[..count]),
                }
            }
        }
        Ok(hyc_plan::artefact::hex(&sha.finalize()))
    }
}
