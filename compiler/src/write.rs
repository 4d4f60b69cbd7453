//! Writing artefacts: weights are packed and streamed, and the header is filled in at the end.

use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};

use hyc_plan::artefact::{
    ALIGN, ASM, CODE, CUBIN, EVAL_KEY, GRAPH, HASH_KEY, NO_HASH, NO_WEIGHTS, PAD, PLAN_KEY, ROOT_KEY,
    SAMPLING_KEY, TEXT_KEY, TOKENIZER, TREE, VERSION, VERSION_KEY, WEIGHTS_KEY, digest, hex,
};
use hyc_plan::eval::EvalGates;
use hyc_plan::sampling::SamplingDefaults;
use hyc_plan::{Plan, Weight, WeightId};
use hyc_runtime::{Machine, Model};

use crate::error::{Error, ErrorKind, Result};
use crate::output::{Target, Whole};
use crate::packing::packed;
use crate::source::Weights;
use crate::text::Text;
use crate::tree::{self, Tree};

/// What goes into an artefact beside the weights.
pub struct Artefact<'a> {
    /// The plan, with the kernels' places in the code.
    pub plan: &'a Plan,
    /// The code.
    pub code: &'a [u8],
    /// A GPU's machine code beside its PTX.
    pub cubin: Option<&'a [u8]>,
    /// The scheduled graph's text.
    pub graph: &'a str,
    /// The kernels' disassembly.
    pub asm: &'a str,
    /// The tokenizer, with what the model wants of its text.
    pub text: Option<&'a Text>,
    /// How tokens are chosen where nobody says otherwise; `None`: greedily.
    pub sampling: Option<SamplingDefaults>,
    /// What must hold of the model on a text.
    pub eval: Option<EvalGates>,
}

impl<'a> Artefact<'a> {
    /// A plan and its code, with nothing beside.
    pub fn bare(plan: &'a Plan, code: &'a [u8]) -> Artefact<'a> {
        Artefact { plan, code, cubin: None, graph: "", asm: "", text: None, sampling: None, eval: None }
    }
}

/// The plan as JSON.
pub fn plan_json(plan: &Plan, pretty: bool) -> Result<String> {
    let json = if pretty {
        serde_json::to_string_pretty(plan).map(|s| s + "\n")
    } else {
        serde_json::to_string(plan)
    };
    json.map_err(|e| Error::new(ErrorKind::Internal, format!("the plan does not serialise: {e}")))
}

/// Bytes that packed weights are copied in.
const PIECE: usize = 1 << 20;

/// One tensor of the file.
struct Entry<'a> {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
    content: Content<'a>,
}

