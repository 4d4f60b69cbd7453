//! An artefact's way of sampling, and what penalties do over a session's sequences.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{BAD_TOKEN, Parts, Plain, naive};
use hyc_plan::artefact::{EVAL_KEY, SAMPLING_KEY, TEXT_KEY};
use hyc_plan::eval::EvalGates;
use hyc_runtime::{
    CancelToken, Error, ErrorKind, GenerateOptions, Generated, Model, Sampler, Sampling, SamplingDefaults,
    Session, SessionOptions, TextSettings, Tokenizer, generate,
};

fn session(model: &Arc<Model>) -> Session {
    Session::with_kernels(model.clone(), Box::new(Plain), &SessionOptions::default()).unwrap()
}

/// A model whose artefact says how to sample.
fn saying(defaults: SamplingDefaults) -> Arc<Model> {
    let json = defaults.to_json().unwrap();
    Parts::new().with_tokenizer().with_metadata(SAMPLING_KEY, &json).load().unwrap()
}

/// Settings that seldom choose the token whose embedding is infinite: its logit is 0.
fn safe() -> Sampling {
    Sampling { temperature: 0.5, top_k: 4, ..Sampling::default() }
}

fn run(model: &Arc<Model>, options: &GenerateOptions) -> Generated {
    attempt(model, options).unwrap()
}

/// An error where a seed chooses the token whose embedding is infinite.
fn attempt(model: &Arc<Model>, options: &GenerateOptions) -> Result<Generated, Error> {
    let tokenizer = Tokenizer::of(model).unwrap();
    let options = GenerateOptions { max_new_tokens: 20, ..options.clone() };
    generate(&mut session(model), &tokenizer, &[1, 2, 3], &options, &CancelToken::new(), &mut |_| {})
}

#[test]
fn an_artefact_says_how_to_sample() {
    let plain = Parts::new().load().unwrap();
    assert_eq!(plain.sampling_defaults(), SamplingDefaults { sampling: Sampling::default(), seed: None });
    let defaults = SamplingDefaults { sampling: safe(), seed: Some(9) };
    assert_eq!(saying(defaults).sampling_defaults(), defaults);
    let good = defaults.to_json().unwrap();
    for bad in ["", "{}", "null", &good.replace("0.5", "-0.5"), &good.replace("top_k", "top_j"), &good[1..]] {
        let error = Parts::new().with_metadata(SAMPLING_KEY, bad).load().err().expect(bad);
        assert_eq!(error.kind, ErrorKind::BadArtefact, "{bad}: {error}");
        assert!(error.message.contains("its sampling") && error.help.is_some(), "{bad}: {error}");
    }
}

/// What must hold on a text is checked as it is read, and nothing else goes by it.
#[test]
fn an_artefact_says_what_must_hold_on_a_text() {
    assert_eq!(Parts::new().load().unwrap().eval_gates(), None);
    let gates = EvalGates { recall: Some(0.9), context: Some(32), ..EvalGates::default() };
    let good = gates.to_json().unwrap();
    let model = Parts::new().with_metadata(EVAL_KEY, &good).load().unwrap();
    assert_eq!(model.eval_gates(), Some(gates));
    for bad in ["", "null", &good.replace("0.9", "1.9"), &good.replace("recall", "memory"), &good[1..]] {
        let error = Parts::new().with_metadata(EVAL_KEY, bad).load().err().expect(bad);
        assert_eq!(error.kind, ErrorKind::BadArtefact, "{bad}: {error}");
        assert!(error.message.contains("gates of [eval]") && error.help.is_some(), "{bad}: {error}");
    }
}

#[test]
fn generation_follows_the_artefact_and_options_go_over_it() {
    let model = saying(SamplingDefaults { sampling: safe(), seed: Some(9) });
    let default = run(&model, &GenerateOptions::default());
    assert_eq!(default.seed, 9);
    let explicit = GenerateOptions { sampling: Some(safe()), seed: Some(9), ..GenerateOptions::default() };
    assert_eq!(run(&model, &explicit), default);
    let plain = Parts::new().with_tokenizer().load().unwrap();
    assert_eq!(run(&plain, &explicit), default);
    let greedy = GenerateOptions { sampling: Some(Sampling::default()), ..GenerateOptions::default() };
    assert_eq!(run(&model, &greedy).tokens, run(&plain, &GenerateOptions::default()).tokens);
    assert_ne!(run(&model, &greedy).tokens, default.tokens);
}

