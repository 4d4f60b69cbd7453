//! A checkpoint as a description: a folder of Hugging Face's, whose `config.json` is read by its family, or a GGUF file.
//! Weights stay where they lie.
//!
//! What a description cannot express is an error that names the key: nothing is approximated.

mod config;
mod family;
mod gguf;
mod rope;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use hyc_plan::RopeScaling;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{self, build_graph};
use crate::source::{Expected, WeightSource};
use crate::words::place;
use config::Config;
use family::Family;
use rope::Rope;

const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";
const TOKENIZER: &str = "tokenizer.json";
const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// Tensors that some checkpoints hold and no model needs: frequencies that are computed.
const COMPUTED: &str = "*.rotary_emb.inv_freq";
/// The head of a model that has the embedding table as its head.
const HEAD: &str = "lm_head.weight";

/// What is asked for beside the checkpoint.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model's name; without it that of the folder.
    pub name: Option<String>,
    /// Most tokens of a sequence; without it as many as the checkpoint says.
    pub context: Option<u64>,
    /// Element type of matrices in the artefact, `bf16` or `f32`; without it f32 for f32 and f16, bf16 for bf16.
    pub dtype: Option<&'static str>,
    /// `cpu`, or a GPU.
    pub target: Option<String>,
    /// Leaves the tokenizer out.
    pub no_tokenizer: bool,
    /// Tokens of a page, and of a block of the selection.
    pub block: u64,
    /// Oracle layers and the sparse ones after each, in place of full attention in every layer.
    pub selection: Option<Selection>,
}

