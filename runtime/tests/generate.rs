//! Generation on the hand-made model: equal answers, stops, and that a sequence never stays behind.

mod common;

use std::sync::Arc;

use common::{BAD_TOKEN, Parts, Plain, Random, naive};
use hyc_runtime::{
    CancelToken, Error, ErrorKind, Event, Finish, GenerateOptions, Generated, Model, Sampling, Session,
    SessionOptions, Tokenizer, generate, generate_in,
};

fn model() -> Arc<Model> {
    Parts::new().with_tokenizer().load().unwrap()
}

/// Generates in a fresh session and sees that it is empty again afterwards.
fn run(
    model: &Arc<Model>,
    prompt: &[u32],
    options: &GenerateOptions,
    cancel: &CancelToken,
    on_event: &mut dyn FnMut(Event),
) -> Result<Generated, Error> {
    let mut session =
        Session::with_kernels(model.clone(), Box::new(Plain), &SessionOptions::default()).unwrap();
    let free = session.free_pages();
    let tokenizer = Tokenizer::of(model).unwrap();
    let result = generate(&mut session, &tokenizer, prompt, options, cancel, on_event);
    assert_eq!(session.free_pages(), free, "pages stayed behind");
    for _ in 0..3 {
        session.add_sequence().expect("a slot stayed behind");
    }
    result
}

fn simple(model: &Arc<Model>, options: &GenerateOptions) -> Generated {
    run(model, &[1, 2, 3], options, &CancelToken::new(), &mut |_| {}).unwrap()
}

fn sampled(seed: u64) -> GenerateOptions {
    let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
    GenerateOptions {
        max_new_tokens: 24,
        seed: Some(seed),
        sampling: Some(sampling),
        ..GenerateOptions::default()
    }
}

#[test]
fn greedy_takes_the_largest_logit_each_time() {
    let model = model();
    let done = simple(&model, &GenerateOptions { max_new_tokens: 12, ..GenerateOptions::default() });
    assert_eq!((done.tokens.len(), done.finish), (12, Finish::Length));
    let mut tokens = vec![1, 2, 3];
    for token in &done.tokens {
        let logits = naive(&tokens);
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!(logits[*token as usize] >= best - 1e-4, "{token} after {tokens:?}");
        tokens.push(*token);
    }
}

/// The first seed whose tokens are all finite, and what it gives.
fn finite_seed(model: &Arc<Model>) -> (u64, Generated) {
    let one = |seed| run(model, &[1, 2, 3], &sampled(seed), &CancelToken::new(), &mut |_| {}).ok();
    (0..50).find_map(|seed| Some((seed, one(seed)?))).expect("a seed without the bad token")
}

#[test]
fn seeds_repeat() {
    let model = model();
    let (seed, first) = finite_seed(&model);
    assert_eq!(simple(&model, &sampled(seed)), first);
    let (_, second) = (seed + 1..seed + 50)
        .find_map(|s| {
            let done = run(&model, &[1, 2, 3], &sampled(s), &CancelToken::new(), &mut |_| {}).ok()?;
            Some((s, done))
        })
        .unwrap();
    assert_ne!(first.tokens, second.tokens);
}

#[test]
fn events_are_the_result() {
    let model = model();
    let prompt = Random(4).tokens(19);
    let options = GenerateOptions { max_new_tokens: 5, ..GenerateOptions::default() };
    let (mut prefill, mut tokens, mut text, mut end) = (Vec::new(), Vec::new(), String::new(), None);
    let done = run(&model, &prompt, &options, &CancelToken::new(), &mut |event| match event {
        Event::Prefill { done, total } => prefill.push((done, total)),
        Event::Token(token) => tokens.push(token),
        Event::Text(part) => text.push_str(&part),
        Event::End(finish) => end = Some(finish),
    })
    .unwrap();
    assert_eq!(prefill, [(8, 19), (16, 19), (19, 19)]);
    assert_eq!((tokens, text, end), (done.tokens, done.text, Some(done.finish)));
}

#[test]
fn stop_strings_and_tokens_end_it() {
    let model = model();
    let (seed, whole) = finite_seed(&model);
    for begin in [0, 5, 20] {
        let stop = whole.text[begin..begin + 3].to_string();
        let first = whole.text.find(&stop).unwrap();
        let mut shown = String::new();
        let options = GenerateOptions { stop: vec![stop, "no such text".into()], ..sampled(seed) };
        let done = run(&model, &[1, 2, 3], &options, &CancelToken::new(), &mut |event| {
            if let Event::Text(part) = event {
                shown.push_str(&part);
                assert!(whole.text[..first].starts_with(&shown), "{shown} shows a part of the stop string");
            }
        })
        .unwrap();
        assert_eq!((done.text.as_str(), done.finish), (&whole.text[..first], Finish::Stop));
        assert_eq!(shown, done.text);
    }
    let token = whole.tokens[6];
    let at = whole.tokens.iter().position(|t| *t == token).unwrap();
    let done = simple(&model, &GenerateOptions { stop_tokens: vec![token], ..sampled(seed) });
    assert_eq!((done.tokens.as_slice(), done.finish), (&whole.tokens[..at], Finish::Stop));
}

