//! Every number is found where it was put, as near as its codec stores it.

use proptest::prelude::*;

use super::*;

#[test]
fn bf16_rounds_to_even_and_keeps_nan() {
    assert_eq!(f32_to_bf16(1.0), 0x3f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f80_8000)), 0x3f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0x3f81_8000)), 0x3f82);
    assert!(bf16_to_f32(f32_to_bf16(f32::NAN)).is_nan());
    assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
}

/// Shapes whose panels, tiles and groups are whole or not.
const SHAPES: [(u64, u64, u64, u64); 5] =
    [(1, 16, 3, 16), (1, 40, 5, 20), (3, 7, 4, 7), (2, 130, 70, 130), (2, 20, 600, 20)];

/// The formats that such a matrix may have.
fn formats((count, out, in_features, group): (u64, u64, u64, u64)) -> Vec<Format> {
    let layouts = [
        Layout::Panels { count, out_features: out, in_features, group },
        Layout::Rows { rows: count * out, cols: in_features },
        Layout::Tiles { count, out_features: out, in_features },
        Layout::Strips { count, out_features: out, in_features },
    ];
    let codecs = [1, 3, 32, 64, 128, 256, 1000].into_iter().flat_map(|group| {
        let int4 = [false, true].map(|zero| Codec::Int4 { group, zero });
        [Codec::Int8 { group }, Codec::Fp8 { group }].into_iter().chain(int4)
    });
    let codecs: Vec<Codec> = [Codec::F32, Codec::Bf16].into_iter().chain(codecs).collect();
    let all = layouts
        .into_iter()
        .flat_map(|layout| codecs.iter().map(move |codec| Format { codec: *codec, layout }));
    all.filter(|format| format.checked_bytes().is_some()).collect()
}

/// The numbers that a codec makes of a group, from the codec's definition alone; those of int4 from its codes, whose scale has
/// tests of its own.
fn nearest(codec: Codec, group: &[f32]) -> Vec<f32> {
    let most = group.iter().fold(0f32, |m, x| m.max(x.abs()));
    let number = |x: &f32| match codec {
        Codec::F32 => *x,
        Codec::Bf16 => bf16_to_f32(f32_to_bf16(*x)),
        Codec::Int8 { .. } => (x / (most / 127.0)).round_ties_even() * (most / 127.0),
        Codec::Fp8 { .. } | Codec::Int4 { .. } => {
            let shared = match codec {
                Codec::Int4 { .. } => codec.encode(group, &mut Vec::new()),
                _ => Shared::scaled(most / 448.0),
            };
            let all = (0..=255u8).filter(|code| code & 0x7f != 0x7f);
            let codes = all.map(|code| codec.decode(&[code], shared));
            codes.min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs())).unwrap()
        }
    };
    group.iter().map(number).collect()
}

#[test]
fn every_element_is_found_where_it_was_put() {
    for shape in SHAPES {
        for format in formats(shape) {
            let (count, out, in_features, _) = shape;
            // No two neighbours alike, both signs, and no tie between two FP8 numbers.
            let number = |i: u64| (i as f32 + 0.26) * if i % 3 == 0 { -0.37 } else { 0.37 };
            let data: Vec<f32> = (0..count * out * in_features).map(number).collect();
            let bytes = pack(format, &data);
            assert_eq!(bytes.len() as u64, format.bytes(), "{format:?}");
            for (row, numbers) in data.chunks(in_features as usize).enumerate() {
                let group = format.codec.group().unwrap_or(in_features) as usize;
                let want: Vec<f32> =
                    numbers.chunks(group).flat_map(|group| nearest(format.codec, group)).collect();
                let found: Vec<f32> =
                    (0..in_features).map(|col| get(format, &bytes, row as u64, col)).collect();
                assert_eq!(found, load_row(format, &bytes, row as u64, in_features), "{format:?} {row}");
                for ((found, want), x) in found.iter().zip(&want).zip(numbers) {
                    // Either of two int4 codes that are as near.
                    let near = (found - want).abs() <= 1e-6 * want.abs()
                        || ((found - x).abs() - (want - x).abs()).abs() <= 1e-5 * x.abs();
                    assert!(near, "{format:?} {row}: {found}, not {want} for {x}");
                }
            }
        }
    }
}

