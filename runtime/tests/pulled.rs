//! Continuations that are pulled: alone, kept for a second turn, and in batches.

mod common;

use std::sync::Arc;

use common::{BAD_TOKEN, Parts, Plain};
use hyc_runtime::{
    ErrorKind, Event, Finish, GenerateOptions, Generated, Model, Prompt, Session, SessionOptions, Tokenizer,
};

fn model() -> Arc<Model> {
    Parts::new().with_tokenizer().load().unwrap()
}

fn session(model: &Arc<Model>, options: &SessionOptions) -> Session {
    Session::with_kernels(model.clone(), Box::new(Plain), options).unwrap()
}

fn options(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens, ..GenerateOptions::default() }
}

fn prompt(tokens: &[u32], max_new_tokens: usize) -> Prompt {
    Prompt { tokens: tokens.to_vec(), options: options(max_new_tokens) }
}

fn alone(model: &Arc<Model>, prompt: &Prompt) -> Generated {
    let tokenizer = Tokenizer::of(model).unwrap();
    let mut session = session(model, &SessionOptions::default());
    session.generate(&tokenizer, &prompt.tokens, &prompt.options).unwrap().finish().unwrap()
}

/// All slots and all pages are free.
fn check_empty(session: &mut Session) {
    assert_eq!(session.free_pages(), session.memory().room.pages, "pages stayed behind");
    let slots = session.memory().room.sequences;
    let all: Vec<_> = (0..slots).map(|_| session.add_sequence().expect("a slot stayed behind")).collect();
    all.into_iter().for_each(|id| session.remove_sequence(id).unwrap());
}

#[test]
fn the_default_does_something() {
    let model = model();
    let done = alone(&model, &Prompt { tokens: vec![1, 2, 3], ..Prompt::default() });
    assert!(done.tokens.len() > 8, "{done:?}");
}

#[test]
fn the_last_event_is_the_end_and_nothing_comes_behind_it() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let mut generation = session.generate(&tokenizer, &[1, 2, 3], &options(4)).unwrap();
    let events: Vec<Event> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(events.last(), Some(&Event::End(Finish::Length)));
    assert_eq!(events.iter().filter(|event| matches!(event, Event::End(_))).count(), 1);
    assert_eq!(generation.next(), None);
    drop(generation);
    check_empty(&mut session);
}

#[test]
fn a_generation_that_is_dropped_leaves_nothing() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    for taken in 0..6 {
        let generation = session.generate(&tokenizer, &[1, 2, 3], &options(8)).unwrap();
        generation.take(taken).for_each(|event| drop(event.unwrap()));
        check_empty(&mut session);
    }
    assert_eq!(session.generate(&tokenizer, &[], &options(8)).err().unwrap().kind, ErrorKind::BadInput);
    assert_eq!(session.generate(&tokenizer, &[99], &options(8)).err().unwrap().kind, ErrorKind::BadInput);
    check_empty(&mut session);
}

/// An error ends a generation; what is cancelled is one.
#[test]
fn nothing_comes_behind_an_error() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let mut generation = session.generate(&tokenizer, &[1, BAD_TOKEN], &options(8)).unwrap();
    assert_eq!(generation.next().unwrap().unwrap_err().kind, ErrorKind::BadNumbers);
    assert_eq!(generation.next(), None);
    drop(generation);
    let mut generation = session.generate(&tokenizer, &[1, 2], &options(8)).unwrap();
    generation.next().unwrap().unwrap();
    generation.cancel_token().cancel();
    let rest: Vec<_> = generation.by_ref().filter_map(Result::err).collect();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].kind, ErrorKind::Cancelled);
    drop(generation);
    check_empty(&mut session);
}

#[test]
fn a_kept_sequence_gives_what_a_new_one_gives() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let mut first = session.generate(&tokenizer, &[1, 2, 3], &options(4)).unwrap();
    first.by_ref().for_each(|event| drop(event.unwrap()));
    let mut text = [&[1, 2, 3], first.so_far().tokens.as_slice()].concat();
    let kept = first.keep();
    assert_eq!(session.tokens(kept).unwrap(), &text[..text.len() - 1]);
    text.push(5);
    let again = alone(&model, &Prompt { tokens: text.clone(), options: options(4) });
    let second = session.generate_in(kept, &tokenizer, &text, &options(4)).unwrap().finish().unwrap();
    assert_eq!(second.tokens, again.tokens);
    session.remove_sequence(kept).unwrap();
    check_empty(&mut session);
}