/// Without a seed every run draws its own, which repeats it.
#[test]
fn a_random_seed_is_told_and_repeats_the_run() {
    let model = saying(SamplingDefaults { sampling: safe(), seed: None });
    let any = || (0..100).find_map(|_| attempt(&model, &GenerateOptions::default()).ok()).unwrap();
    let first = any();
    let again = GenerateOptions { seed: Some(first.seed), ..GenerateOptions::default() };
    assert_eq!(run(&model, &again), first);
    let others: Vec<Generated> = (0..10).map(|_| any()).collect();
    assert!(others.iter().all(|other| other.seed != first.seed));
    assert!(others.iter().any(|other| other.tokens != first.tokens));
}

/// What the tokenizer cannot name is never chosen, however likely it is or however a penalty rewards it: on the host, and
/// where the plan does it.
#[test]
fn tokens_without_a_name_are_not_chosen() {
    let chosen = |parts: Parts| {
        let mut session = session(&parts.load().unwrap());
        let mut found = BTreeSet::new();
        for seed in 0..40 {
            let id = session.add_sequence().unwrap();
            let rewarding = Sampling { temperature: 3.0, presence_penalty: -2.0, ..Sampling::default() };
            session.set_sampling(id, if seed == 0 { Sampling::default() } else { rewarding }, seed).unwrap();
            session.feed(id, &[1, 2, 9, 3]).unwrap();
            found
                .extend(session.step_sampled().unwrap().sampled.into_iter().map(|(_, token)| token.unwrap()));
            session.remove_sequence(id).unwrap();
        }
        found
    };
    for parts in [|| Parts::new(), || Parts::new().named(4)] {
        let (host, device) = (chosen(parts()), chosen(parts().sampling()));
        assert_eq!(host, device);
        let all = parts().plan.model.named.is_none();
        assert_eq!(host.iter().any(|token| *token >= 4), all, "{host:?}");
    }
}

/// Settings for sequences of one batch, all different.
fn settings() -> [Sampling; 3] {
    [
        Sampling { repeat_penalty: 1.3, ..safe() },
        Sampling { presence_penalty: 1.0, frequency_penalty: 0.25, penalty_window: 4, ..Sampling::default() },
        Sampling { repeat_penalty: 0.8, frequency_penalty: -0.5, penalty_window: 9, ..safe() },
    ]
}

/// A model whose plan chooses tokens itself, as a GPU's does.
fn choosing() -> Arc<Model> {
    Parts::new().sampling().load().unwrap()
}

/// Ids between tokens that the tokenizer has none for are never chosen: by the host, and where the plan would choose by itself.
#[test]
fn ids_without_a_token_are_never_chosen() {
    let settings = |unnamed: &[[u32; 2]]| {
        let settings = TextSettings { unnamed: unnamed.to_vec(), ..TextSettings::default() };
        serde_json::to_string(&settings).unwrap()
    };
    let likeliest = |model: Arc<Model>, sampling: Sampling| {
        let mut session = session(&model);
        let mut found = BTreeSet::new();
        for seed in 0..60 {
            let id = session.add_sequence().unwrap();
            session.set_sampling(id, sampling, seed).unwrap();
            session.feed(id, &[1 + seed as u32 % 5, 2]).unwrap();
            let chosen = session.step_sampled().unwrap().sampled.remove(0).1.unwrap();
            session.remove_sequence(id).unwrap();
            found.insert(chosen);
        }
        found
    };
    for sampling in [safe(), Sampling { temperature: 2.0, ..Sampling::default() }] {
        let all = likeliest(Parts::new().load().unwrap(), sampling);
        let (first, last) = (*all.first().unwrap(), *all.range(..BAD_TOKEN).last().unwrap());
        assert!(all.len() > 3, "{all:?}");
        let json = settings(&[[first, first + 1], [last, last + 1]]);
        let parts = || Parts::new().with_tokenizer().with_metadata(TEXT_KEY, &json);
        let named = likeliest(parts().load().unwrap(), sampling);
        assert!(!named.contains(&first) && !named.contains(&last), "{named:?}");
        assert_eq!(likeliest(parts().sampling().load().unwrap(), sampling), named);
    }
    for wrong in [&[[3, 3]][..], &[[0, 16]], &[[15, 17]], &[[2, 3], [1, 2]]] {
        let error = Parts::new().with_metadata(TEXT_KEY, &settings(wrong)).load().err().expect("refused");
        assert!(error.kind == ErrorKind::BadArtefact && error.help.is_some(), "{error}");
    }
}

