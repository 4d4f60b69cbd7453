//! Sequences that share a beginning: forks, shorter ones and stored prefixes give what fresh sequences give, bit for bit,
//! and no page is lost. Pages have 4 tokens, the window 5, its ring 5 pages, a step 8 rows.

mod common;

use std::sync::Arc;

use common::{BAD_TOKEN, Parts, Plain, Random};
use hyc_plan::{CachePolicy, ops};
use hyc_runtime::{ErrorKind, MemoryPlan, Model, Sampling, SequenceId, Session, SessionOptions};

const PAGE: u64 = 4;

fn session(model: &Arc<Model>, prefixes: u64) -> Session {
    let options = SessionOptions { prefixes, ..SessionOptions::default() };
    Session::with_kernels(model.clone(), Box::new(Plain), &options).unwrap()
}

/// The same model without its ring: both of its caches grow.
fn growing() -> Arc<Model> {
    let mut parts = Parts::new();
    parts.plan.caches[1].policy = CachePolicy::Growing;
    let hyc_plan::StepOp::WindowAttention(ops::WindowAttention { shape, .. }) = parts.plan.steps[4].op else {
        panic!("no window")
    };
    parts.plan.steps[4].op = hyc_plan::StepOp::FullAttention(ops::FullAttention { shape, sink: false });
    parts.load().unwrap()
}

/// Logits after everything that waits.
fn logits(session: &mut Session, id: SequenceId) -> Vec<f32> {
    loop {
        let output = session.step().unwrap();
        assert!(output.tokens > 0, "nothing waits");
        if let Some((_, logits)) = output.logits.into_iter().find(|(of, _)| *of == id) {
            return logits.unwrap();
        }
    }
}

fn feed(session: &mut Session, id: SequenceId, tokens: &[u32]) -> Vec<f32> {
    session.feed(id, tokens).unwrap();
    logits(session, id)
}

/// Logits of a sequence that is fed `tokens` alone, in a session of its own.
fn fresh(model: &Arc<Model>, tokens: &[u32]) -> Vec<f32> {
    let mut session = session(model, 0);
    let id = session.add_sequence().unwrap();
    feed(&mut session, id, tokens)
}

fn pages(len: usize) -> u64 {
    (len as u64).div_ceil(PAGE)
}

#[test]
fn a_fork_goes_its_own_way() {
    for model in [Parts::new().load().unwrap(), growing()] {
        for len in [1, 3, 4, 5, 7, 8, 9, 16, 21, 24, 30] {
            let mut session = session(&model, 0);
            let whole = session.free_pages();
            let (mut text, mut other) = (Random(len as u64).tokens(len), Vec::new());
            let id = session.add_sequence().unwrap();
            feed(&mut session, id, &text);
            let fork = session.fork(id).unwrap();
            assert_eq!(session.len(fork).unwrap(), len as u64);
            assert_eq!(session.free_pages() + pages(len), whole, "a fork takes no page of its own");
            other.clone_from(&text);
            // Together, in one step each: the shared page has one writer at most.
            for round in 0..6 {
                let next = [round + 1, round + 3];
                session.feed(id, &next[..1]).unwrap();
                session.feed(fork, &next[1..]).unwrap();
                text.push(next[0]);
                other.push(next[1]);
                let output = session.step().unwrap();
                let [(a, Ok(first)), (b, Ok(second))] = &output.logits[..] else { panic!("{output:?}") };
                assert_eq!((*a, *b), (id, fork));
                assert_eq!(*first, fresh(&model, &text), "{len} tokens, round {round}");
                assert_eq!(*second, fresh(&model, &other), "{len} tokens, round {round}, the fork");
            }
            let shared = len as u64 / PAGE;
            assert_eq!(session.free_pages() + pages(text.len()) + pages(other.len()) - shared, whole);
            session.remove_sequence(id).unwrap();
            assert_eq!(feed(&mut session, fork, &[9]), fresh(&model, &[&other[..], &[9]].concat()), "alone");
            session.remove_sequence(fork).unwrap();
            assert_eq!(session.free_pages(), whole);
        }
    }
}