enum Content<'a> {
    Weight(WeightId, &'a Weight),
    Bytes(&'a [u8]),
    Zeros,
    /// The digests of all before it.
    Tree,
}

/// Writes an artefact and returns its size. `progress` gets the bytes of each piece as it is written and
/// may end the writing with an error.
pub fn artefact(
    target: &Target,
    artefact: &Artefact<'_>,
    weights: &Weights,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    artefact_stating(target, artefact, artefact.plan, weights, progress)
}

/// The same, whose header states another plan than the one that its tensors are of: what a loader has to refuse.
pub fn artefact_stating(
    target: &Target,
    artefact: &Artefact<'_>,
    stated: &Plan,
    weights: &Weights,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<u64> {
    let mut whole = Whole::create(target)?;
    let fail = |e| Error::io("write", target.path(), e);
    let size = write(&mut whole, artefact, stated, weights, progress, &fail)?;
    whole.finish()?;
    Ok(size)
}

/// An artefact in memory, for a program to be linked with. Errors: those of the weights.
pub fn artefact_bytes(
    artefact: &Artefact<'_>,
    weights: &Weights,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let fail =
        |e: io::Error| Error::new(ErrorKind::Resource, format!("cannot keep the artefact in memory: {e}"));
    write(&mut bytes, artefact, artefact.plan, weights, progress, &fail)?;
    Ok(bytes.into_inner())
}

fn write(
    mut to: impl Write + Seek,
    artefact: &Artefact<'_>,
    stated: &Plan,
    weights: &Weights,
    progress: &mut dyn FnMut(u64) -> Result<()>,
    fail: &dyn Fn(io::Error) -> Error,
) -> Result<u64> {
    let absent = matches!(weights, Weights::Absent);
    let entries = entries(artefact, absent);
    let to_pack = match weights {
        Weights::Packed(model) if model.plan().weights != artefact.plan.weights => {
            return Err(Error::new(ErrorKind::Internal, "these weights are of another plan"));
        }
        Weights::Packed(_) | Weights::Absent => &[][..],
        Weights::Files(_) | Weights::Random { .. } => &artefact.plan.weights,
    };
    let blank = header(&entries, artefact, stated, absent, NO_HASH, NO_HASH)?;
    let mut out = BufWriter::with_capacity(1 << 20, &mut to);
    out.write_all(&blank).map_err(fail)?;
    let (mut size, mut tree) = (blank.len() as u64, Tree::default());
    packed(to_pack, weights, Machine::here().cores(), |stream| {
        for entry in &entries {
            let mut sink = |piece: &[u8]| {
                tree.update(piece);
                out.write_all(piece).map_err(fail)
            };
            let mut weight_sink = |piece: &[u8]| {
                sink(piece)?;
                progress(piece.len() as u64)
            };
            match (&entry.content, weights) {
                (Content::Weight(id, _), Weights::Packed(model)) => copy(model, *id, &mut weight_sink)?,
                (Content::Weight(_, weight), _) => stream.weight(weight, &mut weight_sink)?,
                (Content::Bytes(bytes), _) => sink(bytes)?,
                (Content::Zeros, _) => sink(&vec![0; entry.bytes as usize])?,
                (Content::Tree, _) => out.write_all(tree.leaves()).map_err(fail)?,
            }
            tree.end_tensor();
            size += entry.bytes;
        }
        Ok(())
    })?;
    out.flush().map_err(fail)?;
    drop(out);
    let root = hex(&digest(tree.leaves()));
    let unsigned = header(&entries, artefact, stated, absent, &root, NO_HASH)?;
    let hash = hex(&digest(&unsigned[8..]));
    let signed = header(&entries, artefact, stated, absent, &root, &hash)?;
    to.seek(SeekFrom::Start(0)).map_err(fail)?;
    to.write_all(&signed).map_err(fail)?;
    Ok(size)
}

/// Hands on a weight that is packed already. Errors: those of the model and of `sink`.
fn copy(model: &Model, id: WeightId, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    let copied = model.weight_pieces(id, PIECE, &mut |piece| {
        result = sink(piece);
        let ended = || hyc_runtime::Error::new(hyc_runtime::ErrorKind::Cancelled, "writing ended");
        result.as_ref().copied().map_err(|_| ended())
    });
    result.and(copied.map_err(Error::from))
}

/// Every tensor in file order, with what keeps the next one aligned. `absent`: no weights.
fn entries<'a>(artefact: &Artefact<'a>, absent: bool) -> Vec<Entry<'a>> {
    let mut list: Vec<Entry<'a>> = Vec::new();
    let mut push = |entry: Entry<'a>| {
        let pad = entry.bytes.next_multiple_of(ALIGN) - entry.bytes;
        list.push(entry);
        if pad > 0 {
            let name = format!("{PAD}{}", list.len());
            list.push(Entry {
                name,
                dtype: "U8",
                shape: vec![pad as usize],
                bytes: pad,
                content: Content::Zeros,
            });
        }
    };
    for (id, weight) in (0u32..).zip(&artefact.plan.weights).filter(|_| !absent) {
        let (dtype, shape) = weight.format.stored();
        push(Entry {
            name: weight.name.clone(),
            dtype,
            shape: shape.into_iter().map(|dim| dim as usize).collect(),
            bytes: weight.bytes(),
            content: Content::Weight(WeightId(id), weight),
        });
    }
    let blobs = [
        (CODE, Some(artefact.code)),
        (CUBIN, artefact.cubin),
        (GRAPH, Some(artefact.graph.as_bytes())),
        (ASM, Some(artefact.asm.as_bytes())),
        (TOKENIZER, artefact.text.map(|text| text.tokenizer.as_slice())),
    ];
    for (name, bytes) in blobs {
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else { continue };
        push(Entry {
            name: name.to_string(),
            dtype: "U8",
            shape: vec![bytes.len()],
            bytes: bytes.len() as u64,
            content: Content::Bytes(bytes),
        });
    }
    let bytes = tree::bytes(list.iter().map(|entry| entry.bytes));
    let (name, shape) = (TREE.to_string(), vec![bytes as usize]);
    list.push(Entry { name, dtype: "U8", shape, bytes, content: Content::Tree });
    list
}

/// The file's beginning: length and header, padded so that the data is aligned. Its length does not depend
/// on the root's or the hash's digits.
fn header(
    entries: &[Entry<'_>],
    artefact: &Artefact<'_>,
    stated: &Plan,
    absent: bool,
    root: &str,
    hash: &str,
) -> Result<Vec<u8>> {
    let mut metadata = serde_json::json!({
        VERSION_KEY: VERSION.to_string(),
        PLAN_KEY: plan_json(stated, false)?,
        ROOT_KEY: root,
        HASH_KEY: hash,
    });
    if absent {
        metadata[WEIGHTS_KEY] = NO_WEIGHTS.into();
    }
    if let Some(sampling) = &artefact.sampling {
        let json =
            sampling.to_json().map_err(|e| Error::new(ErrorKind::Internal, format!("[sampling]: {e}")))?;
        metadata[SAMPLING_KEY] = json.into();
    }
    if let Some(eval) = &artefact.eval {
        let json = eval.to_json().map_err(|e| Error::new(ErrorKind::Internal, format!("[eval]: {e}")))?;
        metadata[EVAL_KEY] = json.into();
    }
    if let Some(text) = artefact.text {
        metadata[TEXT_KEY] = serde_json::json!(text.settings).to_string().into();
    }
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".to_string(), metadata);
    let mut at = 0;
    for entry in entries {
        let place = serde_json::json!({
            "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, at + entry.bytes],
        });
        map.insert(entry.name.clone(), place);
        at += entry.bytes;
    }
    let mut json = serde_json::Value::Object(map).to_string().into_bytes();
    json.resize((json.len() + 8).next_multiple_of(ALIGN as usize) - 8, b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    Ok(out)
}
