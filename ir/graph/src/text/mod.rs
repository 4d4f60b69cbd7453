//! The text form: what every dump is, and what every dump can be read back from.
//!
//! ```text
//! graph "tiny" {
//!   layers = 9, hidden = 256, vocab = 4096, max_context = 4096, max_batch = 4, chunk = 256, max_outputs = 4, target = cpu
//! }
//! @model.embed_tokens.weight = weight() : weight<4096 x 256 x bf16>
//! %x = embed(@model.embed_tokens.weight) : tensor<tokens x 256 x f32>
//! %L0.kv, %L0.sel = some_op(%x) {heads = 8} layer 0 chain 0 : type, type
//! output(%logits)
//! ```
//! One op per line; `;` starts a comment. Weights are written `@name`, all other values `%name`. A line
//! `weights "model.layers.{i}.norm.weight" layer 0-8 : weight<256 x f32>` stands for the ops of these weights. The parser
//! accepts uses before definitions and double definitions: they are the verifier's to report. Of several graphs
//! in one text, as of several passes, the last one counts.

mod cursor;
mod fault;
mod header;
mod layers;
mod lex;
mod listed;
mod nearest;
mod notes;
mod parse;
mod print;
mod types;

pub use fault::{MAX_OPS, ParseError};
pub use layers::Layers;
pub use listed::pattern;
pub use nearest::{LONG_WORD, distance, nearest};
pub use parse::parse;
pub use print::{Style, print, print_as};

/// Whether a model may have this name, which becomes a file's: 1 to 100 letters, digits, `.`, `_` and `-`,
/// without a point in front.
pub fn is_model_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.chars().all(ok)
}