#[test]
fn a_fork_has_the_tokens_that_wait_and_the_draws_that_come() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, 0);
    let whole = session.free_pages();
    let id = session.add_sequence().unwrap();
    let sampling = Sampling { temperature: 2.0, repeat_penalty: 1.3, top_k: 9, ..Sampling::default() };
    session.set_sampling(id, sampling, 7).unwrap();
    feed(&mut session, id, &[1, 2, 3, 4, 5, 6]);
    session.feed(id, &[7, 8, 9]).unwrap();
    let fork = session.fork(id).unwrap();
    assert_eq!((session.pending(fork).unwrap(), session.free_pages()), (3, whole - 3 - 2));
    let output = session.step_sampled().unwrap();
    let [(_, Ok(first)), (_, Ok(second))] = output.sampled[..] else { panic!("{output:?}") };
    assert_eq!(first, second, "one text, one draw");
    // Whatever one of the two feeds, the other's last page is its own.
    session.feed(fork, &[1]).unwrap();
    assert_eq!(logits(&mut session, fork), fresh(&model, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1]));
    assert_eq!(feed(&mut session, id, &[2]), fresh(&model, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 2]));
}

#[test]
fn a_fork_that_finds_no_room_changes_nothing() {
    let model = Parts::new().load().unwrap();
    let options = SessionOptions { max_tokens: Some(1), max_sequences: Some(2), ..SessionOptions::default() };
    let mut session = Session::with_kernels(model.clone(), Box::new(Plain), &options).unwrap();
    let id = session.add_sequence().unwrap();
    feed(&mut session, id, &[1, 2]);
    session.feed(id, &[3, 4, 5, 6, 7, 8]).unwrap();
    // Three pages: the sequence has two, its fork would need two for what waits.
    let error = session.fork(id).unwrap_err();
    assert!(error.kind == ErrorKind::Resource && error.message.contains("2 pages"), "{error}");
    assert_eq!(session.free_pages(), 1);
    let other = session.add_sequence().unwrap();
    assert_eq!(session.fork(id).unwrap_err().kind, ErrorKind::Resource, "no sequence is free");
    assert_eq!(logits(&mut session, id), fresh(&model, &[1, 2, 3, 4, 5, 6, 7, 8]));
    session.remove_sequence(other).unwrap();
}

#[test]
fn a_shorter_sequence_is_as_one_that_was_never_longer() {
    for (model, rings) in [(Parts::new().load().unwrap(), true), (growing(), false)] {
        for len in [1usize, 5, 8, 9, 16, 20, 21, 25, 32] {
            let text = Random(7 + len as u64).tokens(len);
            // A ring of 20 tokens: the row at `to` reads the four before it.
            let least = if rings && len > 20 { len - 20 + 4 } else { 1 };
            for to in 0..=len {
                let mut session = session(&model, 0);
                let whole = session.free_pages();
                let id = session.add_sequence().unwrap();
                feed(&mut session, id, &text);
                let cut = session.truncate(id, to as u64);
                if to > 0 && to < least {
                    let error = cut.unwrap_err();
                    let said = format!("{least} is the least length");
                    assert!(error.kind == ErrorKind::BadInput && error.message.contains(&said), "{error}");
                    assert_eq!(session.len(id).unwrap(), len as u64);
                    session.truncate(id, least as u64).unwrap();
                    continue;
                }
                cut.unwrap();
                assert_eq!((session.len(id).unwrap(), session.pending(id).unwrap()), (to as u64, 0));
                assert_eq!(session.free_pages() + pages(to), whole);
                let more = [&text[..to], &[3, 1, 4, 1, 5, 9, 2]].concat();
                assert_eq!(feed(&mut session, id, &more[to..]), fresh(&model, &more), "{len} cut to {to}");
            }
        }
    }
}

