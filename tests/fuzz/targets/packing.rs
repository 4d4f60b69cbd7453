//! Packing: any shape, codec, layout and numbers. A format that is possible has as many bytes as it says, which is as many as a Plan
//! takes; each number is found again as its codec rounds it, and codes that come as such are found as they came.
#![no_main]

use hyc_fuzz::choices::Choices;
use hyc_plan::pack::{Packer, f16_to_f32, get, load_row, pack};
use hyc_plan::{Codec, Format, Layout, Shared};

/// Most numbers of a weight.
const MOST: u64 = 1 << 12;

fn format(choose: &mut Choices<'_>) -> Format {
    let group = match choose.byte() % 4 {
        0 => choose.count(400) as u32,
        1 => choose.of(&[0, u32::MAX]),
        _ => choose.of(&[32, 64, 128, 256, 512]),
    };
    let codec = match choose.byte() % 6 {
        0 => Codec::F32,
        1 => Codec::Bf16,
        2 => Codec::Int8 { group },
        3 => Codec::Fp8 { group },
        4 => Codec::Int4 { group, zero: false },
        _ => Codec::Int4 { group, zero: true },
    };
    let (count, out, cols) = (choose.count(3), choose.count(70), choose.count(700));
    let layout = match choose.byte() % 5 {
        0 => Layout::Vector { len: cols },
        1 => Layout::Rows { rows: out, cols },
        2 => Layout::Tiles { count, out_features: out, in_features: cols },
        3 => Layout::Strips { count, out_features: out, in_features: cols },
        _ => {
            let group = if choose.byte() < 128 { out } else { choose.count(70) };
            Layout::Panels { count, out_features: out, in_features: cols, group }
        }
    };
    Format { codec, layout }
}

/// How a codec decodes a code and what its group shares, as both are stored.
fn decoded(codec: Codec, code: &[u8], shared: Shared) -> f32 {
    codec.decode(code, codec.shared_of_bytes(&codec.shared_to_bytes(shared)))
}

/// Bytes of a code that comes by itself.
fn width(codec: Codec) -> usize {
    codec.code_bits().div_ceil(8) as usize
}

/// Errors of the nearest code, and of what was found: either of two codes that are as near.
fn check_nearest(codec: Codec, x: f32, found: f32, shared: Shared) {
    let codes: Vec<u8> = match codec {
        Codec::F32 => return assert_eq!(found.to_bits(), x.to_bits()),
        Codec::Bf16 => {
            // Half a step of the last bit, which for the smallest numbers is 2^-133.
            let step = (f64::from(x).abs() * 2f64.powi(-8)).max(2f64.powi(-134));
            return assert!((f64::from(found) - f64::from(x)).abs() <= step, "{x:e} became {found:e}");
        }
        Codec::Int8 { .. } => (0..=255).filter(|code| *code != 0x80).collect(),
        Codec::Fp8 { .. } => (0..=255).filter(|code| code & 0x7f != 0x7f).collect(),
        Codec::Int4 { .. } => (0..16).collect(),
    };
    let error = |number: f32| (f64::from(number) - f64::from(x)).abs();
    let least =
        codes.iter().map(|code| error(decoded(codec, &[*code], shared))).fold(f64::INFINITY, f64::min);
    // What dividing by a scale in f32 may be off by, of a scale that has few bits more.
    let slack = 1e-5 * f64::from(x).abs() + 1e-5 * f64::from(shared.least).abs() + 2f64.powi(-148);
    assert!(error(found) <= least + slack, "{codec}: {x:e} became {found:e}, off by {least:e} at least");
}

/// Rows of numbers, as `pack` stores them.
fn numbers(format: Format, rows: u64, choose: &mut Choices<'_>) {
    let (codec, cols) = (format.codec, format.layout.cols());
    let mut last = 1.0f32;
    let number = |_| {
        let x = match choose.byte() % 4 {
            0 => f32::from_bits(choose.word()),
            1 => last * (f32::from(choose.byte()) - 128.0) / 64.0,
            _ => f32::from(choose.byte()) - 128.0,
        };
        last = if codec.takes(x) { x } else { 1.0 };
        last
    };
    let data: Vec<f32> = (0..rows * cols).map(number).collect();
    let bytes = pack(format, &data);
    assert_eq!(bytes.len() as u64, format.bytes());
    let group = codec.group().unwrap_or(cols).min(cols) as usize;
    for (row, numbers) in (0..).zip(data.chunks(cols as usize)) {
        let found = load_row(format, &bytes, row, cols);
        assert_eq!(found.len(), numbers.len());
        for (numbers, found) in numbers.chunks(group).zip(found.chunks(group)) {
            let mut codes = Vec::new();
            let shared = codec.encode(numbers, &mut codes);
            for ((code, x), found) in codes.chunks(width(codec)).zip(numbers).zip(found) {
                assert_eq!(decoded(codec, code, shared).to_bits(), found.to_bits());
                check_nearest(codec, *x, *found, shared);
            }
        }
        let last = get(format, &bytes, row, cols - 1);
        assert_eq!(Some(last.to_bits()), found.last().map(|x| x.to_bits()));
    }
}

/// Rows of codes and of what their groups share.
fn codes(format: Format, rows: u64, choose: &mut Choices<'_>) {
    let (codec, cols) = (format.codec, format.layout.cols());
    let group = codec.group().unwrap_or(cols).min(cols) as usize;
    let (wide, groups) = (width(codec), (cols as usize).div_ceil(group));
    let mask = if matches!(codec, Codec::Int4 { .. }) { 15 } else { 255 };
    let codes: Vec<u8> = (0..(rows * cols) as usize * wide).map(|_| choose.byte() & mask).collect();
    let mut half = || {
        let x = f16_to_f32(u16::from_le_bytes([choose.byte(), choose.byte()]));
        if x.is_finite() { x } else { 1.0 }
    };
    let shared: Vec<Shared> = (0..rows as usize * groups)
        .map(|_| match codec {
            Codec::Int4 { zero: true, .. } => Shared { scale: half(), least: half() },
            Codec::Int4 { zero: false, .. } => Shared::symmetric(half()),
            _ => Shared::scaled(half()),
        })
        .collect();
    let (mut packer, mut bytes) = (Packer::new(format), Vec::new());
    for (first, count) in format.layout.bands() {
        let band = |n: usize| first as usize * n..(first + count) as usize * n;
        let shared = if codec.group().is_some() { &shared[band(groups)] } else { &[] };
        packer.push_codes(&codes[band(cols as usize * wide)], shared, &mut bytes);
    }
    packer.finish(&mut bytes);
    assert_eq!(bytes.len() as u64, format.bytes());
    for row in 0..rows as usize {
        let found = load_row(format, &bytes, row as u64, cols);
        for (col, found) in found.iter().enumerate() {
            let at = (row * cols as usize + col) * wide;
            let want = decoded(codec, &codes[at..], shared[row * groups + col / group]);
            assert!(
                found.to_bits() == want.to_bits() || found.is_nan() && want.is_nan(),
                "{found}, not {want}"
            );
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let choose = &mut Choices::by(bytes);
    let format = format(choose);
    let Some(size) = format.checked_bytes() else { return };
    assert_eq!(size, format.bytes());
    let rows: u64 = format.layout.bands().map(|(_, rows)| rows).sum();
    if rows * format.layout.cols() > MOST {
        return;
    }
    match choose.byte() % 2 {
        0 => numbers(format, rows, choose),
        _ => codes(format, rows, choose),
    }
});