/// More prompts than there are sequences, of all lengths: each gives what it gives alone.
#[test]
fn a_batch_gives_what_each_prompt_gives_alone() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let prompts: Vec<Prompt> = (1..9)
        .map(|n| prompt(&(0..n).map(|i| (i * 3 + n) % 14).collect::<Vec<u32>>(), 1 + n as usize % 5))
        .collect();
    let mut session = session(&model, &SessionOptions::default());
    let mut batch = session.generate_batch(&tokenizer, prompts.clone());
    let mut seen = vec![Vec::new(); prompts.len()];
    for (index, event) in batch.by_ref() {
        seen[index].push(event.unwrap());
    }
    let done = batch.finish();
    for ((prompt, done), events) in prompts.iter().zip(&done).zip(&seen) {
        let alone = alone(&model, prompt);
        assert_eq!(done.as_ref().unwrap().tokens, alone.tokens);
        let tokens = events
            .iter()
            .filter_map(|event| if let Event::Token(token) = event { Some(*token) } else { None });
        assert_eq!(tokens.collect::<Vec<_>>(), alone.tokens);
        assert_eq!(events.last(), Some(&Event::End(alone.finish)));
        let through = |event: &&Event| matches!(event, Event::Prefill { done, total } if done == total);
        assert_eq!(events.iter().filter(through).count(), 1);
    }
    check_empty(&mut session);
}

#[test]
fn one_prompt_s_error_is_no_other_s() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let prompts = vec![
        prompt(&[1, 2], 3),
        prompt(&[1, BAD_TOKEN], 3),
        prompt(&[], 3),
        prompt(&[4], 3),
        prompt(&[5], 3),
    ];
    let mut batch = session.generate_batch(&tokenizer, prompts.clone());
    batch.cancel_token(3).unwrap().cancel();
    assert!(batch.cancel_token(5).is_none());
    let errors: Vec<(usize, ErrorKind)> =
        batch.by_ref().filter_map(|(index, event)| Some((index, event.err()?.kind))).collect();
    let done = batch.finish();
    let mut kinds = errors.clone();
    kinds.sort_by_key(|(index, _)| *index);
    assert_eq!(kinds, [(1, ErrorKind::BadNumbers), (2, ErrorKind::BadInput), (3, ErrorKind::Cancelled)]);
    for index in [0, 4] {
        assert_eq!(done[index].as_ref().unwrap().tokens, alone(&model, &prompts[index]).tokens);
    }
    assert!([1, 2, 3].iter().all(|index| done[*index].is_err()));
    check_empty(&mut session);
}

/// Where pages are few, prompts wait for those of others; one that has too few by itself is told so.
#[test]
fn prompts_wait_for_pages() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let few = SessionOptions { max_tokens: Some(12), ..SessionOptions::default() };
    let mut session = session(&model, &few);
    let long: Vec<u32> = (0..20).map(|i| i % 14).collect();
    let prompts = vec![prompt(&long, 2), prompt(&long, 2), prompt(&[1; 39], 1)];
    let done = session.generate_batch(&tokenizer, prompts).finish();
    assert!(done[0].is_ok() && done[1].is_ok(), "{done:?}");
    assert_eq!(done[2].as_ref().unwrap_err().kind, ErrorKind::Resource);
    check_empty(&mut session);
}

#[test]
fn a_batch_that_is_dropped_leaves_nothing() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let mut session = session(&model, &SessionOptions::default());
    let other = session.add_sequence().unwrap();
    session.feed(other, &[1, 2]).unwrap();
    for taken in 0..8 {
        let batch =
            session.generate_batch(&tokenizer, vec![prompt(&[1, 2], 4), prompt(&[3], 4), prompt(&[4], 4)]);
        batch.take(taken).for_each(|(_, event)| drop(event.unwrap()));
        assert_eq!(session.pending(other).unwrap(), 2, "another sequence went on");
    }
    session.remove_sequence(other).unwrap();
    check_empty(&mut session);
}

#[test]
fn outputs_are_of_the_last_step_and_of_who_was_in_it() {
    let model = model();
    let mut session = session(&model, &SessionOptions::default());
    let (a, b) = (session.add_sequence().unwrap(), session.add_sequence().unwrap());
    let error = session.output(a, "logits").unwrap_err();
    assert!(error.message.contains("no row of outputs"), "{error}");
    session.feed(a, &[1, 2, 3]).unwrap();
    session.feed(b, &[4]).unwrap();
    let logits = session.step().unwrap().logits;
    for (id, row) in &logits {
        assert_eq!(session.output(*id, "logits").as_ref(), row.as_ref());
    }
    let hidden = session.output(a, "hidden").unwrap();
    assert!(hidden.iter().all(|x| x.is_finite()) && hidden != session.output(b, "hidden").unwrap());
    assert!(session.output(a, "softmax").unwrap_err().help.unwrap().contains("logits, hidden"));
    session.feed(b, &[5]).unwrap();
    session.step_sampled().unwrap();
    assert!(session.output(a, "logits").is_err(), "it was not in that step");
    session.remove_sequence(b).unwrap();
    assert!(session.output(b, "logits").is_err());
}
