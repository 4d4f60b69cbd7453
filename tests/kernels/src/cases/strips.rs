//! Weights of grouped codecs in strips: products of few rows, and of many.

use std::collections::HashSet;

use hyc_plan::*;

use super::experts::{Mixture, experts};
use super::projections::{EPILOGUES, Qkv, linear, of_fp8_rows, qkv, rope};
use super::tiled::{ERROR, SHAPES, tiled_caches};
use super::{Case, Fill, MANY, Sequences, Store, case, sized};

/// Rows of blocks of one, of eight and of 16, and of tiles of 64 to 256, whole and not.
const ROWS: [u64; 7] = [1, 2, 8, 9, 33, 130, 300];

const INT4: Codec = Codec::Int4 { group: 64, zero: false };

/// Every codec, in every kind of groups that strips take; `row`: input features.
fn codecs(row: u64) -> Vec<Codec> {
    let groups = [32, 64, 128, 512, row as u32];
    let int4 = groups.into_iter().flat_map(|group| [false, true].map(|zero| Codec::Int4 { group, zero }));
    let bytes = groups.into_iter().flat_map(|group| [Codec::Int8 { group }, Codec::Fp8 { group }]);
    let mut seen = HashSet::new();
    int4.chain(bytes).filter(|codec| seen.insert(*codec)).collect()
}

pub fn all() -> Vec<Case> {
    [linears(), vocabulary(), projections(), mixtures(), fp8_rows()].concat()
}

fn linears() -> Vec<Case> {
    let mut cases = Vec::new();
    // Rows that end in a tile, at a tile, at a span; outputs that end in a strip, and in its first half.
    for (out, in_features) in [(96, 200), (200, 320), (40, 512), (1000, 1088)] {
        for codec in codecs(in_features) {
            let full = codec == INT4 || codec == Codec::Int8 { group: in_features as u32 };
            for epilogue in EPILOGUES {
                let norm = if epilogue == Epilogue::Residual { None } else { Some(1e-6) };
                let spec = linear((out, in_features), Store::Strips(codec), norm, epilogue, MANY);
                let rows = if full { &ROWS[..] } else { &[1, 9] };
                for rows in rows {
                    let small = out == 200 && full && [1, 9].contains(rows);
                    cases.push(sized(case("linear strips", &spec, &[(0, *rows)], ERROR), small));
                }
            }
        }
    }
    // What a row's groups share is their own.
    for codec in codecs(1088) {
        let spec = linear((200, 1088), Store::Strips(codec), None, Epilogue::Store, MANY);
        let uneven = case("linear strips", &spec, &[(0, 1)], ERROR);
        cases.push(Case { fill: Fill::UnevenRows, ..uneven });
    }
    for (size, norm, epilogue) in [
        ((4096, 4096), None, Epilogue::Residual),
        ((11008, 4096), Some(1e-6), Epilogue::SwiGlu),
        ((4096, 11008), None, Epilogue::Residual),
        ((2048, 8192), None, Epilogue::Residual),
        ((512, 2048), Some(1e-6), Epilogue::SwiGlu),
    ] {
        // To find int4's scales takes its time.
        let large = size.0 * size.1 > 1 << 24;
        let int8 = Codec::Int8 { group: size.1 as u32 };
        for codec in if large { vec![int8] } else { vec![INT4, int8] } {
            let spec = linear(size, Store::Strips(codec), norm, epilogue, MANY);
            cases.extend([1, 40].map(|rows| case("linear strips", &spec, &[(0, rows)], ERROR)));
        }
    }
    cases
}