proptest! {
    /// Of any shape, codec and numbers each row is what its groups' codes stand for, to the bit, in panels as in rows.
    #[test]
    fn panels_hold_what_was_packed(
        (count, groups, group, in_features) in (1..3u64, 1..3u64, 1..40u64, 1..150u64),
        (kind, of) in (0..4usize, 1..200u32),
        seed: u64,
    ) {
        let codec = [
            Codec::Int8 { group: of },
            Codec::Fp8 { group: of },
            Codec::Int4 { group: of, zero: false },
            Codec::Int4 { group: of, zero: true },
        ][kind];
        let out = groups * group;
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 8.0
        };
        let data: Vec<f32> = (0..count * out * in_features).map(|_| next()).collect();
        let rows = Format { codec, layout: Layout::Rows { rows: count * out, cols: in_features } };
        let panels = Format { codec, layout: Layout::Panels { count, out_features: out, in_features, group } };
        let [in_rows, in_panels] = [rows, panels].map(|format| pack(format, &data));
        prop_assert_eq!(in_panels.len() as u64, panels.bytes());
        for (row, numbers) in (0..).zip(data.chunks(in_features as usize)) {
            let stored = |group: &[f32]| {
                let mut codes = Vec::new();
                let shared = codec.encode(group, &mut codes);
                let shared = codec.shared_of_bytes(&codec.shared_to_bytes(shared));
                codes.iter().map(|code| codec.decode(&[*code], shared)).collect::<Vec<f32>>()
            };
            let want: Vec<f32> = numbers.chunks(of as usize).flat_map(stored).collect();
            prop_assert_eq!(&load_row(panels, &in_panels, row, in_features), &want);
            prop_assert_eq!(&load_row(rows, &in_rows, row, in_features), &want);
        }
    }
}

/// Bytes of panels: groups of a panel's outputs with what they share, and padding outputs.
#[test]
fn panels_of_groups_have_their_scales_in_them() {
    let bytes = |codec| {
        let layout = Layout::Panels { count: 3, out_features: 20, in_features: 100, group: 10 };
        Format { codec, layout }.checked_bytes()
    };
    // 3 matrices of two panels; four groups of 32, the last of 4.
    assert_eq!(bytes(Codec::Int4 { group: 32, zero: false }), Some(6 * (100 * 8 + 4 * 32)));
    assert_eq!(bytes(Codec::Int4 { group: 32, zero: true }), Some(6 * (100 * 8 + 4 * 64)));
    assert_eq!(bytes(Codec::Int8 { group: u32::MAX }), Some(6 * (100 * 16 + 64)));
    assert_eq!(bytes(Codec::Fp8 { group: 1 }), Some(6 * (100 * 16 + 100 * 64)));
    assert_eq!((bytes(Codec::Int8 { group: 0 }), bytes(Codec::Bf16)), (None, Some(6 * 100 * 32)));
}

/// Groups that strips do not take make no format.
#[test]
fn strips_take_groups_of_whole_lanes() {
    let bytes = |codec| {
        let layout = Layout::Strips { count: 3, out_features: 20, in_features: 600 };
        Format { codec, layout }.checked_bytes()
    };
    let int4 = |group| bytes(Codec::Int4 { group, zero: false });
    // 3 matrices, 2 strips, 3 spans, 2 halves.
    assert_eq!(int4(64), Some(3 * 2 * 3 * 2 * (1024 + 64)));
    assert_eq!(bytes(Codec::Int4 { group: 32, zero: true }), Some(3 * 2 * 3 * 2 * (1024 + 256)));
    assert_eq!(bytes(Codec::Int8 { group: 600 }), Some(3 * 2 * 3 * 2 * (2048 + 32)));
    assert_eq!([int4(0), int4(1), int4(48), int4(300), bytes(Codec::Bf16), bytes(Codec::F32)], [None; 6]);
    assert!(int4(256).is_some() && int4(512).is_some() && int4(10_000).is_some());
}

/// Codes that come as such are stored as numbers would be that have those codes.
#[test]
fn codes_pass_unchanged() {
    for format in formats((2, 20, 70, 10)) {
        let numbers: Vec<f32> = (0..2 * 20 * 70).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for row in numbers.chunks(70) {
            for group in row.chunks(format.codec.group().unwrap_or(70) as usize) {
                scales.push(format.codec.encode(group, &mut codes));
            }
        }
        let (mut packer, mut out) = (Packer::new(format), Vec::new());
        let (row_bytes, row_scales) = (codes.len() / 40, scales.len() / 40);
        for (first, rows) in format.layout.bands() {
            let band = |n: usize| first as usize * n..(first + rows) as usize * n;
            let scales = if format.codec.group().is_some() { &scales[band(row_scales)] } else { &[] };
            packer.push_codes(&codes[band(row_bytes)], scales, &mut out);
        }
        packer.finish(&mut out);
        assert!(out == pack(format, &numbers), "{format:?}");
    }
}

/// Groups of zeros, of the smallest and of the largest numbers.
#[test]
fn groups_at_the_ends_of_f32() {
    let row = [0.0, 0.0, 1e-45, -1e-45, f32::MAX, -f32::MAX, 448.0, 0.1];
    for codec in [Codec::Int8 { group: 2 }, Codec::Fp8 { group: 2 }] {
        let format = Format { codec, layout: Layout::Rows { rows: 1, cols: 8 } };
        let found = load_row(format, &pack(format, &row), 0, 8);
        assert_eq!(found[..4], [0.0; 4], "{codec}");
        assert!((found[4] / f32::MAX - 1.0).abs() < 1e-6 && found[5] == -found[4], "{codec}: {found:?}");
        assert_eq!(found[6], 448.0);
    }
}
