//! A checkpoint as a description: a folder of Hugging Face's, whose `config.json` is read by its family, or a GGUF file.
//! Weights stay where they lie.
//!
//! What a description cannot express is an error that names the key: nothing is approximated.

mod by_kind;
mod byte_level;
mod config;
mod experts;
mod family;
mod gguf;
mod hysparse;
mod layers;
mod options;
mod pieces;
mod rope;
mod sections;
mod stored;
mod tokens;
mod vocabulary;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{self, build_graph};
use crate::source::{Expected, WeightSource};
use crate::words::place;
use by_kind::FURTHER;
use config::Config;
use experts::Experts;
use layers::Layers;
pub use options::{Options, Seen, Selection};
use rope::{Of, Rope};
pub use sections::BLOCK;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// Tensors that some checkpoints hold and no model needs: frequencies that are computed.
const COMPUTED: &str = "*.rotary_emb.inv_freq";
/// The head of a model that has the embedding table as its head.
const HEAD: &str = "lm_head.weight";

/// Queries, keys and values, and gate and up, where a class has them as one.
const FUSED: [&str; 2] =
    ["model.layers.{i}.self_attn.qkv_proj.weight", "model.layers.{i}.mlp.gate_up_proj.weight"];

/// A description of a checkpoint.
pub struct Imported {
    /// The `model.toml`.
    pub text: String,
    /// What must stand beside it: what a file's name ends with, and its bytes.
    pub beside: Vec<(&'static str, String)>,
    /// What its reader should know.
    pub notes: Vec<String>,
}

/// A checkpoint, a folder or a GGUF file, as a description at `at`; `None`: nowhere, so that nothing can stand beside it.
///
/// Errors: a file that is missing or damaged; a family, a key or a tensor that cannot be expressed.
pub fn import(checkpoint: &Path, at: Option<&Path>, options: &Options) -> Result<Imported> {
    let folder = at.and_then(Path::parent).unwrap_or(Path::new(""));
    let mut draft = Draft { text: String::new(), beside: Vec::new(), notes: Vec::new(), folder, options };
    let is_file = checkpoint.is_file();
    if is_file && !gguf::is_one(checkpoint) {
        return Err(Error::input(format!("{} is no GGUF file", place(checkpoint)))
            .help("give a GGUF file, or the folder of config.json and its safetensors"));
    }
    let source = if is_file { draft.gguf(checkpoint, at)? } else { draft.folder(checkpoint)? };
    let Draft { text, beside, notes, .. } = draft;
    fits(&text, source)?;
    Ok(Imported { text, beside, notes })
}

/// A description in the making.
struct Draft<'a> {
    text: String,
    beside: Vec<(&'static str, String)>,
    notes: Vec<String>,
    /// Where it will stand.
    folder: &'a Path,
    options: &'a Options,
}

impl Draft<'_> {
    /// A folder as transformers writes it. Its weights.
    fn folder(&mut self, folder: &Path) -> Result<WeightSource> {
        if self.options.dtype.as_deref() == Some(stored::WORD) {
            let message = "`--dtype stored` is of GGUF files: a folder's weights are no blocks";
            return Err(Error::new(ErrorKind::Usage, message).help("give `--dtype bf16` or `--dtype f32`"));
        }
        let config = Config::read(&folder.join(CONFIG))?;
        let (rope, experts) = self.model(&config, folder)?;
        let files = weight_files(folder)?;
        let source = WeightSource::open(&files)?;
        self.weights(&config, &files, &source, experts.as_ref())?;
        if !self.options.no_tokenizer {
            self.tokenizer(folder);
        }
        sections::sampling(&mut self.text, folder)?;
        self.target(&config, &rope)?;
        config.all_asked()?;
        Ok(source)
    }

    /// A GGUF file. Its weights.
    fn gguf(&mut self, path: &Path, at: Option<&Path>) -> Result<WeightSource> {
        let opened = gguf::open(path)?;
        let (rope, _) = self.model(&opened.config, path)?;
        let stored = self.options.dtype.as_deref() == Some(stored::WORD);
        let asked = self.options.dtype.as_deref().filter(|_| !stored);
        let dtype = asked.unwrap_or(if opened.quantised { "bf16" } else { "f32" });
        if opened.quantised && self.options.dtype.is_none() {
            self.notes.push(
                "its blocks stand for numbers that bf16 rounds (`--dtype f32` does not, `--dtype stored` keeps blocks)"
                    .into(),
            );
        }
        let names = opened.rename.iter().map(|(from, to)| format!("\"{from}\" = \"{to}\"\n"));
        let names: String = names.collect();
        let file = path_text(path, self.folder);
        let _ = write!(self.text, "\n[weights]\nfiles = [{file}]\ndtype = \"{dtype}\"\n");
        if !opened.interleaved.is_empty() {
            let list: Vec<String> = opened.interleaved.iter().map(|name| format!("\"{name}\"")).collect();
            let _ = writeln!(self.text, "interleaved = [{}]", list.join(", "));
        }
        if !opened.ignored.is_empty() {
            let _ = writeln!(self.text, "ignore = {:?}", opened.ignored);
        }
        let _ = write!(self.text, "\n[weights.rename]\n{names}");
        if let Some(fused) = opened.fused {
            sections::split(&mut self.text, &opened.config, family::of(&opened.config)?, fused)?;
        }
        let weights_end = self.text.len();
        if !self.options.no_tokenizer {
            self.vocabulary(&opened, at)?;
        }
        self.target(&opened.config, &rope)?;
        opened.config.all_asked()?;
        if stored {
            let formats = stored::formats(&self.text, path, dtype, &mut self.notes)?;
            self.text.insert_str(weights_end, &formats);
        }
        WeightSource::open(&[path.to_path_buf()])
    }

