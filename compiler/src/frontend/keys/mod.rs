//! Every section and key of `model.toml`: what the reader takes, and what is said of it.
//!
//! The reader refuses what stands not here; `docs/model-toml.md`, `hyc schema` and `hyc explain` are made from it.

mod attention;
mod eval;
mod markdown;
mod model;
mod others;
mod sampling;
mod schema;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod tests;

use hyc_plan::sampling::Range;

use super::desc::{LayerDesc, ModelDesc};

/// A size above this is a slip of the pen; products of four sizes still fit in 128 bits, and those that
/// matter in 64.
pub const MAX_SIZE: i64 = 1 << 24;

pub use attention::{ATTENTION, SPARSE_HEADS};
pub use eval::EVAL;
pub use markdown::markdown;
pub use model::{MODEL, ROPE};
pub use others::{MOE, TARGET, TOKENIZER, WEIGHTS};
pub use sampling::SAMPLING;
pub use schema::schema;

/// All sections, in the order of a description.
pub const SECTIONS: &[&SectionKeys] =
    &[&MODEL, &ATTENTION, &MOE, &WEIGHTS, &TOKENIZER, &SAMPLING, &EVAL, &TARGET];

/// A section.
#[derive(Debug)]
pub struct SectionKeys {
    /// Name, without brackets.
    pub name: &'static str,
    /// Whether a description must have it.
    pub required: bool,
    /// What it is for.
    pub meaning: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// What its value is.
    pub ty: Type,
    /// What holds where it is left out.
    pub default: Default,
    /// A value, as TOML.
    pub example: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// The mathematics that it is part of.
    pub formula: Option<Formula>,
    /// The tensors whose presence or shape it decides.
    pub tensors: &'static [Tensor],
}

/// What most keys have not.
pub const PLAIN: Key = Key {
    name: "",
    ty: Type::Flag,
    default: Default::Required,
    example: "",
    meaning: "",
    formula: None,
    tensors: &[],
};

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// An integer from this to [`MAX_SIZE`].
    Integer(i64),
    /// An integer from the first to the second.
    Between(i64, i64),
    /// A multiple of the first, at most the second.
    Multiple(i64, i64),
    /// A number above zero, and finite, as an f32.
    Positive,
    /// A list, not empty, of such numbers.
    Positives,
    /// A setting of sampling, both ends of its range included.
    Within(Range),
    /// An integer from 0 to the largest that TOML has.
    Seed,
    /// true or false.
    Flag,
    /// A string.
    Text,
    /// A string of letters, digits, `.`, `_` and `-`.
    Name,
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A list, not empty, of file names.
    Files,
    /// A list, not empty, of names with wildcards.
    Patterns,
    /// A table from names with wildcards to such names.
    Renames,
    /// A table from names with wildcards to lists of such names, each with a number of rows.
    Splits,
    /// A table from names with wildcards to numbers above zero.
    Scales,
    /// A table from names with wildcards to formats.
    Formats,
    /// A list of layers, ascending.
    Layers,
    /// A token's spelling or number.
    Token,
    /// The same, or a list of such.
    Tokens,
    /// true, false or "auto".
    Switch,
    /// An inline table with these keys.
    Table(&'static SectionKeys),
}

/// What holds where a key is left out.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// Nothing: it must be there.
    Required,
    /// It must be there in some descriptions: in which.
    Needed(&'static str),
    /// This value, as TOML.
    Value(&'static str),
    /// Something that depends on other keys.
    Otherwise(&'static str),
}

/// Mathematics with its source.
#[derive(Debug)]
pub struct Formula {
    /// In plain letters.
    pub text: &'static str,
    /// Paper and place.
    pub source: &'static str,
}

/// A tensor of the weight files.
#[derive(Debug)]
pub struct Tensor {
    /// Name; `{i}` is the layer.
    pub name: &'static str,
    /// Dims: products of keys of `[model]`, `[moe]` and `[attention]`.
    pub shape: &'static [&'static str],
    /// Its element type in the artefact.
    pub dtype: Dtype,
    /// Which layers have it, or which models.
    pub place: &'static str,
    /// Whether this model has it in this layer; for one without `{i}`, whichever layer it is.
    pub present: fn(&ModelDesc, &LayerDesc) -> bool,
}

/// Element type of a tensor in the artefact; files may have F32, F16 or BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// `dtype` of `[weights]`.
    Matrix,
    /// f32, whatever `dtype` says.
    F32,
}

impl SectionKeys {
    /// The names of its keys.
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// A key by its name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A section by its name.
pub fn section(name: &str) -> Option<&'static SectionKeys> {
    SECTIONS.iter().copied().find(|section| section.name == name)
}

/// The sections that have a key of that name.
pub fn homes(key: &str) -> Vec<&'static SectionKeys> {
    SECTIONS.iter().copied().filter(|section| section.key(key).is_some()).collect()
}

impl Type {
    /// What it is, in a few words of Markdown.
    pub fn words(&self) -> String {
        match self {
            Type::Integer(least) => format!("integer, {least} to {MAX_SIZE}"),
            Type::Between(least, most) => format!("integer, {least} to {most}"),
            Type::Multiple(of, most) => format!("multiple of {of}, at most {most}"),
            Type::Positive => "number above 0".to_string(),
            Type::Positives => "list of numbers above 0".to_string(),
            Type::Within(Range { least, most, whole: true, .. }) => format!("integer, {least} to {most}"),
            Type::Within(Range { least, most, .. }) => format!("number, {least} to {most}"),
            Type::Seed => "integer from 0".to_string(),
            Type::Flag => "`true` or `false`".to_string(),
            Type::Text => "string".to_string(),
            Type::Name => "string of letters, digits, `.`, `_` and `-`".to_string(),
            Type::Word(words) => {
                let list: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                list.join(", ")
            }
            Type::Files => "list of file names".to_string(),
            Type::Patterns => "list of names with wildcards".to_string(),
            Type::Renames => "table from names to names, with wildcards".to_string(),
            Type::Scales => "table from names to numbers above 0, with wildcards".to_string(),
            Type::Formats => "table from names to formats, with wildcards".to_string(),
            Type::Splits => "table from names to lists of names with their rows, with wildcards".to_string(),
            Type::Layers => "list of layers, ascending".to_string(),
            Type::Token => "spelling or number of a token".to_string(),
            Type::Tokens => "spelling or number of a token, or a list of such".to_string(),
            Type::Switch => "`true`, `false` or `\"auto\"`".to_string(),
            Type::Table(section) => {
                let (needed, others): (Vec<&Key>, Vec<&Key>) =
                    section.keys.iter().partition(|key| matches!(key.default, Default::Required));
                let needed: Vec<String> = needed.iter().map(|key| format!("`{}`", key.name)).collect();
                format!("table with {}; {} keys may be left out", needed.join(" and "), others.len())
            }
        }
    }
}

impl Default {
    /// What it is, in a few words of Markdown.
    pub fn words(&self) -> String {
        match self {
            Default::Required => "required".to_string(),
            Default::Needed(when) => format!("required {when}"),
            Default::Value(value) => format!("`{value}`"),
            Default::Otherwise(what) => what.to_string(),
        }
    }
}

impl Dtype {
    /// What it is, in a few words of Markdown.
    pub fn words(self) -> &'static str {
        match self {
            Dtype::Matrix => "`dtype` of `[weights]`",
            Dtype::F32 => "f32",
        }
    }
}

impl Tensor {
    /// Its shape, as in `[heads * v_head_dim, hidden]`.
    pub fn dims(&self) -> String {
        format!("[{}]", self.shape.join(", "))
    }
}
