//! Where `hyc compile` writes, decided before any work is done.

use std::path::{Path, PathBuf};

use crate::driver::Input;
use crate::dumps;
use crate::error::{Error, ErrorKind, Result};
use crate::frontend::{ModelDesc, TemplateSource};
use crate::output::{Folder, Kept, Sink, Target};
use crate::text::NEIGHBOURS;
use crate::words::place;

/// What `hyc compile` makes, and where it goes.
pub enum Destination {
    /// One form of the model, or dumps.
    Form(Sink),
    /// A summary on standard output.
    Summary,
    /// An artefact.
    Artefact(Target),
}

/// What the arguments say about it.
pub struct Wish<'a> {
    /// The description or dump.
    pub input: &'a Path,
    /// `-o`.
    pub output: Option<&'a Path>,
    /// Whether a form or dumps are wanted.
    pub form: bool,
    /// Whether the plan is enough.
    pub plan_only: bool,
    /// Files that the arguments name beside the input, and what they are.
    pub files: Vec<(&'static str, &'a Path)>,
}

impl Destination {
    /// Errors: a place that cannot be written; one that holds a file which the model is made of, whether or not this
    /// run reads it.
    pub fn new(wish: &Wish<'_>, input: &Input) -> Result<Destination> {
        let kept = kept(wish, input);
        if wish.form {
            return Ok(Destination::Form(Sink::new(wish.output, &kept)?));
        }
        match wish.output {
            None if wish.plan_only => Ok(Destination::Summary),
            Some(_) if wish.plan_only => {
                let message = "`--plan-only` writes no file, so that `-o` has no meaning";
                Err(Error::new(ErrorKind::Usage, message)
                    .help("leave `-o` away, or name what to write with `--emit`"))
            }
            None => Ok(Destination::Artefact(Target::new(&beside(wish.input, input), &kept)?)),
            Some(path) if path == Path::new("-") => {
                let message = "an artefact cannot go to standard output";
                Err(Error::new(ErrorKind::Usage, message)
                    .help("name a file with `-o`; `./-` is one of that name"))
            }
            Some(path) => Ok(Destination::Artefact(Target::new(path, &kept)?)),
        }
    }
}

/// The folder for the passes' dumps. Errors: those of [`Folder::new`]; one of its files is what `-o` names.
pub fn folder(path: Option<&Path>, wish: &Wish<'_>, input: &Input) -> Result<Option<Folder>> {
    let Some(path) = path else { return Ok(None) };
    let names = dumps::names();
    let same = |output: &Path| {
        let (folder, of) = (std::fs::canonicalize(path), output.parent().map(std::fs::canonicalize));
        let one_of = output.file_name().is_some_and(|name| names.iter().any(|own| name == own.as_str()));
        one_of && of.is_some_and(|of| matches!((folder, of), (Ok(a), Ok(b)) if a == b))
    };
    if let Some(output) = wish.output.filter(|output| same(output)) {
        let message = format!("{} is a file of `--dump-dir`, and what `-o` names", place(output));
        return Err(Error::new(ErrorKind::Usage, message).help("name another file with `-o`"));
    }
    Ok(Some(Folder::new(path, names, &kept(wish, input))?))
}

/// NAME.hyc beside the input.
fn beside(path: &Path, input: &Input) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).join(format!("{}.hyc", input.graph.header.name))
}

fn kept(wish: &Wish<'_>, input: &Input) -> Kept {
    let mut kept = Kept::of_process();
    keep_model(&mut kept, wish.input, Some(input));
    wish.files.iter().for_each(|(what, path)| keep(&mut kept, what, path));
    keep_program(&mut kept);
    kept
}

/// Keeps a model, and the files that its description names; without an input it is an artefact.
pub fn keep_model(kept: &mut Kept, path: &Path, input: Option<&Input>) {
    kept.add(
        match input.map(|input| input.desc.is_some()) {
            Some(true) => "the description",
            Some(false) => "the dump",
            None => "the artefact",
        },
        path,
    );
    if let Some(desc) = input.and_then(|input| input.desc.as_ref()) {
        keep_files(kept, desc);
    }
}

/// Keeps the files that a description names.
pub fn keep_files(kept: &mut Kept, desc: &ModelDesc) {
    desc.weights.files.iter().for_each(|path| keep(kept, WEIGHTS, path));
    desc.tokenizer.file.iter().for_each(|path| keep(kept, TOKENIZER, path));
    if let Some(TemplateSource::File(path)) = &desc.tokenizer.chat_template {
        keep(kept, "the chat template", path);
    }
}

/// Keeps this program.
pub fn keep_program(kept: &mut Kept) {
    if let Ok(program) = std::env::current_exe() {
        kept.add("the program", &program);
    }
}

/// Keeps a file, and what stands beside it and belongs to it.
fn keep(kept: &mut Kept, what: &str, path: &Path) {
    kept.add(what, path);
    if what == WEIGHTS {
        crate::source::shards(path).iter().for_each(|shard| kept.add(what, shard));
    }
    if what == TOKENIZER {
        let neighbours = NEIGHBOURS.map(|name| path.with_file_name(name));
        neighbours.iter().for_each(|path| kept.add("beside the tokenizer:", path));
    }
}

/// What a weight file is called where it may not be replaced.
pub const WEIGHTS: &str = "the weight file";
/// What a tokenizer is called there.
pub const TOKENIZER: &str = "the tokenizer";