    /// `[tokenizer]`, and what stands beside the description for it.
    fn vocabulary(&mut self, opened: &gguf::Opened, at: Option<&Path>) -> Result<()> {
        let Some(vocabulary) = opened.vocabulary()? else {
            self.notes.push("the file has no tokenizer: the model takes and gives tokens alone".into());
            return Ok(());
        };
        let Some(at) = at else {
            return Err(Error::new(
                ErrorKind::Usage,
                "the file's tokenizer must stand beside the description",
            )
            .help("give a file, as `-o model.toml`; or `--no-tokenizer`"));
        };
        let mut stand = |text: &mut String, key: &str, ending: &'static str, content: String| {
            let name =
                at.with_extension(ending).file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = writeln!(text, "{key} = {}", toml::Value::from(name));
            self.beside.push((ending, content));
        };
        self.text.push_str("\n[tokenizer]\n");
        stand(&mut self.text, "file", "tokenizer.json", vocabulary.tokenizer);
        if let Some(template) = vocabulary.template {
            stand(&mut self.text, "chat_template_file", "chat_template.jinja", template);
        }
        if let Some(bos) = vocabulary.bos {
            let _ = writeln!(self.text, "bos = {bos}");
        }
        let _ = writeln!(self.text, "eos = {:?}", vocabulary.eos);
        let _ = writeln!(self.text, "add_special = {}", vocabulary.add_bos);
        Ok(())
    }

    /// `[model]`, `[attention]` and `[moe]` of what stands at `path`.
    fn model(&mut self, config: &Config, path: &Path) -> Result<(Rope, Option<Experts>)> {
        let family = family::of(config)?;
        let (head_dim, context) = (sections::heads(config, family)?.head_dim, self.options.context);
        let mut rope = rope::read(config, family, Of::Full, head_dim, context)?;
        let name = self.options.name.clone().unwrap_or_else(|| name_of(path));
        let experts = experts::read(config, family)?;
        sections::model(&mut self.text, config, family, (&rope, experts.as_ref()), &name)?;
        if family.selects {
            hysparse::attention(&mut self.text, config, self.options)?;
        }
        let layers = match family.selects {
            true => Layers::Full,
            false => sections::attention(&mut self.text, config, family, self.options)?,
        };
        if family.by_kind {
            let other = by_kind::attention(&mut self.text, config, family, (&rope, &layers), context)?;
            rope.most = rope.most.into_iter().chain(other.most).min();
            rope.note = rope.note.or(other.note);
        }
        experts.iter().for_each(|experts| experts.section(&mut self.text));
        if let Some(value) = config.get("quantization_config") {
            config.cannot("quantization_config", value, "weights are quantised");
        }
        config.expressible()?;
        Ok((rope, experts))
    }

    /// `[weights]` of a folder.
    fn weights(
        &mut self,
        config: &Config,
        files: &[PathBuf],
        source: &WeightSource,
        experts: Option<&Experts>,
    ) -> Result<()> {
        let stored = match config.word("dtype")? {
            Some(dtype) => Some(dtype),
            None => config.word("torch_dtype")?,
        };
        let dtype = self.options.dtype.as_deref().unwrap_or(match stored {
            Some("float32" | "float16") => "f32",
            _ => "bf16",
        });
        if stored == Some("float16") && self.options.dtype.is_none() {
            self.notes.push(
                "weights are f16, which bf16 would round: the artefact gets f32 (`--dtype bf16` is half of it)"
                    .into(),
            );
        }
        let list: Vec<String> = files.iter().map(|file| path_text(file, self.folder)).collect();
        let _ = write!(self.text, "\n[weights]\nfiles = [{}]\ndtype = \"{dtype}\"\n", list.join(", "));
        let mut ignore = Vec::new();
        if source.names().any(|name| name.ends_with(&COMPUTED[1..])) {
            ignore.push(COMPUTED);
        }
        let tied = config.flag("tie_word_embeddings")?.unwrap_or(false);
        if tied && source.names().any(|name| name == HEAD) {
            self.notes.push(format!(
                "the files hold `{HEAD}`, which is left out: the model's head is its embedding table"
            ));
            ignore.push(HEAD);
        }
        let family = family::of(config)?;
        if family.by_kind && source.names().any(|name| name.starts_with(FURTHER.trim_end_matches('*'))) {
            self.notes.push("layers that predict tokens after the next one are left out".into());
            ignore.push(FURTHER);
        }
        if !ignore.is_empty() {
            let list: Vec<String> = ignore.iter().map(|pattern| format!("\"{pattern}\"")).collect();
            let _ = writeln!(self.text, "ignore = [{}]", list.join(", "));
        }
        let mut names = Vec::new();
        if family.by_kind {
            by_kind::names(config, &layers::read(config, family)?, &mut names)?;
        }
        if family.selects {
            hysparse::names(config, &mut names)?;
        }
        experts.iter().for_each(|experts| experts.names(&mut names));
        if !names.is_empty() {
            let lines = names.iter().map(|(from, to)| format!("\"{from}\" = \"{to}\"\n"));
            let _ = write!(self.text, "\n[weights.rename]\n{}", lines.collect::<String>());
        }
        if let Some(experts) = experts {
            experts.stacks(&mut self.text);
            if dtype == "bf16" && source.names().any(|name| experts.is_router(name) && source.is_f32(name)) {
                self.notes.push(
                    "the files have routers in f32, which bf16 rounds: near choices may be others (`--dtype f32` does \
                     not)"
                        .into(),
                );
            }
        }
        if family.by_kind {
            self.value_scale(config, dtype)?;
        }
        match family.fused {
            true => sections::split(&mut self.text, config, family, FUSED),
            false => Ok(()),
        }
    }

    /// `[weights.scale]` of a model whose values are multiplied.
    fn value_scale(&mut self, config: &Config, dtype: &str) -> Result<()> {
        let Some(scale) = by_kind::value_scale(config)? else { return Ok(()) };
        let _ = write!(self.text, "\n[weights.scale]\n\"{}\" = {scale:?}\n", by_kind::VALUES);
        if dtype == "bf16" {
            self.notes.push(format!(
                "values are multiplied by {scale}: `v_proj.weight` is, which bf16 rounds (`--dtype f32` does not)"
            ));
        }
        Ok(())
    }

    fn tokenizer(&mut self, folder: &Path) {
        let file = folder.join(TOKENIZER);
        if file.exists() {
            let _ = write!(self.text, "\n[tokenizer]\nfile = {}\n", path_text(&file, self.folder));
        } else {
            self.notes.push(format!("there is no {TOKENIZER}: the model takes and gives tokens alone"));
        }
    }

    /// `[target]`.
    fn target(&mut self, config: &Config, rope: &Rope) -> Result<()> {
        let trained = config.needs_size("max_position_embeddings")?;
        let most = rope.most.map_or(trained, |most| most.min(trained));
        self.notes.extend(rope.note.clone());
        let context = self.options.context.unwrap_or(most);
        if context > most {
            let message = format!("a context of {context} tokens: the checkpoint's is {most}");
            return Err(
                Error::new(ErrorKind::Usage, message).help(format!("give `--context {most}` at most"))
            );
        }
        let _ = write!(self.text, "\n[target]\nmax_context = {context}\n");
        if let Some(target) = &self.options.target {
            let _ = writeln!(self.text, "kind = {}", toml::Value::from(target.as_str()));
        }
        Ok(())
    }
}

