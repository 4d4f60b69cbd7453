//! What an artefact file is, for the compiler that writes it and the runtime that reads it.
//!
//! `NAME.hyc` is a valid safetensors file: eight bytes with the header's length N (little-endian), N bytes
//! of JSON, then the tensors' bytes without gaps. `8 + N` and every other tensor's offset are multiples of
//! [`ALIGN`]; spaces end the header, and tensors named [`PAD`]`I` fill up what is missing behind one. In the header's
//! `__metadata__`:
//!
//! * [`VERSION_KEY`]: the format's version, in decimal;
//! * [`PLAN_KEY`]: the Plan as JSON;
//! * [`ROOT_KEY`]: the digest of the bytes of the tensor [`TREE`], in hexadecimal;
//! * [`WEIGHTS_KEY`]: [`NO_WEIGHTS`] where the weights were left out: whoever loads the file makes them up;
//! * [`TEXT_KEY`]: [`crate::text_settings::TextSettings`] as JSON, beside a tokenizer;
//! * [`SAMPLING_KEY`]: the model's way of sampling as JSON, where it has one;
//! * [`EVAL_KEY`]: [`crate::eval::EvalGates`] as JSON, where the model has any;
//! * [`HASH_KEY`]: the digest of the N header bytes, with the 64 digits of this value itself written as
//!   zeros. So the hash covers the plan, every tensor's place and, through the tree, every byte.
//!
//! The last tensor, [`TREE`], has the digest of every [`LEAF`] of every other tensor (pads included; a tensor's last
//! leaf may be shorter), [`DIGEST`] bytes each, in the order of the file. So leaves can be checked in any order, by
//! many threads, when they are read. All digests are BLAKE3 ([`digest`]): with SHA-256, checking would take longer than a
//! GPU's bus takes for the bytes.
//!
//! Weights are named as in the Plan and hold their packed layout; beside them [`CODE`], and where the
//! compiler had them [`CUBIN`], [`TOKENIZER`], [`GRAPH`] and [`ASM`], as U8. Code carries the digests of what it was made
//! for: see [`crate::bind`].

/// The version that this build writes and reads.
pub const VERSION: u32 = 5;
/// Alignment of tensors in the file, in bytes.
pub const ALIGN: u64 = 64;
/// Metadata key of the version.
pub const VERSION_KEY: &str = "hyc.version";
/// Metadata key of the Plan.
pub const PLAN_KEY: &str = "hyc.plan";
/// Most bytes of a header, as in safetensors.
pub const MOST_HEADER: u64 = 100_000_000;
/// Bytes that a digest in the tree is of.
pub const LEAF: u64 = 1 << 20;
/// Bytes of a digest.
pub const DIGEST: usize = 32;
/// A digest: BLAKE3.
pub type Digest = [u8; DIGEST];
/// Metadata key of the tree's digest.
pub const ROOT_KEY: &str = "hyc.root";
/// Metadata key of the header's hash.
pub const HASH_KEY: &str = "hyc.hash";
/// Metadata key that says where the weights are; the file has them where there is no such key.
pub const WEIGHTS_KEY: &str = "hyc.weights";
/// Metadata key of what the model wants of its text.
pub const TEXT_KEY: &str = "hyc.text";
/// The value of [`WEIGHTS_KEY`] in a file without weights.
pub const NO_WEIGHTS: &str = "absent";
/// Metadata key of the model's own way of sampling
/// ([`SamplingDefaults`](crate::sampling::SamplingDefaults)); a file without it is greedy.
pub const SAMPLING_KEY: &str = "hyc.sampling";
/// Metadata key of what must hold of the model on a text ([`EvalGates`](crate::eval::EvalGates)); no runtime goes by it.
pub const EVAL_KEY: &str = "hyc.eval";
/// Tensor with the kernels' machine code.
pub const CODE: &str = "hyc.code";
/// Tensor with a GPU's machine code, beside its PTX in [`CODE`].
pub const CUBIN: &str = "hyc.cubin";
/// Tensor with tokenizer.json.
pub const TOKENIZER: &str = "hyc.tokenizer";
/// Tensor with the text of the scheduled graph.
pub const GRAPH: &str = "hyc.graph";
/// Tensor with the kernels' disassembly.
pub const ASM: &str = "hyc.asm";
/// Tensor with the digests of all others.
pub const TREE: &str = "hyc.tree";
/// How the names of padding tensors begin.
pub const PAD: &str = "hyc.pad.";
/// What stands for the hash while the header is hashed.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The digest of these bytes, by one thread.
pub fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// Bytes in hexadecimal digits, as digests stand in an artefact's metadata.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