/// Taken back and fed again, a token at a time: what a step wrote that was taken back is never read, and a ring that it
/// overwrote is not read either.
#[test]
fn tokens_are_taken_back_again_and_again() {
    let model = Parts::new().load().unwrap();
    for seed in 0..60 {
        let (mut random, mut session) = (Random(seed), session(&model, 0));
        let id = session.add_sequence().unwrap();
        let mut text = Vec::new();
        for _ in 0..20 {
            if random.below(2) == 0 || text.is_empty() {
                let most = (40 - text.len()).min(12);
                if most > 0 {
                    let count = 1 + random.below(most);
                    let tokens = random.tokens(count);
                    text.extend(&tokens);
                    assert_eq!(feed(&mut session, id, &tokens), fresh(&model, &text), "seed {seed}");
                }
            } else {
                let to = random.below(text.len() + 1);
                match session.truncate(id, to as u64) {
                    Ok(()) => text.truncate(to),
                    Err(error) => {
                        let word = error.message.split(": ").nth(1).unwrap().split(' ').next().unwrap();
                        let least: usize = word.parse().unwrap();
                        assert!(least > to && least <= text.len(), "{error}");
                        assert!(session.truncate(id, least as u64 - 1).is_err(), "less than the least");
                        session.truncate(id, least as u64).unwrap();
                        text.truncate(least);
                    }
                }
            }
        }
    }
}

#[test]
fn waiting_tokens_are_taken_back_first() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, 0);
    let whole = session.free_pages();
    let id = session.add_sequence().unwrap();
    let text = Random(5).tokens(30);
    session.feed(id, &text).unwrap();
    session.step().unwrap();
    session.truncate(id, 11).unwrap();
    assert_eq!((session.pending(id).unwrap(), session.free_pages()), (3, whole - 3));
    assert_eq!(logits(&mut session, id), fresh(&model, &text[..11]));
    let error = session.truncate(id, 12).unwrap_err();
    assert!(error.message.contains("has 11 tokens, not 12"), "{error}");
    // A failed step has written to the ring, too.
    session.feed(id, &[&[BAD_TOKEN], &text[..7]].concat()).unwrap();
    assert!(session.step().unwrap().logits[0].1.is_err());
    session.truncate(id, 11).unwrap();
    assert_eq!(feed(&mut session, id, &[1, 2]), fresh(&model, &[&text[..11], &[1, 2]].concat()));
    session.truncate(id, 0).unwrap();
    assert_eq!(session.free_pages(), whole);
    assert_eq!(feed(&mut session, id, &text), fresh(&model, &text), "anew");
}

/// Penalties look at what is left.
#[test]
fn a_shorter_sequence_is_penalised_for_what_it_holds() {
    let model = Parts::new().load().unwrap();
    let sampling = Sampling { repeat_penalty: 50.0, ..Sampling::default() };
    let choose = |cut: bool| {
        let mut session = session(&model, 0);
        let id = session.add_sequence().unwrap();
        session.set_sampling(id, sampling, 1).unwrap();
        session.feed(id, &[1, 2, 3]).unwrap();
        if cut {
            session.feed(id, &(0..BAD_TOKEN).collect::<Vec<_>>()).unwrap();
            while session.pending(id).unwrap() > 0 {
                session.step_sampled().unwrap();
            }
            session.truncate(id, 2).unwrap();
            session.feed(id, &[3]).unwrap();
        }
        session.step_sampled().unwrap().sampled
    };
    assert_eq!(choose(true)[0].1, choose(false)[0].1);
}