fn name_of(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = if full.is_file() { full.file_stem() } else { full.file_name() };
    let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if hyc_ir::text::is_model_name(&name) { name } else { "model".to_string() }
}

/// The index of a folder, or its one file. Errors: neither is there.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    for name in [INDEX, WEIGHTS] {
        if folder.join(name).exists() {
            return Ok(vec![folder.join(name)]);
        }
    }
    let names = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?.flatten();
    let mut names: Vec<String> =
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if let Some(one) = names.iter().find(|name| name.ends_with(".safetensors.index.json")) {
        return Ok(vec![folder.join(one)]);
    }
    let own: Vec<PathBuf> =
        names.iter().filter(|name| name.ends_with(".safetensors")).map(|name| folder.join(name)).collect();
    if !own.is_empty() {
        return Ok(own);
    }
    let error = Error::input(format!("{} holds no safetensors files", place(folder)));
    Err(match names.iter().find(|name| name.ends_with(".bin") || name.ends_with(".pth")) {
        Some(pickle) => error.help(format!(
            "{pickle} is a Python pickle: load the model where it was made, and save it with `save_pretrained`"
        )),
        None => error.help("download the weights, too"),
    })
}

/// A file as the description names it: relative where it lies in its folder or below.
fn path_text(file: &Path, beside: &Path) -> String {
    let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (file, beside) = (full(file), full(beside));
    let told = file.strip_prefix(&beside).unwrap_or(&file);
    toml::Value::from(told.to_string_lossy().into_owned()).to_string()
}

/// Errors: a description that is none, or weights that are not those of its model.
fn fits(text: &str, source: WeightSource) -> Result<()> {
    let desc = frontend::parse_model(Path::new("model.toml"), text)?;
    source.renamed(&desc.weights.names)?.check(&Expected::of_graph(&build_graph(&desc)))
}