#[test]
fn cancelling_ends_it_between_steps() {
    let model = model();
    let options = GenerateOptions { max_new_tokens: 10, ..GenerateOptions::default() };
    let early = CancelToken::new();
    early.cancel();
    let mut events = 0;
    let error = run(&model, &[1], &options, &early, &mut |_| events += 1).unwrap_err();
    assert_eq!((error.kind, events), (ErrorKind::Cancelled, 0));

    let (cancel, prompt, mut through) = (CancelToken::new(), Random(2).tokens(30), 0);
    let error = run(&model, &prompt, &options, &cancel, &mut |event| {
        if let Event::Prefill { done, .. } = event {
            through = done;
            cancel.cancel();
        }
    });
    assert_eq!((error.unwrap_err().kind, through), (ErrorKind::Cancelled, 8));

    let (cancel, mut tokens) = (CancelToken::new(), 0);
    let error = run(&model, &[1], &options, &cancel, &mut |event| {
        if let Event::Token(_) = event {
            tokens += 1;
            if tokens == 3 {
                cancel.cancel();
            }
        }
    });
    assert_eq!((error.unwrap_err().kind, tokens), (ErrorKind::Cancelled, 3));
}

/// What a cancelled prompt left waiting is taken up by the same call again.
#[test]
fn a_cancelled_prompt_can_be_taken_up_again() {
    let model = model();
    let tokenizer = Tokenizer::of(&model).unwrap();
    let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    let prompt = Random(2).tokens(30);
    let mut session =
        Session::with_kernels(model.clone(), Box::new(Plain), &SessionOptions::default()).unwrap();
    let whole = generate(&mut session, &tokenizer, &prompt, &options, &CancelToken::new(), &mut |_| {});
    let id = session.add_sequence().unwrap();
    let cancel = CancelToken::new();
    let error =
        generate_in(&mut session, id, &tokenizer, &prompt, &options, &cancel, &mut |_| cancel.cancel());
    assert_eq!(error.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(session.pending(id).unwrap() > 0);
    let mut go = |tokens: &[u32]| {
        generate_in(&mut session, id, &tokenizer, tokens, &options, &CancelToken::new(), &mut |_| {})
    };
    assert!(go(&prompt[..29]).unwrap_err().message.contains("nothing new"));
    let again = go(&prompt).unwrap();
    assert_eq!(again.tokens, whole.unwrap().tokens);
    let held = [prompt, again.tokens[..3].to_vec()].concat();
    assert!(go(&held).unwrap_err().message.contains("nothing new"));
}

#[test]
fn the_context_ends_it() {
    let model = model();
    let options = GenerateOptions { max_new_tokens: 100, ..GenerateOptions::default() };
    let prompt = Random(6).tokens(35);
    let done = run(&model, &prompt, &options, &CancelToken::new(), &mut |_| {}).unwrap();
    // Five more fit; the last one chosen needs no place.
    assert_eq!((done.tokens.len(), done.finish), (6, Finish::Context));
    let error = run(&model, &Random(6).tokens(41), &options, &CancelToken::new(), &mut |_| {}).unwrap_err();
    assert_eq!(error.kind, ErrorKind::BadInput);
    assert!(error.message.contains("41 tokens") && error.help.is_some(), "{error}");
}

#[test]
fn bad_requests_are_errors() {
    let model = model();
    let options = GenerateOptions { max_new_tokens: 4, ..GenerateOptions::default() };
    let refuse = |prompt: &[u32], options: &GenerateOptions| {
        run(&model, prompt, options, &CancelToken::new(), &mut |_| {}).unwrap_err()
    };
    assert!(refuse(&[], &options).message.contains("empty"));
    assert!(refuse(&[99], &options).message.contains("99"));
    let sampling = Sampling { min_p: 2.0, ..Sampling::default() };
    assert!(
        refuse(&[1], &GenerateOptions { sampling: Some(sampling), ..options.clone() })
            .message
            .contains("min_p")
    );
    assert_eq!(refuse(&[1, BAD_TOKEN], &options).kind, ErrorKind::BadNumbers);
}
