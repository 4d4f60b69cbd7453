//! Continues a prompt: `one-shot MODEL.hyc PROMPT`.

#![allow(clippy::print_stdout)] // An example: it may end at a closed pipe.

use hyc_runtime::{Event, Model, Session, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [path, prompt] = [1, 2].map(|at| std::env::args().nth(at).unwrap_or_default());
    // SAFETY: whoever names the artefact asks for this program to be run, and does not write to it meanwhile.
    let model = unsafe { Model::load(path, &Default::default()) }?;
    let tokenizer = Tokenizer::of(&model)?;
    let mut session = Session::new(model, &Default::default())?;
    for event in session.generate(&tokenizer, &tokenizer.encode(&prompt)?, &Default::default())? {
        if let Event::Text(text) = event? {
            print!("{text}");
        }
    }
    println!();
    Ok(())
}