#[test]
fn a_stored_prefix_is_where_others_begin() {
    for (model, rings) in [(Parts::new().load().unwrap(), true), (growing(), false)] {
        for len in [3usize, 4, 5, 7, 8, 9, 12, 16, 20, 23, 24] {
            let mut session = session(&model, 2);
            let whole = session.free_pages();
            let text = Random(70 + len as u64).tokens(len);
            let id = session.add_sequence().unwrap();
            feed(&mut session, id, &text);
            let border = len / 4 * 4;
            assert_eq!(session.save_prefix(id, len as u64).unwrap(), border as u64);
            assert_eq!(session.save_prefix(id, len as u64).unwrap(), border as u64, "again");
            // The sequence goes on, and goes.
            feed(&mut session, id, &[5; 9]);
            session.remove_sequence(id).unwrap();
            assert_eq!(session.free_pages(), whole, "stored pages are there for who needs them");
            let next = [&text[..], &[8, 6, 4, 2, 8, 6, 4]].concat();
            for take in [border.saturating_sub(1), border, border + 1, len, len + 7] {
                let tokens = &next[..take.min(next.len())];
                // One token must be left to compute; a ring's window is stored at the prefix's end alone.
                let held = match tokens.len().saturating_sub(1) / 4 * 4 {
                    most if most >= border => border,
                    _ if rings => 0,
                    most => most,
                };
                assert_eq!(session.stored_prefix(tokens), held as u64, "{take} of {len}");
                let (new, found) = session.add_sequence_with_prefix(tokens).unwrap();
                assert_eq!((found, session.len(new).unwrap()), (held as u64, held as u64));
                if tokens.len() > held {
                    let got = feed(&mut session, new, &tokens[held..]);
                    assert_eq!(got, fresh(&model, tokens), "{take} of {len}");
                    let more = feed(&mut session, new, &[1, 2, 3, 1, 2, 3]);
                    assert_eq!(
                        more,
                        fresh(&model, &[tokens, &[1, 2, 3, 1, 2, 3]].concat()),
                        "{take} of {len}"
                    );
                }
                session.remove_sequence(new).unwrap();
            }
            let other = [&text[..border.max(1) - 1], &[(text[border.max(1) - 1] + 1) % 15, 3, 3]].concat();
            assert!(session.stored_prefix(&other) < border.max(1) as u64, "another text");
            session.forget_prefixes();
            assert_eq!((session.stored_prefix(&next), session.free_pages()), (0, whole));
        }
    }
}

/// From a stored window a sequence cannot go back further than it reaches.
#[test]
fn a_restored_sequence_has_its_window_alone() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, 1);
    let text = Random(3).tokens(18);
    let id = session.add_sequence().unwrap();
    feed(&mut session, id, &text);
    // A ring of 20 still holds the window before an earlier border.
    assert_eq!(session.save_prefix(id, 15).unwrap(), 12);
    session.remove_sequence(id).unwrap();
    let (id, held) = session.add_sequence_with_prefix(&text).unwrap();
    assert_eq!(held, 12);
    feed(&mut session, id, &text[12..]);
    // The page before the border holds positions 8 to 11, the window before 12.
    let error = session.truncate(id, 11).unwrap_err();
    assert!(error.message.contains("12 is the least length"), "{error}");
    let fork = session.fork(id).unwrap();
    assert!(session.truncate(fork, 11).is_err(), "nor can its fork");
    session.truncate(fork, 12).unwrap();
    assert_eq!(feed(&mut session, fork, &[4]), fresh(&model, &[&text[..12], &[4]].concat()));
    assert_eq!(session.save_prefix(id, 16).unwrap(), 16);
    let (again, held) = session.add_sequence_with_prefix(&text).unwrap();
    assert_eq!((held, session.stored_prefix(&text[..14])), (16, 0), "the older one went");
    assert_eq!(feed(&mut session, again, &text[16..]), fresh(&model, &text));
}

#[test]
fn what_a_ring_has_lost_is_not_stored() {
    let model = Parts::new().load().unwrap();
    let mut session = session(&model, 1);
    let id = session.add_sequence().unwrap();
    feed(&mut session, id, &Random(3).tokens(38));
    // 38 tokens were written, the ring holds 18 to 37: from 22 on the window is there.
    let error = session.save_prefix(id, 21).unwrap_err();
    assert!(error.message.contains("24 is the least length"), "{error}");
    assert_eq!(session.save_prefix(id, 24).unwrap(), 24);
    let error = session.save_prefix(id, 39).unwrap_err();
    assert!(error.message.contains("has 38 tokens"), "{error}");
    let mut without = self::session(&model, 0);
    let id = without.add_sequence().unwrap();
    let error = without.save_prefix(id, 0).unwrap_err();
    assert!(error.help.unwrap().contains("SessionOptions::prefixes"));
}

