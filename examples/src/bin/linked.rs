//! The tiny model, linked into this program: `linked [PROMPT]` prints how it goes on, and the tokens. Its weights are mapped from the artefact that the build
//! wrote, or from the one that `HYC_WEIGHTS` names.

#![allow(clippy::print_stdout, clippy::disallowed_methods)] // An example: it may end at a closed pipe.

#[cfg(feature = "text")]
use std::io::Write;

hyc_runtime::linked_model!(mod tiny);

fn main() -> hyc_runtime::Result<()> {
    let weights = std::env::var_os("HYC_WEIGHTS").unwrap_or_else(|| tiny::ARTEFACT.into());
    // SAFETY: nobody writes to the build's artefact.
    let model = unsafe { tiny::load_with_weights(weights, &Default::default()) }?;
    assert_eq!(model.plan().model.vocab, tiny::VOCAB);
    let prompt = std::env::args().nth(1);
    let tokens = run(model, prompt.as_deref().unwrap_or("The kernel"))?;
    println!("{tokens:?}");
    Ok(())
}

#[cfg(feature = "text")]
fn run(model: hyc_runtime::Model, prompt: &str) -> hyc_runtime::Result<Vec<u32>> {
    let tokenizer = hyc_runtime::Tokenizer::of(&model)?;
    let mut session = hyc_runtime::Session::new(model, &Default::default())?;
    let options = hyc_runtime::GenerateOptions { max_new_tokens: 16, seed: Some(7), ..Default::default() };
    let mut generation = session.generate(&tokenizer, &tokenizer.encode(prompt)?, &options)?;
    for event in generation.by_ref() {
        if let hyc_runtime::Event::Text(text) = event? {
            print!("{text}");
            // Whoever reads this may have gone.
            _ = std::io::stdout().flush();
        }
    }
    println!();
    Ok(generation.finish()?.tokens)
}

/// Without a tokenizer, a prompt is a list of token ids.
#[cfg(not(feature = "text"))]
fn run(model: hyc_runtime::Model, prompt: &str) -> hyc_runtime::Result<Vec<u32>> {
    let mut session = hyc_runtime::Session::new(model, &Default::default())?;
    let id = session.add_sequence()?;
    let mut next: Vec<u32> = prompt.split(',').filter_map(|id| id.trim().parse().ok()).collect();
    next.extend(Some(1).filter(|_| next.is_empty()));
    let mut tokens = Vec::new();
    while tokens.len() < 16 {
        session.feed(id, &next)?;
        next.clear();
        while next.is_empty() {
            for (_, token) in session.step_sampled()?.sampled {
                next.push(token?);
            }
        }
        println!("{next:?}");
        tokens.extend(&next);
    }
    Ok(tokens)
}