/// Logits of a head in bytes.
fn vocabulary() -> Vec<Case> {
    let store = Store::Strips(Codec::Int8 { group: 512 });
    let tokens = linear((151_680, 512), store, Some(1e-6), Epilogue::Store, MANY);
    let spec = KernelSpec { rows: Rows::Outputs, max_rows: 64, ..tokens };
    let batches: [Sequences<'_>; 2] = [&[(7, 1)], &[(3, 1); 9]];
    batches.map(|batch| case("logits strips", &spec, batch, ERROR)).to_vec()
}

fn projections() -> Vec<Case> {
    const BATCHES: [Sequences<'static>; 4] = [&[(0, 1)], &[(4095, 1), (17, 1)], &[(100, 1); 9], &[(0, 77)]];
    let mut cases = Vec::new();
    for (shape, in_features, qk_norm) in [
        (SHAPES[0], 4096, None),
        (SHAPES[2], 2048, None),
        (SHAPES[3], 256, Some(1e-6)),
        (SHAPES[3], 320, None),
    ] {
        let [growing, ring] = tiled_caches(shape);
        for (cache, own_kv) in [(growing, true), (ring, true), (growing, false)] {
            for codec in [INT4, Codec::Int8 { group: in_features as u32 }] {
                let store = Store::Strips(codec);
                let rope = rope(shape.qk_dim);
                let gates = if qk_norm.is_none() && cache == ring { 2 } else { 0 };
                let q =
                    Qkv { in_features, shape, norm: Some(1e-6), qk_norm, rope, own_kv, gates, store, cache };
                let spec = qkv(q, MANY);
                for (i, batch) in BATCHES.into_iter().enumerate() {
                    let small = in_features == 320 && codec == INT4 && i < 2;
                    cases.push(sized(case("qkv strips", &spec, batch, ERROR), small));
                }
            }
        }
    }
    cases
}

fn mixtures() -> Vec<Case> {
    let mut cases = Vec::new();
    let sizes = [(12, 3, 64, 96), (64, 8, 256, 128), (30, 8, 200, 40), (16, 4, 2048, 512)];
    let with_shared = [(12, 3, 64, 96), (30, 7, 200, 40), (16, 8, 2048, 512)];
    let sizes = sizes.map(|sizes| (sizes, false)).into_iter().chain(with_shared.map(|sizes| (sizes, true)));
    for ((experts_, active, in_features, ffn), shared) in sizes {
        let sizes = Mixture { experts: experts_, active, in_features, ffn, shared };
        // Both halves have groups that strips take.
        for codec in [INT4, Codec::Int4 { group: 32, zero: true }, Codec::Int8 { group: 4096 }] {
            for spec in experts(sizes, Store::Strips(codec), MANY) {
                for rows in [1, 5, 40, 300] {
                    let small = experts_ == 12 && codec == INT4 && rows < 10;
                    cases.push(sized(case("experts strips", &spec, &[(0, rows)], ERROR), small));
                }
            }
        }
    }
    cases
}

/// Products of rows of e4m3, from as many on as a GPU's kernels take them; fewer stay as they are.
fn fp8_rows() -> Vec<Case> {
    const LEAST: u64 = 65;
    let mut cases = Vec::new();
    // Inputs that end in the first half of a tile of 128, in its second one, at its end.
    for (out, in_features) in [(96, 200), (200, 320), (1000, 1088), (4096, 4096), (512, 11008)] {
        let store = Store::Strips(Codec::Fp8 { group: in_features as u32 });
        for epilogue in EPILOGUES {
            let norm = if epilogue == Epilogue::Residual { None } else { Some(1e-6) };
            let spec = of_fp8_rows(&linear((out, in_features), store, norm, epilogue, MANY), LEAST);
            let rows = if out * in_features < 1 << 21 { &[8, 64, 65, 130, 300][..] } else { &[300] };
            for rows in rows {
                let small = out == 200 && *rows == 65;
                cases.push(sized(case("linear fp8 rows", &spec, &[(0, *rows)], ERROR), small));
            }
        }
    }
    for (shape, in_features, qk_norm) in
        [(SHAPES[0], 4096, None), (SHAPES[3], 256, Some(1e-6)), (SHAPES[3], 320, None)]
    {
        let [cache, _] = tiled_caches(shape);
        let store = Store::Strips(Codec::Fp8 { group: in_features as u32 });
        let (rope, gates) = (rope(shape.qk_dim), if qk_norm.is_none() { 2 } else { 0 });
        let q =
            Qkv { in_features, shape, norm: Some(1e-6), qk_norm, rope, own_kv: true, gates, store, cache };
        let spec = of_fp8_rows(&qkv(q, MANY), LEAST);
        cases.extend([64, 77, 260].map(|rows| case("qkv fp8 rows", &spec, &[(0, rows)], ERROR)));
    }
    cases
}