/// Every sequence of a batch chooses what a sampler with its settings chooses that has seen the same tokens, the first
/// of them the prompt's; on the host, and where the plan does it.
#[test]
fn penalties_follow_each_sequence() {
    for model in [Parts::new().load().unwrap(), choosing()] {
        follow_each_sequence(&model);
    }
}

fn follow_each_sequence(model: &Arc<Model>) {
    let mut session = session(model);
    let prompts = [vec![1, 2, 1], vec![2, 3], vec![4, 5, 6, 5]];
    let mut rows = Vec::new();
    for (index, (sampling, prompt)) in settings().into_iter().zip(prompts).enumerate() {
        let id = session.add_sequence().unwrap();
        session.set_sampling(id, sampling, index as u64).unwrap();
        let mut sampler = Sampler::new(sampling, index as u64);
        sampler.see(&prompt, false);
        session.feed(id, &prompt).unwrap();
        rows.push((id, sampler, prompt));
    }
    let mut changed = 0;
    for round in 0..20 {
        let mut found = session.step_sampled().unwrap().sampled;
        found.sort_unstable_by_key(|(id, _)| *id);
        for ((id, sampler, tokens), found) in rows.iter_mut().zip(found) {
            let logits = naive(tokens);
            let token = sampler.sample(&logits);
            assert_eq!(found, (*id, Ok(token)), "round {round}");
            assert_ne!(token, BAD_TOKEN);
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            changed += usize::from(logits[token as usize] < most);
            sampler.see(&[token], true);
            tokens.push(token);
            session.feed(*id, &[token]).unwrap();
        }
    }
    assert!(changed > 10, "{changed} tokens were not the likeliest");
}

/// A token that a user feeds is the prompt's, unless it is the one that was chosen.
#[test]
fn what_is_fed_is_the_prompts_unless_it_was_chosen() {
    let model = Parts::new().load().unwrap();
    let presence = Sampling { presence_penalty: 2.0, ..Sampling::default() };
    let chosen = |own: bool| {
        let mut session = session(&model);
        let id = session.add_sequence().unwrap();
        session.set_sampling(id, presence, 0).unwrap();
        session.feed(id, &[1, 2, 3]).unwrap();
        let token = session.step_sampled().unwrap().sampled.remove(0).1.unwrap();
        // The same tokens in the cache, one of them as it was chosen or not.
        if own {
            session.feed(id, &[token, 4]).unwrap();
        } else {
            session.remove_sequence(id).unwrap();
            let id = session.add_sequence().unwrap();
            session.set_sampling(id, presence, 0).unwrap();
            session.feed(id, &[1, 2, 3, token, 4]).unwrap();
        }
        (token, session.step_sampled().unwrap().sampled.remove(0).1.unwrap())
    };
    let naive_next = |tokens: &[u32], lowered: Option<u32>| {
        let mut logits = naive(tokens);
        lowered.into_iter().for_each(|token| logits[token as usize] -= 2.0);
        let most = logits.iter().copied().fold(f32::MIN, f32::max);
        logits.iter().position(|x| *x == most).unwrap() as u32
    };
    let (token, next) = chosen(true);
    assert_eq!(next, naive_next(&[1, 2, 3, token, 4], Some(token)));
    assert_eq!(chosen(false), (token, naive_next(&[1, 2, 3, token, 4], None)));
}
