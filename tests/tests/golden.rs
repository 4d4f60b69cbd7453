//! Every architecture against the PyTorch model's golden tensors: logits of every position, selected blocks,
//! and what the caches hold.

use std::collections::BTreeMap;

use hyc_ir::plan::{CacheId, CachePolicy, Operand, StepOp};
use hyc_runtime::{Model, Session, SessionOptions, Values};
use hyc_tests::{Golden, golden_model, golden_names, relative_error, root};

/// Logits of all positions, and by oracle layer the selections of all tokens.
struct Run {
    logits: Vec<f32>,
    selected: BTreeMap<u32, Vec<i32>>,
}

fn run(session: &mut Session<'_>, tokens: &[u32]) -> Run {
    let id = session.add_sequence().unwrap();
    session.set_all_logits(true);
    session.feed(id, tokens).unwrap();
    let mut run = Run { logits: Vec::new(), selected: BTreeMap::new() };
    while session.pending(id).unwrap() > 0 {
        let selected = &mut run.selected;
        let output = session
            .step_observed(&mut |step, engine| {
                if let (StepOp::OracleAttention { .. }, Some(Operand::Buffer(at))) =
                    (step.op, step.operands.last())
                    && let Ok(Values::I32(list)) = engine.buffer(*at)
                {
                    selected.entry(step.layer.unwrap()).or_default().extend(list);
                }
            })
            .unwrap();
        output.logits.iter().for_each(|(_, row)| run.logits.extend(row));
    }
    run
}

fn tokens(golden: &Golden) -> Vec<u32> {
    golden.i32("tokens").unwrap().1.into_iter().map(|t| t as u32).collect()
}

/// Lists must be equal as sets wherever the k-th and (k+1)-th scores differ by more than 1e-5.
fn check_selection(name: &str, layer: u32, got: &[i32], golden: &Golden) {
    let (shape, want) = golden.i32(&format!("layer{layer}.selected")).unwrap();
    let (_, margin) = golden.f32(&format!("layer{layer}.margin")).unwrap();
    assert_eq!(got.len(), want.len(), "{name}: layer {layer}");
    for (i, (got, want)) in got.chunks(shape[2]).zip(want.chunks(shape[2])).enumerate() {
        let (mut a, mut b) = (got.to_vec(), want.to_vec());
        a.sort_unstable();
        b.sort_unstable();
        assert!(a == b || margin[i] <= 1e-5, "{name}: layer {layer}, list {i}: {got:?}, golden {want:?}");
    }
}

/// Keys and values of all positions that a cache still holds.
fn check_caches(name: &str, model: &Model, session: &Session<'_>, golden: &Golden, count: u64) {
    let mut checked = 0;
    for (i, cache) in model.plan().caches.iter().enumerate() {
        let (Some((_, k)), Some((_, v))) =
            (golden.f32(&format!("layer{}.k", cache.owner)), golden.f32(&format!("layer{}.v", cache.owner)))
        else {
            continue;
        };
        let first = match cache.policy {
            CachePolicy::Growing => 0,
            CachePolicy::Ring { window, .. } => count - window.min(count),
        };
        let (mut ours_k, mut ours_v) = (Vec::new(), Vec::new());
        for position in first..count {
            let (k, v) = session.engine().cache_kv(CacheId(i as u32), 0, position).unwrap();
            ours_k.extend(k);
            ours_v.extend(v);
        }
        let (k_from, v_from) = (
            (first * cache.kv_heads * cache.qk_dim) as usize,
            (first * cache.kv_heads * cache.v_dim) as usize,
        );
        let errors = (relative_error(&ours_k, &k[k_from..]), relative_error(&ours_v, &v[v_from..]));
        assert!(errors.0 < 1e-4 && errors.1 < 1e-4, "{name}: cache of layer {}: {errors:?}", cache.owner);
        checked += 1;
    }
    assert!(checked > 0, "{name}: no cache was compared");
}

