//! Blocks of a GGUF file that are groups of a codec stay as they are: `hyc import --dtype stored`, the artefact's weights number by
//! number, and what is said of blocks that are damaged.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::hyc_binary;
use hyc::frontend::parse_model;
use hyc::interp::Interpreter;
use hyc::source::{Block, Rows, TensorSource, WeightSource};
use hyc_plan::pack::{Packer, load_row};
use hyc_plan::{Codec, Format, Layout};
use hyc_runtime::{LoadOptions, Model, Session, SessionOptions};
use hyc_tests::gguf::one_tensor;
use hyc_tests::parity::{run, tokens};
use hyc_tests::stored::{artefact, check, same, source};
use hyc_tests::{Golden, relative_error, root};
use safetensors::SafeTensors;

fn hyc(args: &[&str]) -> Output {
    Command::new(hyc_binary()).args(args).output().expect("hyc runs")
}

fn gguf(name: &str) -> PathBuf {
    root().join(format!("tests/gguf/{name}.gguf"))
}

/// The description of a file, whose matrices stay, and what is said of them.
fn imported(file: &Path, folder: &Path) -> (String, String) {
    let description = folder.join("model.toml");
    let (from, to) = (file.to_str().unwrap(), description.to_str().unwrap());
    let output = hyc(&["import", from, "-o", to, "--dtype", "stored"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    (std::fs::read_to_string(description).unwrap(), said)
}

/// Each matrix that stays has, in the artefact's strips, the very numbers that the file's blocks stand for: with heads whose rows
/// stand otherwise there (llama), with tensors that are cut (phi3), and beside matrices that cannot stay.
#[test]
fn an_artefact_has_the_numbers_of_the_file() {
    for (name, codec) in [
        ("llama.Q4_0", "int4(32)"),
        ("llama.Q4_1", "int4z(32)"),
        ("llama.Q8_0", "int8(32)"),
        ("qwen2", "int8(32)"),
        ("phi3", "int8(32)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (description, said) = imported(&gguf(name), folder.path());
        assert!(
            said.contains(&format!(
                "matrices stay in their blocks, as {codec}; the others become bf16: 1 of "
            )),
            "{said}"
        );
        let count = check(&description, codec.parse().unwrap(), &folder.path().join("model.hyc"));
        // All but the table, which a head that is tied is, too.
        let desc = parse_model(Path::new("model.toml"), &description).unwrap();
        assert_eq!(count, 7 * desc.layers.len() + usize::from(!desc.tie_embeddings), "{name}");
    }
}

/// The logits of an artefact whose matrices stayed are those of the values that ggml's package reads.
#[test]
fn the_logits_are_those_of_the_values() {
    let golden = Golden::open(&root().join("tests/gguf/golden.safetensors"));
    for kind in ["Q4_0", "Q4_1", "Q8_0"] {
        let folder = tempfile::tempdir().unwrap();
        let (description, _) = imported(&gguf(&format!("llama.{kind}")), folder.path());
        // The table has no codec of groups.
        let description = description.replace("dtype = \"bf16\"", "dtype = \"f32\"");
        let out = folder.path().join("model.hyc");
        artefact(&description, &out);
        // SAFETY: made here, and nobody changes it.
        let model = std::sync::Arc::new(unsafe { Model::load(&out, &LoadOptions::default()) }.unwrap());
        let options = SessionOptions { threads: Some(1), ..SessionOptions::default() };
        let mut session = Session::with_kernels(model, Box::new(Interpreter), &options).unwrap();
        let ours = run(&mut session, &tokens(&golden)).unwrap().logits;
        let (_, theirs) = golden.f32(&format!("logits.{kind}")).unwrap();
        let error = relative_error(&ours, &theirs);
        assert!(error < 1.6e-6, "{kind}: logits differ by {error:.2e}");
    }
}

/// Blocks of random bits in every layout that packing knows are the numbers that ggml's package says.
#[test]
fn blocks_are_packed_as_what_ggml_says() {
    let golden = std::fs::read(root().join("tests/gguf/blocks.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, kind, codec) in [("Q4_0", 2, "int4(32)"), ("Q4_1", 3, "int4z(32)"), ("Q8_0", 8, "int8(32)")] {
        let codec: Codec = codec.parse().unwrap();
        let bytes = golden.tensor(&format!("{name}.bytes")).unwrap().data().to_vec();
        let values = golden.tensor(&format!("{name}.values")).unwrap();
        let want: Vec<f32> =
            values.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let path = folder.path().join(name);
        let (rows, cols) = (want.len() as u64 / 32, 32);
        std::fs::write(&path, one_tensor(kind, [rows, cols], &bytes)).unwrap();
        let source = WeightSource::open(&[path]).unwrap();
        for layout in [
            Layout::Strips { count: 1, out_features: rows, in_features: cols },
            Layout::Panels { count: 1, out_features: rows, in_features: cols, group: rows },
            Layout::Rows { rows, cols },
        ] {
            let format = Format { codec, layout };
            let (mut packer, mut packed) = (Packer::new(format), Vec::new());
            let (mut block, mut numbers) = (Block::default(), Vec::new());
            for (first, count) in layout.bands() {
                match source.rows("t", codec, (cols, first, count), &mut block, &mut numbers).unwrap() {
                    Rows::Codes(codes, shared) => packer.push_codes(&codes, &shared, &mut packed),
                    Rows::Numbers(_) => panic!("{name} is converted"),
                }
            }
            packer.finish(&mut packed);
            assert_eq!(packed.len() as u64, format.bytes(), "{format:?}");
            let found: Vec<f32> = (0..rows).flat_map(|row| load_row(format, &packed, row, cols)).collect();
            assert!(same(&found, &want), "{format:?}");
        }
    }
}

/// What another codec asks for is encoded anew, and so is a matrix that is multiplied.
#[test]
fn only_the_codec_itself_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (description, _) = imported(&gguf("llama.Q8_0"), folder.path());
    let scaled = description
        .replace("[weights.formats]", "[weights.scale]\n\"output.weight\" = 0.5\n\n[weights.formats]");
    let (mut block, mut numbers) = (Block::default(), Vec::new());
    let mut taken = |source: &WeightSource, codec: &str| {
        let rows =
            source.rows("lm_head.weight", codec.parse().unwrap(), (32, 0, 4), &mut block, &mut numbers);
        matches!(rows.unwrap(), Rows::Codes(..))
    };
    let plain = source(&description);
    assert!(taken(&plain, "int8(32)"));
    assert!(!taken(&plain, "int8(16)") && !taken(&plain, "int4(32)") && !taken(&plain, "fp8(32)"));
    assert!(!taken(&source(&scaled), "int8(32)"));
}

/// Number, name and bytes of the types of blocks of 32.
const TYPES: [(u8, &str, usize); 4] = [(2, "Q4_0", 18), (3, "Q4_1", 20), (6, "Q5_0", 22), (8, "Q8_0", 34)];

/// Where a tensor's type stands in a file, where its bytes begin, and the bytes of its blocks of 32.
fn place(file: &[u8], name: &str) -> (usize, usize, usize) {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let named = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    let mut at = file.windows(named.len()).position(|bytes| bytes == named).unwrap();
    let (mut of, mut begin, mut size) = (0, 0, 0);
    // The list of tensors ends where a name would be empty, or long.
    while (1..64).contains(&word(at)) {
        let dims = at + 8 + word(at) as usize;
        let kind = dims + 4 + 8 * file[dims] as usize;
        if size == 0 {
            size = TYPES.iter().find(|(number, ..)| *number == file[kind]).unwrap().2;
            (of, begin) = (kind, word(kind + 4) as usize);
        }
        at = kind + 12;
    }
    (of, at.next_multiple_of(32) + begin, size)
}

/// Blocks whose scales are none are one error that names them; a file of which some rows were never written is found out.
#[test]
fn damaged_blocks_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.gguf");
    let said = |name: &str, block: u64, with: &[u8], format: &str| {
        let whole = std::fs::read(gguf(&format!("llama.{name}"))).unwrap();
        let (_, begin, size) = place(&whole, "blk.1.attn_k.weight");
        let at = begin + block as usize * size;
        let bytes = [&whole[..at], with, &whole[at + with.len()..]].concat();
        std::fs::write(&path, bytes).unwrap();
        let (description, _) = imported(&path, folder.path());
        let name = "\"model.layers.{i}.self_attn.k_proj.weight\" = ";
        let line = description.lines().find(|line| line.starts_with(name)).unwrap().to_string();
        let changed = if format.is_empty() { line.clone() } else { format!("{name}\"{format}\"") };
        let model = folder.path().join("changed.toml");
        std::fs::write(&model, description.replace(&line, &changed)).unwrap();
        let output = hyc(&["check", "--weights", model.to_str().unwrap()]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let refused = |name: &str, block, with: &[u8], format: &str, words: &[&str]| {
        let (code, err) = said(name, block, with, format);
        assert_eq!(code, Some(3), "{name} {block} {format:?} {with:?}: {err}");
        for word in
            ["error: tensor `blk.1.attn_k.weight` in ", "damaged.gguf has ", "help: "].iter().chain(words)
        {
            assert!(err.contains(word), "{name}: no {word:?} in {err}");
        }
    };
    // As f16 has them.
    let [nan, infinite, zero, one, least] =
        [0x7e00u16, 0x7c00, 0, 0x3c00, 0xfc00].map(|bits| bits.to_le_bytes());
    for (name, format) in [("Q4_0", ""), ("Q4_1", ""), ("Q8_0", ""), ("Q8_0", "bf16"), ("Q4_1", "int8(64)")] {
        // A row is a block.
        refused(
            name,
            5,
            &nan,
            format,
            &["the scale NaN in the block from row 5, column 0 on", "quantise the weights again"],
        );
        refused(name, 0, &infinite, format, &["the scale inf in the block from row 0, column 0 on"]);
    }
    refused(
        "Q4_1",
        2,
        &[one, least].concat(),
        "",
        &["the least value -inf in the block from row 2, column 0 on"],
    );
    for name in ["Q4_0", "Q4_1", "Q8_0"] {
        let words = [
            "a scale of 0, and codes that it makes nothing of, in the block from row 3, column 0 on",
            "gives this matrix bf16",
        ];
        refused(name, 3, &zero, "", &words);
        // As the help says.
        assert_eq!(said(name, 3, &zero, "bf16").0, Some(0), "{name}");
    }
    // Bytes of nothing: the smallest number of Q4_0's, and 0 of the others'.
    refused("Q4_0", 3, &[0; 18], "", &["a scale of 0"]);
    for (name, block) in
        [("Q4_1", &[0; 20][..]), ("Q8_0", &[0; 34]), ("Q4_0", &[&[0, 0x80][..], &[0x88; 16]].concat())]
    {
        let (code, err) = said(name, 3, block, "");
        assert_eq!(code, Some(0), "{name}: {err}");
    }
}

/// A file of several types: each matrix stays as it can, those of a layer that need one format have it, and their numbers are the
/// file's.
#[test]
fn a_file_of_several_types_stays_as_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(gguf("llama.Q8_0")).unwrap();
    for (name, kind, blocks) in [
        ("output.weight", "Q4_0", 64),
        ("blk.0.ffn_down.weight", "Q4_1", 64),
        ("blk.1.attn_v.weight", "Q5_0", 16),
    ] {
        // Smaller blocks in the place of the tensor's, with codes of any bits; scale and least value are 1/16 and a bit.
        let (at, begin, _) = place(&bytes, name);
        let (number, _, size) = TYPES.into_iter().find(|(_, name, _)| *name == kind).unwrap();
        bytes[at] = number;
        for (i, block) in bytes[begin..begin + blocks * size].chunks_mut(size).enumerate() {
            block.iter_mut().zip(i..).for_each(|(byte, j)| *byte = (j * 37) as u8);
            [block[1], block[3]] = [0x2c; 2];
        }
    }
    // Beside the description its name would be relative.
    let elsewhere = tempfile::tempdir().unwrap();
    let path = elsewhere.path().join("mixed.gguf");
    std::fs::write(&path, bytes).unwrap();
    let (description, said) = imported(&path, folder.path());
    for line in [
        "q, k and v, or gate and up, of layers 1 are of several types, and become bf16",
        "12 of 16 matrices stay in their blocks, as int4(32), int4z(32), int8(32); the others become bf16: 1 of Q5_0, 3 of Q8_0",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let lines = [
        "\"lm_head.weight\" = \"int4(32)\"\n\"model.layers.1.mlp.down_proj.weight\" = \"int8(32)\"\n\
         \"model.layers.{i}.mlp.down_proj.weight\" = \"int4z(32)\"\n",
        "\"model.layers.1.self_attn.v_proj.weight\" = \"bf16\"\n\"model.layers.{i}.self_attn.v_proj.weight\" = \"int8(32)\"\n",
    ];
    lines.iter().for_each(|lines| assert!(description.contains(lines), "{description}"));
    let counts = ["int4(32)", "int4z(32)", "int8(32)"]
        .map(|codec| check(&description, codec.parse().unwrap(), &folder.path().join("mixed.hyc")));
    assert_eq!(counts, [1, 1, 10]);
}

#[test]
fn a_folder_has_no_blocks() {
    let folder = root().join("tests/families/llama");
    let output = hyc(&["import", folder.to_str().unwrap(), "-o", "-", "--dtype", "stored"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && err.contains("`--dtype stored` is of GGUF files"), "{err}");
}