/// Where pages run out, stored prefixes give theirs, the one first that was used longest ago; a sequence that has the
/// pages of one keeps them.
#[test]
fn stored_prefixes_give_way() {
    let model = Parts::new().load().unwrap();
    let options = SessionOptions {
        max_tokens: Some(32),
        max_sequences: Some(2),
        prefixes: 3,
        ..SessionOptions::default()
    };
    let mut session = Session::with_kernels(model.clone(), Box::new(Plain), &options).unwrap();
    let texts: Vec<Vec<u32>> = (0..3).map(|i| vec![i; 9]).collect();
    for text in &texts {
        let id = session.add_sequence().unwrap();
        feed(&mut session, id, text);
        session.save_prefix(id, 8).unwrap();
        session.remove_sequence(id).unwrap();
    }
    let stored = |session: &Session| texts.iter().map(|t| session.stored_prefix(t)).collect::<Vec<_>>();
    assert_eq!((stored(&session), session.free_pages()), (vec![8, 8, 8], 10));
    let (user, _) = session.add_sequence_with_prefix(&texts[0]).unwrap();
    assert_eq!(session.free_pages(), 8);
    // 10 pages: 6 are stored, 4 free.
    let id = session.add_sequence().unwrap();
    session.feed(id, &[7; 20]).unwrap();
    assert_eq!(stored(&session), [8, 0, 8]);
    let error = session.feed(id, &[7; 16]).unwrap_err();
    assert!(error.message.contains("4 pages") && error.message.contains("3 are free"), "{error}");
    assert_eq!(stored(&session), [8, 0, 8], "nothing has changed");
    session.feed(id, &[7; 12]).unwrap();
    assert_eq!(stored(&session), [8, 0, 0], "the one in use was used last");
    session.forget_prefixes();
    session.remove_sequence(id).unwrap();
    assert_eq!(feed(&mut session, user, &[0]), fresh(&model, &texts[0]), "its pages are its own now");
}

/// A prefix whose pages a sequence has would give none: it stays, though it was used longest ago.
#[test]
fn a_prefix_in_use_gives_way_to_none() {
    let model = Parts::new().load().unwrap();
    let options = SessionOptions {
        max_tokens: Some(32),
        max_sequences: Some(2),
        prefixes: 2,
        ..SessionOptions::default()
    };
    let mut session = Session::with_kernels(model.clone(), Box::new(Plain), &options).unwrap();
    let texts = [vec![1; 9], vec![2; 9]];
    let [user, other] = texts.each_ref().map(|text| {
        let id = session.add_sequence().unwrap();
        feed(&mut session, id, text);
        session.save_prefix(id, 8).unwrap();
        id
    });
    session.remove_sequence(other).unwrap();
    // 10 pages: 3 are the sequence's, of which 2 are stored, 2 are stored alone.
    assert_eq!(session.free_pages(), 7);
    let id = session.add_sequence().unwrap();
    session.feed(id, &[7; 24]).unwrap();
    let stored = texts.each_ref().map(|text| session.stored_prefix(text));
    assert_eq!((stored, session.free_pages()), ([8, 0], 1));
    assert!(session.feed(id, &[7; 8]).is_err());
    assert_eq!(session.stored_prefix(&texts[0]), 8);
    session.remove_sequence(user).unwrap();
    session.feed(id, &[7; 12]).unwrap();
    assert_eq!(session.stored_prefix(&texts[0]), 0, "nobody uses it any more");
}

#[test]
fn windows_of_prefixes_are_in_the_memory_plan() {
    let model = Parts::new().load().unwrap();
    let caches = |prefixes| {
        let options = SessionOptions { prefixes, ..SessionOptions::default() };
        MemoryPlan::of(&model, &options).unwrap().caches
    };
    // A window of 5 before a border of 4 is a page, of 512 bytes.
    assert_eq!(caches(7), caches(0) + 7 * 512);
}