#[test]
fn every_architecture_agrees_with_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let names = golden_names();
    assert!(names.len() >= 11, "goldens are missing: {names:?}");
    for name in names {
        let golden = Golden::open(&root().join("tests/golden").join(&name).join("golden.safetensors"));
        let model = golden_model(&name, folder.path());
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let tokens = tokens(&golden);
        let run = run(&mut session, &tokens);
        let (_, want) = golden.f32("logits").unwrap();
        let error = relative_error(&run.logits, &want);
        println!("{name:12} logits {error:.2e}");
        if name.ends_with("bf16") {
            // Ours keeps activations in f32, theirs rounds them to bf16 after every op.
            assert!(error < 8e-2, "{name}: logits differ by {error:.2e}");
            continue;
        }
        assert!(error < 1e-4, "{name}: logits differ by {error:.2e}");
        for (layer, selected) in &run.selected {
            check_selection(&name, *layer, selected, &golden);
        }
        check_caches(&name, &model, &session, &golden, tokens.len() as u64);
    }
}

/// One long prefill, prefill in other chunks, and prefill then decode: the same bits.
#[test]
fn chunks_and_decode_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dense", "moe", "own", "wide"] {
        let golden = Golden::open(&root().join("tests/golden").join(name).join("golden.safetensors"));
        let tokens = tokens(&golden);
        let model = golden_model(name, folder.path());
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let whole = run(&mut session, &tokens);
        for pieces in [vec![1; tokens.len()], vec![7, 64, 1, 1, 50, 80], vec![150, 1, 1, 51]] {
            let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
            let id = session.add_sequence().unwrap();
            session.set_all_logits(true);
            let (mut rest, mut logits) = (&tokens[..], Vec::<f32>::new());
            for piece in pieces {
                let (now, later) = rest.split_at(piece.min(rest.len()));
                rest = later;
                session.feed(id, now).unwrap();
                while session.pending(id).unwrap() > 0 {
                    session.step().unwrap().logits.iter().for_each(|(_, row)| logits.extend(row));
                }
            }
            assert!(rest.is_empty());
            assert!(logits == whole.logits, "{name}: other chunks, other logits");
        }
    }
}

/// A ragged batch gives each sequence what it gets alone.
#[test]
fn a_ragged_batch_equals_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dense", "moe", "swa", "no-window", "dense-bf16"] {
        let golden = Golden::open(&root().join("tests/golden").join(name).join("golden.safetensors"));
        let tokens = tokens(&golden);
        let model = golden_model(name, folder.path());
        let parts = [&tokens[..90], &tokens[50..51], &tokens[100..170]];
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let ids: Vec<_> = parts.iter().map(|_| session.add_sequence().unwrap()).collect();
        for (id, part) in ids.iter().zip(parts) {
            session.feed(*id, part).unwrap();
        }
        let mut together: BTreeMap<_, Vec<f32>> = BTreeMap::new();
        for next in [Some(tokens[0]), Some(tokens[1]), Some(tokens[2]), None] {
            while ids.iter().any(|id| session.pending(*id).unwrap() > 0) {
                session.step().unwrap().logits.into_iter().for_each(|(id, row)| {
                    together.entry(id).or_default().extend(row);
                });
            }
            if let Some(token) = next {
                ids.iter().for_each(|id| session.feed(*id, &[token]).unwrap());
            }
        }
        for (id, part) in ids.iter().zip(parts) {
            let mut alone = Session::new(&model, &SessionOptions::default()).unwrap();
            let sequence = alone.add_sequence().unwrap();
            let mut logits: Vec<f32> = Vec::new();
            alone.feed(sequence, part).unwrap();
            for next in [Some(tokens[0]), Some(tokens[1]), Some(tokens[2]), None] {
                while alone.pending(sequence).unwrap() > 0 {
                    alone.step().unwrap().logits.iter().for_each(|(_, row)| logits.extend(row));
                }
                if let Some(token) = next {
                    alone.feed(sequence, &[token]).unwrap();
                }
            }
            assert!(together[id] == logits, "{name}: the batch changes a sequence of {} tokens", part.len());
        }
    }
}
