//! Forks, shorter sequences and stored prefixes on whole models: the same bits as fresh sequences, on both sides of a page's
//! border, with rings, aliased caches and experts, in f32 and bf16. Pages have 8 tokens, the window 11, a step 64 rows.

use hyc_plan::CachePolicy;
use hyc_runtime::{ErrorKind, SequenceId, Session, SessionOptions};
use hyc_tests::parity::{run, tokens};
use hyc_tests::{golden_model, golden_names, golden_tensors};

/// Feeds tokens; the logits of all of them.
fn feed(session: &mut Session, id: SequenceId, tokens: &[u32]) -> Vec<f32> {
    session.feed(id, tokens).unwrap();
    let mut rows = Vec::new();
    while session.pending(id).unwrap() > 0 {
        for (of, row) in session.step().unwrap().logits {
            assert_eq!(of, id, "nothing of another sequence waits");
            rows.extend(row.unwrap());
        }
    }
    rows
}

#[test]
fn shared_beginnings_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["dense", "moe-bf16", "own", "swa", "no-window", "exact-kv-bf16"];
    assert!(names.iter().all(|name| golden_names().iter().any(|golden| golden == name)));
    for name in names {
        let model = golden_model(name, folder.path());
        let m = &model.plan().model;
        let (page, vocab) = (m.page as usize, m.vocab as usize);
        let text = tokens(&golden_tensors(name));
        let options = SessionOptions { prefixes: 1, ..SessionOptions::default() };
        let mut session = Session::new(model.clone(), &options).unwrap();
        session.set_all_logits(true);
        let whole = session.free_pages();
        let middle = text.len() / 2 / page * page;
        for cut in [middle - 1, middle, middle + 1] {
            let other: Vec<u32> = [&text[..cut], &text[..text.len() / 4]].concat();
            let fresh = |tokens| {
                let mut fresh = Session::new(model.clone(), &SessionOptions::default()).unwrap();
                run(&mut fresh, tokens).unwrap().logits
            };
            let [want, own] = [fresh(&other), fresh(&text)];
            let (want, own) = (&want[cut * vocab..], &own[cut * vocab..]);

            let id = session.add_sequence().unwrap();
            feed(&mut session, id, &text[..cut]);
            let fork = session.fork(id).unwrap();
            let border = session.save_prefix(id, cut as u64).unwrap() as usize;
            assert_eq!(border, cut / page * page);
            let tail = [&text[cut..], &other[cut..]];
            assert!(feed(&mut session, id, tail[0]) == own, "{name}, {cut}: forked from");
            assert!(feed(&mut session, fork, tail[1]) == want, "{name}, {cut}: the fork");
            session.remove_sequence(id).unwrap();

            // Twenty tokens back are in any ring of these.
            session.truncate(fork, cut as u64).unwrap();
            feed(&mut session, fork, &text[cut..cut + 20]);
            session.truncate(fork, cut as u64).unwrap();
            assert!(feed(&mut session, fork, tail[1]) == want, "{name}, {cut}: truncated");
            session.remove_sequence(fork).unwrap();

            let (id, held) = session.add_sequence_with_prefix(&other).unwrap();
            assert_eq!(held as usize, border, "{name}, {cut}");
            let rows = feed(&mut session, id, &other[border..]);
            assert!(&rows[(cut - border) * vocab..] == want, "{name}, {cut}: from a stored prefix");
            session.remove_sequence(id).unwrap();
            assert_eq!(session.free_pages(), whole, "{name}, {cut}");
        }
        // A ring ends somewhere.
        let id = session.add_sequence().unwrap();
        feed(&mut session, id, &text);
        let rings = model.plan().caches.iter().any(|c| c.policy != CachePolicy::Growing);
        match session.truncate(id, 1) {
            Ok(()) => assert!(!rings || text.len() < 100, "{name}: no ring is this long"),
            Err(error) => {
                assert!(rings && error.kind == ErrorKind::BadInput, "{name}: {error}");
                assert!(error.message.contains("is the least length that is possible"), "{error}");
            }
        }
        session.truncate(id, 0).unwrap();
        assert_eq!(session.free_pages(), whole);
    }
}
