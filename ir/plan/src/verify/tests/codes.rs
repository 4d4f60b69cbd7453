//! Caches of codes with scales, and the step that makes the codes.

use super::*;

/// The plan whose layer 0 appends to a ring, of which the codes of its cache are made.
fn quantised(p: &mut Plan) {
    let ring = Cache {
        name: "fresh".into(),
        readers: vec![0],
        policy: CachePolicy::ring(1, p.model.chunk, 8),
        ..p.caches[0].clone()
    };
    p.caches[0].codec = KvCodec::Int8;
    p.caches.push(ring);
    p.steps[1].operands[5] = Operand::Cache(CacheId(1));
    let op = StepOp::QuantiseKv(ops::QuantiseKv { kv_heads: 1, qk_dim: 8, v_dim: 8 });
    let operands = vec![Operand::Cache(CacheId(1)), Operand::Cache(CacheId(0))];
    p.steps.insert(2, step("L0.codes", Some(0), op, operands));
    add_kernels(p);
}

#[test]
fn codes_are_made_of_this_steps_rows() {
    let mut valid = plan();
    quantised(&mut valid);
    assert_eq!(valid.verify(), Ok(()));
    let broken = |words: &str, change: fn(&mut Plan)| {
        broken(words, |p| {
            quantised(p);
            change(p);
            add_kernels(p);
        });
    };
    broken("L0.codes: reads cache c1 before its owner", |p| p.steps.swap(1, 2));
    broken("L0.oracle: reads cache c0 before its owner", |p| p.steps.swap(2, 3));
    broken("appends to cache c0 of layer 0", |p| p.steps[2].layer = Some(1));
    broken("appends to cache c0 a second time", |p| p.steps.insert(3, p.steps[2].clone()));
    // What has no scale does not become codes without one, nor do codes become codes.
    broken("L0.codes: operand `cache`", |p| p.caches[0].codec = KvCodec::Bf16);
    broken("L0.codes: operand `from`", |p| p.steps[2].operands[0] = Operand::Cache(CacheId(0)));
    broken("L0.qkv: operand `cache`", |p| p.steps[1].operands[5] = Operand::Cache(CacheId(0)));
    broken("fresh: impossible sizes", |p| p.caches[1].codec = KvCodec::Fp8);
    broken("operand `cache`", |p| {
        p.steps[2].op = StepOp::QuantiseKv(ops::QuantiseKv { kv_heads: 1, qk_dim: 8, v_dim: 4 });
    });
    broken("not possible", |p| {
        p.steps[2].op = StepOp::QuantiseKv(ops::QuantiseKv { kv_heads: 0, qk_dim: 8, v_dim: 8 });
    });
}

/// Tiles of codes are as possible as those of bf16.
#[test]
fn codes_in_tiles() {
    let shape = |p: &mut Plan, codec, qk_dim| {
        p.caches[0] =
            Cache { codec, qk_dim, v_dim: 16, page: 64, order: KvOrder::Tiles, ..p.caches[0].clone() };
    };
    for (codec, qk_dim, possible) in [
        (KvCodec::Int8, 64, true),
        (KvCodec::Fp8, 128, true),
        (KvCodec::F32, 64, false),
        (KvCodec::Int8, 32, false),
    ] {
        let mut p = plan();
        shape(&mut p, codec, qk_dim);
        let errors = p.verify().expect_err("the steps are of another shape");
        let says = errors.iter().any(|error| error.to_string() == "kv: impossible sizes");
        assert_eq!(says, !possible, "{codec} {qk_dim}: {errors:?}");
    }
}

/// An artefact's word for a codec is the one of dumps.
#[test]
fn a_codec_is_written_as_it_is_said() {
    for codec in [KvCodec::F32, KvCodec::Bf16, KvCodec::Int8, KvCodec::Fp8] {
        let json = serde_json::to_string(&codec).unwrap();
        assert_eq!(json, format!("\"{codec}\""));
        assert_eq!(serde_json::from_str::<KvCodec>(&json).unwrap(), codec);
    }
}

/// Codes are half of bf16 and a scale for each vector: what is said of work and of bytes.
#[test]
fn what_codes_take() {
    let mut p = plan();
    quantised(&mut p);
    assert_eq!((p.caches[0].token_bytes(), p.caches[0].page_bytes()), (16 + 8, 8 * (16 + 8)));
    let work = work::work(&p.spec(&p.steps[2]), 5, 100, 16);
    // The ring is of f32; each row reads and writes one token.
    assert_eq!((work.bytes, work.flop), (5.0 * (64.0 + 24.0), 0.0));
}
