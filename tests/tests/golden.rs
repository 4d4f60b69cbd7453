//! Every architecture against the PyTorch model's golden tensors: logits of every position, selected blocks,
//! and what the caches hold.

#![allow(clippy::print_stdout)] // A test's output is captured.

use hyc_runtime::{Session, SessionOptions};
use hyc_tests::parity::{check_caches, check_selections, run, run_batch, run_pieces, tokens};
use hyc_tests::{Golden, golden_model, golden_names, golden_tensors, relative_error};

#[test]
fn every_architecture_agrees_with_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let names = golden_names();
    assert!(names.len() >= 11, "goldens are missing: {names:?}");
    for name in names {
        let golden: Golden = golden_tensors(&name);
        let model = golden_model(&name, folder.path());
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let tokens = tokens(&golden);
        let run = run(&mut session, &tokens).unwrap();
        let (_, want) = golden.f32("logits").unwrap();
        let error = relative_error(&run.logits, &want);
        println!("{name:12} logits {error:.2e}");
        if name.ends_with("bf16") {
            // Ours keeps activations in f32, theirs rounds them to bf16 after every op.
            assert!(error < 8e-2, "{name}: logits differ by {error:.2e}");
            continue;
        }
        assert!(error < 1e-4, "{name}: logits differ by {error:.2e}");
        check_selections(&run, &golden, 1e-5).unwrap_or_else(|e| panic!("{name}: {e}"));
        check_caches(&session, &golden, tokens.len() as u64, 1e-4).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// One long prefill, prefill in other chunks, and prefill then decode: the same bits.
#[test]
fn chunks_and_decode_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dense", "moe", "own", "wide"] {
        let tokens = tokens(&golden_tensors(name));
        let model = golden_model(name, folder.path());
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let whole = run(&mut session, &tokens).unwrap();
        for pieces in [vec![1; tokens.len()], vec![7, 64, 1, 1, 50, 80], vec![150, 1, 1, 51]] {
            assert!(pieces.iter().sum::<usize>() >= tokens.len());
            let logits = run_pieces(&model, &tokens, &pieces).unwrap();
            assert!(logits == whole.logits, "{name}: other chunks, other logits");
        }
    }
}

/// A ragged batch gives each sequence what it gets alone.
#[test]
fn a_ragged_batch_equals_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["dense", "moe", "swa", "no-window", "dense-bf16"] {
        let tokens = tokens(&golden_tensors(name));
        let model = golden_model(name, folder.path());
        let parts = [&tokens[..90], &tokens[50..51], &tokens[100..170]];
        let together = run_batch(&model, &parts, &tokens[..3]).unwrap();
        for (part, together) in parts.iter().zip(&together) {
            let alone = run_batch(&model, &[part], &tokens[..3]).unwrap();
            assert!(together == &alone[0], "{name}: the batch changes a sequence of {} tokens", part.len());
        }
    }
}
