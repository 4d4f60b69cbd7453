//! Threads that share one model, each with a session of its own: `pool MODEL.hyc PROMPT...`.

#![allow(clippy::print_stdout)] // An example: it may end at a closed pipe.

use std::sync::{Arc, Mutex};

use hyc_runtime::{GenerateOptions, Model, Result, Session, SessionOptions, Tokenizer};

const WORKERS: usize = 2;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    // SAFETY: whoever names the artefact asks for this program to be run, and does not write to it meanwhile.
    let model = Arc::new(unsafe { Model::load(args.next().unwrap_or_default(), &Default::default()) }?);
    let tokenizer = Tokenizer::of(&model)?;
    let work: Mutex<Vec<(usize, String)>> = Mutex::new(args.enumerate().collect());
    let done: Mutex<Vec<(usize, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..WORKERS).map(|_| scope.spawn(|| worker(&model, &tokenizer, &work, &done))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut done = done.into_inner().expect("no worker panics");
    done.sort();
    done.iter().for_each(|(index, text)| println!("{index} {text}"));
    Ok(())
}

/// Takes prompts until there are none.
fn worker(
    model: &Arc<Model>,
    tokenizer: &Tokenizer,
    work: &Mutex<Vec<(usize, String)>>,
    done: &Mutex<Vec<(usize, String)>>,
) -> Result<()> {
    // One thread and one sequence each: the weights are the model's, and there once.
    let options = SessionOptions { threads: Some(1), max_sequences: Some(1), ..SessionOptions::default() };
    let mut session = Session::new(model.clone(), &options)?;
    let options = GenerateOptions { max_new_tokens: 8, ..GenerateOptions::default() };
    loop {
        let next = work.lock().expect("no worker panics").pop();
        let Some((index, prompt)) = next else { return Ok(()) };
        let text = session.generate(tokenizer, &tokenizer.encode(&prompt)?, &options)?.finish()?.text;
        done.lock().expect("no worker panics").push((index, text.replace('\n', " ")));
    }
}
