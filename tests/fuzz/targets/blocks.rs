//! A GGUF file whose one tensor has any blocks: read for any codec it gives finite numbers, its own codes, which stand for the same
//! numbers, or one error that names the tensor.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use hyc::source::{Block, Rows, Stored, TensorSource, WeightSource};
use hyc_fuzz::choices::Choices;
use hyc_plan::{Codec, Shared};
use hyc_tests::gguf::one_tensor;
use libfuzzer_sys::fuzz_target;

/// A folder for the file.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder")).path()
}

fn codec(choose: &mut Choices<'_>, own: Option<Codec>) -> Codec {
    let group = choose.of(&[16, 32, 33, 64, u32::MAX]);
    match choose.byte() % 8 {
        0 => Codec::F32,
        1 => Codec::Bf16,
        2 => Codec::Int8 { group },
        3 => Codec::Fp8 { group },
        4 => Codec::Int4 { group, zero: true },
        5 => Codec::Int4 { group, zero: false },
        _ => own.unwrap_or(Codec::F32),
    }
}

/// Codes and what they share are the numbers of the blocks, but for a zero's sign.
fn check_codes(codec: Codec, block: &Block, codes: &[u8], shared: &[Shared]) {
    let mut numbers = Vec::new();
    block.to_f32(&mut numbers);
    let wide = codec.code_bits().div_ceil(8) as usize;
    assert_eq!(codes.len(), numbers.len() * wide);
    for (at, x) in numbers.iter().enumerate() {
        let shared = match codec.group() {
            Some(group) => {
                let shared = shared[at / group as usize];
                codec.shared_of_bytes(&codec.shared_to_bytes(shared))
            }
            None => Shared::NONE,
        };
        let found = codec.decode(&codes[at * wide..], shared);
        assert!(x.is_finite() && (found + 0.0).to_bits() == (x + 0.0).to_bits(), "{codec}: {found}, not {x}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let choose = &mut Choices::by(bytes);
    let kind = choose.of(&[0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 30]);
    let stored = Stored::of(kind).expect("is read");
    let (rows, blocks) = (choose.count(8), choose.count(6));
    let codec = codec(choose, stored.codec());
    let cols = blocks * stored.elements();
    let mut data: Vec<u8> = (0..rows * blocks * stored.bytes()).map(|_| choose.byte()).collect();
    for block in data.chunks_exact_mut(stored.bytes() as usize).filter(|block| block.len() > 4) {
        // As some type has its scale or its least value: infinite, no number, zeros, the smallest and the largest.
        if choose.byte() < 24 {
            let at = choose.of(&[0, 2, 80, 82, 108, 208]) % (block.len() - 1);
            let half: u16 = choose.of(&[0x7c00, 0xfc00, 0x7e00, 0, 0x8000, 1, 0x7bff]);
            block[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
    }
    let path = folder().join("fuzzed.gguf");
    std::fs::write(&path, one_tensor(kind, [rows, cols], &data)).expect("is written");
    let source = WeightSource::open(&[path]).expect("is a file");
    let (mut block, mut numbers) = (Block::default(), Vec::new());
    for row in 0..rows {
        let coded = match source.rows("t", codec, (cols, row, 1), &mut block, &mut numbers) {
            Ok(Rows::Numbers(numbers)) => {
                assert!(numbers.len() as u64 == cols && numbers.iter().all(|x| codec.takes(*x)));
                None
            }
            Ok(Rows::Codes(codes, shared)) => Some((codes.into_owned(), shared)),
            Err(error) => {
                assert!(error.message.starts_with("tensor `t` in ") && error.help.is_some(), "{error:?}");
                continue;
            }
        };
        if let Some((codes, shared)) = coded {
            check_codes(codec, &block, &codes, &shared);
        }
    }
});