/// Layers that select, in a checkpoint that was trained without.
#[derive(Debug, Clone)]
pub struct Selection {
    /// As `pattern` of `[attention]`.
    pub pattern: String,
    /// Tokens that a query selects.
    pub top_k: u64,
}

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
    let files = if is_file { draft.gguf(checkpoint, at)? } else { draft.folder(checkpoint)? };
    let Draft { text, beside, notes, .. } = draft;
    fits(&text, &files)?;
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
    /// A folder as transformers writes it. The weight files.
    fn folder(&mut self, folder: &Path) -> Result<Vec<PathBuf>> {
        let config = Config::read(&folder.join(CONFIG))?;
        let rope = self.model(&config, folder)?;
        let files = weight_files(folder)?;
        self.weights(&config, &files)?;
        if !self.options.no_tokenizer {
            self.tokenizer(folder);
        }
        sampling(&mut self.text, folder)?;
        self.target(&config, &rope)?;
        config.all_asked()?;
        Ok(files)
    }

    /// A GGUF file, itself.
    fn gguf(&mut self, path: &Path, at: Option<&Path>) -> Result<Vec<PathBuf>> {
        let opened = gguf::open(path)?;
        let rope = self.model(&opened.config, path)?;
        let dtype = self.options.dtype.unwrap_or(if opened.quantised { "bf16" } else { "f32" });
        if opened.quantised && self.options.dtype.is_none() {
            self.notes.push("its blocks stand for numbers that bf16 rounds (`--dtype f32` does not)".into());
        }
        let names = opened.rename.iter().map(|(from, to)| format!("\"{from}\" = \"{to}\"\n"));
        let names: String = names.collect();
        let file = path_text(path, self.folder);
        let _ = write!(self.text, "\n[weights]\nfiles = [{file}]\ndtype = \"{dtype}\"\n");
        if !opened.interleaved.is_empty() {
            let list: Vec<String> = opened.interleaved.iter().map(|name| format!("\"{name}\"")).collect();
            let _ = writeln!(self.text, "interleaved = [{}]", list.join(", "));
        }
        let _ = write!(self.text, "\n[weights.rename]\n{names}");
        if !self.options.no_tokenizer {
            self.vocabulary(&opened, at)?;
        }
        self.target(&opened.config, &rope)?;
        opened.config.all_asked()?;
        Ok(vec![path.to_path_buf()])
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

    /// `[model]` and `[attention]` of what stands at `path`.
    fn model(&mut self, config: &Config, path: &Path) -> Result<Rope> {
        let family = family::of(config)?;
        let rope = rope::read(config, family.theta)?;
        let name = self.options.name.clone().unwrap_or_else(|| name_of(path));
        model(&mut self.text, config, family, &rope, &name)?;
        attention(&mut self.text, config, family, self.options)?;
        Ok(rope)
    }

    /// `[weights]` of a folder.
    fn weights(&mut self, config: &Config, files: &[PathBuf]) -> Result<()> {
        if let Some(value) = config.get("quantization_config") {
            return Err(config.refused("quantization_config", value, "weights are quantised"));
        }
        let source = WeightSource::open(files)?;
        let stored = match config.word("dtype")? {
            Some(dtype) => Some(dtype),
            None => config.word("torch_dtype")?,
        };
        let dtype = self.options.dtype.unwrap_or(match stored {
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
        if !ignore.is_empty() {
            let list: Vec<String> = ignore.iter().map(|pattern| format!("\"{pattern}\"")).collect();
            let _ = writeln!(self.text, "ignore = [{}]", list.join(", "));
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
        if most < trained {
            self.notes.push(format!(
                "RoPE is scaled by the length of a sequence beyond {most} tokens, which is not imported: that is the context"
            ));
        }
        let context = self.options.context.unwrap_or(most);
        if context > most {
            let message = format!("a context of {context} tokens: the checkpoint's is {most}");
            return Err(
                Error::new(ErrorKind::Usage, message).help(format!("give `--context {most}` at most"))
            );
        }
        let _ = write!(self.text, "\n[target]\nmax_context = {context}\n");
        if let Some(target) = &self.options.target {
            let _ = writeln!(self.text, "kind = \"{target}\"");
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

fn model(out: &mut String, config: &Config, family: Family, rope: &Rope, name: &str) -> Result<()> {
    let silu = [Value::from("silu"), Value::from("swish")];
    config.must_be("hidden_act", &silu, "the feed-forward part is no SwiGLU")?;
    for key in ["attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias"] {
        config.must_be(key, &[Value::Bool(false)], "products have biases")?;
    }
    config.must_be("pretraining_tp", &[Value::from(1)], "products are summed in slices")?;
    config.must_be("rope_interleaved", &[Value::Bool(false)], "neighbours turn in place of halves")?;
    let hidden = config.needs_size("hidden_size")?;
    let heads = config.needs_size("num_attention_heads")?;
    let kv_heads = config.size("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = config.size("head_dim")?.or(family.head_dim);
    let head_dim = head_dim.or(hidden.checked_div(heads)).unwrap_or(hidden);
    let eps = config.positive("rms_norm_eps")?.unwrap_or(family.eps);
    let layers = config.needs_size("num_hidden_layers")?;
    let (ffn, vocab) = (config.needs_size("intermediate_size")?, config.needs_size("vocab_size")?);
    let lines = format!(
        "[model]\nname = \"{name}\"\nlayers = {layers}\nhidden = {hidden}\nheads = {heads}\nkv_heads = {kv_heads}\n\
         head_dim = {head_dim}\nffn = {ffn}\nvocab = {vocab}\nnorm_eps = {eps:?}\nrope = {}\n",
        rope_table(rope)
    );
    out.push_str(&lines);
    if family.qk_norm {
        out.push_str("qk_norm = true\n");
    }
    if config.flag("tie_word_embeddings")? == Some(true) {
        out.push_str("tie_embeddings = true\n");
    }
    Ok(())
}

fn rope_table(rope: &Rope) -> String {
    let theta = rope.theta;
    match rope.scaling {
        None => format!("{{ theta = {theta:?} }}"),
        Some(RopeScaling::Linear { factor }) => {
            format!("{{ theta = {theta:?}, scaling = \"linear\", factor = {factor:?} }}")
        }
        Some(RopeScaling::Llama3 { factor, low, high, original }) => format!(
            "{{ theta = {theta:?}, scaling = \"llama3\", factor = {factor:?}, low_freq_factor = {low:?}, \
             high_freq_factor = {high:?}, original_context = {original:?} }}"
        ),
        Some(RopeScaling::Yarn { factor, fast, slow, original, magnitude }) => format!(
            "{{ theta = {theta:?}, scaling = \"yarn\", factor = {factor:?}, beta_fast = {fast:?}, beta_slow = {slow:?}, \
             original_context = {original:?}, attention_factor = {magnitude:?} }}"
        ),
    }
}

/// Full attention, a window in every layer, or layers that select for others.
fn attention(out: &mut String, config: &Config, family: Family, options: &Options) -> Result<()> {
    let (block, selection) = (options.block, options.selection.as_ref());
    let window = family::window(config, family)?;
    match (window, selection) {
        (Some(window), Some(_)) => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("every layer sees a window of {window} tokens alone"),
            )
            .help("leave `--pattern` out: layers without full attention choose nothing"));
        }
        (Some(window), None) => {
            let _ = write!(
                out,
                "\n[attention]\nkind = \"swa\"\nfull = []\nwindow = {window}\nsparse_sink = false\nblock = {block}\n"
            );
        }
        (None, None) => {
            let _ = write!(out, "\n[attention]\nkind = \"full\"\nblock = {block}\n");
        }
        (None, Some(Selection { pattern, top_k })) => {
            let _ = write!(
                out,
                "\n[attention]\npattern = \"{pattern}\"\nblock = {block}\ntop_k = {top_k}\nsparse_kv = \"own\"\n\
                 window_branch = false\ngate = \"none\"\nsparse_sink = false\n"
            );
        }
    }
    Ok(())
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

/// How tokens are chosen, as the model's makers say.
fn sampling(out: &mut String, folder: &Path) -> Result<()> {
    let file = folder.join(GENERATION);
    if !file.exists() {
        return Ok(());
    }
    let config = Config::read(&file)?;
    if config.flag("do_sample")? != Some(true) {
        return Ok(());
    }
    let temperature = config.positive("temperature")?.unwrap_or(1.0);
    let top_p = config.positive("top_p")?.unwrap_or(1.0);
    let min_p = config.positive("min_p")?.unwrap_or(0.0);
    // What transformers takes where nothing is said.
    let top_k = config.size("top_k")?.unwrap_or(50);
    let penalty = config.positive("repetition_penalty")?.unwrap_or(1.0);
    let _ = write!(
        out,
        "\n[sampling]\ntemperature = {temperature:?}\ntop_k = {top_k}\ntop_p = {top_p:?}\nmin_p = {min_p:?}\n\
         repeat_penalty = {penalty:?}\n"
    );
    Ok(())
}

/// A file as the description names it: relative where it lies in its folder or below.
fn path_text(file: &Path, beside: &Path) -> String {
    let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (file, beside) = (full(file), full(beside));
    let told = file.strip_prefix(&beside).unwrap_or(&file);
    toml::Value::from(told.to_string_lossy().into_owned()).to_string()
}

/// Errors: a description that is none, or weights that are not those of its model.
fn fits(text: &str, files: &[PathBuf]) -> Result<()> {
    let desc = frontend::parse_model(Path::new("model.toml"), text)?;
    let source = WeightSource::open(files)?.renamed(&desc.weights.names)?;
    source.check(&Expected::of_graph(&build_graph(&desc)))
}
