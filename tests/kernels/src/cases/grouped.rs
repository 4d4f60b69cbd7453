//! Weights of grouped codecs in panels, which a processor multiplies: rows that end in a group, outputs that end in a panel, one
//! row and several, each codec in groups that are small, usual, odd and whole rows.

use hyc_plan::*;

use super::attention::caches;
use super::experts::{Mixture, experts};
use super::projections::{EPILOGUES, Qkv, linear, qkv, rope};
use super::{Case, FEW, RAGGED, Store, case};

/// As far off as kernels of f32 and bf16 may be.
const ERROR: f64 = 3e-6;

/// Each codec in groups of so many.
fn codecs(groups: &[u32]) -> Vec<Codec> {
    let of = |group: u32| {
        let int4 = [false, true].map(|zero| Codec::Int4 { group, zero });
        [Codec::Int8 { group }, Codec::Fp8 { group }].into_iter().chain(int4)
    };
    groups.iter().copied().flat_map(of).collect()
}

pub fn all() -> Vec<Case> {
    let specs = [
        ("linear grouped", [linears(), mixed()].concat()),
        ("qkv grouped", projections()),
        ("experts grouped", mixtures()),
    ];
    let every = |(family, specs): (&'static str, Vec<KernelSpec>)| {
        let batches = move |spec| RAGGED.iter().map(move |batch| case(family, &spec, batch, ERROR));
        specs.into_iter().flat_map(batches)
    };
    specs.into_iter().flat_map(every).collect()
}

fn linears() -> Vec<KernelSpec> {
    let mut specs = Vec::new();
    for (out, in_features) in [(97, 200), (5, 7), (48, 128), (16, 321)] {
        for codec in codecs(&[1, 3, 32, 64, 128, 256, u32::MAX]) {
            for epilogue in EPILOGUES {
                let norm = (epilogue == Epilogue::SwiGlu).then_some(1e-6);
                specs.push(linear((out, in_features), Store::Panels(codec), norm, epilogue, FEW));
            }
        }
    }
    specs
}

/// The two matrices of a SwiGLU in codecs of their own.
fn mixed() -> Vec<KernelSpec> {
    let store = |codec| Store::Panels(codec).matrix(1, 40, 100, 40);
    let pair = |[gate, up]: [Codec; 2]| {
        let mut spec = linear((40, 100), Store::Panels(gate), None, Epilogue::SwiGlu, FEW);
        if let Some(at) = spec.at("up") {
            spec.operands[at] = store(up);
        }
        spec
    };
    let int4 = Codec::Int4 { group: 32, zero: false };
    [[int4, Codec::Fp8 { group: 100 }], [Codec::Bf16, int4], [Codec::Int8 { group: 100 }, Codec::F32]]
        .map(pair)
        .to_vec()
}

fn projections() -> Vec<KernelSpec> {
    let mut specs = Vec::new();
    for shape in [
        AttnShape { heads: 6, kv_heads: 2, qk_dim: 20, v_dim: 20 },
        AttnShape { heads: 5, kv_heads: 1, qk_dim: 32, v_dim: 33 },
    ] {
        for codec in codecs(&[32, 100]) {
            for (own_kv, qk_norm) in [(true, None), (false, Some(1e-6))] {
                let [cache, _] = caches(shape, 8, KvCodec::F32, 11, FEW);
                let (store, rope) = (Store::Panels(codec), rope(shape.qk_dim - 4));
                let (in_features, norm) = (100, Some(1e-5));
                let q = Qkv { in_features, shape, norm, qk_norm, rope, own_kv, gates: 0, store, cache };
                specs.push(qkv(q, FEW));
            }
        }
    }
    specs
}

fn mixtures() -> Vec<KernelSpec> {
    let sizes = [(12, 3, 72, 40), (4, 4, 16, 7), (30, 8, 64, 33)];
    let of = |(experts_, active, in_features, ffn)| {
        let sizes = Mixture { experts: experts_, active, in_features, ffn, shared: false };
        codecs(&[5, 32, 64]).into_iter().flat_map(move |codec| experts(sizes, Store::Panels(codec), FEW))
    };
    sizes.into_iter().flat_map(of).collect()
}
