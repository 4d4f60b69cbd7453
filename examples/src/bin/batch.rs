//! Three prompts in one batch, with stop texts, one of them cancelled: `batch MODEL.hyc PROMPT PROMPT PROMPT`.

#![allow(clippy::print_stdout)] // An example: it may end at a closed pipe.

use hyc_runtime::{Event, GenerateOptions, Model, Prompt, Session, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // SAFETY: whoever names the artefact asks for this program to be run, and does not write to it meanwhile.
    let model = unsafe { Model::load(args.next().unwrap_or_default(), &Default::default()) }?;
    let tokenizer = Tokenizer::of(&model)?;
    let mut session = Session::new(model, &Default::default())?;
    let options = GenerateOptions {
        max_new_tokens: 24,
        stop: vec![".".to_string(), "\n".to_string()],
        ..GenerateOptions::default()
    };
    let prompts: Vec<Prompt> = args
        .map(|text| Ok(Prompt { tokens: tokenizer.encode(&text)?, options: options.clone() }))
        .collect::<hyc_runtime::Result<_>>()?;
    let mut batch = session.generate_batch(&tokenizer, prompts);
    // From here, or from any other thread.
    let cancel = batch.cancel_token(2).cloned().unwrap_or_default();
    let mut tokens = [0; 3];
    for (index, event) in batch.by_ref() {
        if matches!(event, Ok(Event::Token(_))) {
            tokens[index] += 1;
            if tokens[2] == 3 {
                cancel.cancel();
            }
        }
    }
    for (index, done) in batch.finish().into_iter().enumerate() {
        match done {
            Ok(done) => println!("{index} {:?} {}", done.finish, done.text.trim_end()),
            Err(error) => println!("{index} {error} after {} tokens", tokens[index]),
        }
    }
    Ok(())
}
