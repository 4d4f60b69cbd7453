//! Turn after turn on one sequence, of which each turn computes what is new: `chat MODEL.hyc TURN...`. `/undo` as a turn
//! takes the one before back.

#![allow(clippy::print_stdout)] // An example: it may end at a closed pipe.

use hyc_runtime::{Event, GenerateOptions, Model, SequenceId, Session, Tokenizer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    // SAFETY: whoever names the artefact asks for this program to be run, and does not write to it meanwhile.
    let model = unsafe { Model::load(args.next().unwrap_or_default(), &Default::default()) }?;
    let tokenizer = Tokenizer::of(&model)?;
    let mut session = Session::new(model, &Default::default())?;
    let id = session.add_sequence()?;
    // All that was said, and where each turn began.
    let (mut text, mut turns) = (Vec::new(), Vec::new());
    for turn in args {
        if turn == "/undo" {
            undo(&mut session, id, &mut text, turns.pop().unwrap_or(0))?;
            continue;
        }
        turns.push(text.len());
        let new = if text.is_empty() { tokenizer.encode(&turn)? } else { tokenizer.encode_bare(&turn)? };
        text.extend(new);
        let options = GenerateOptions { max_new_tokens: 16, ..GenerateOptions::default() };
        let held = session.len(id)?;
        let mut answer = session.generate_in(id, &tokenizer, &text, &options)?;
        print!("[{} new tokens]{turn}", text.len() as u64 - held);
        for event in answer.by_ref() {
            if let Event::Text(part) = event? {
                print!("{part}");
            }
        }
        text.extend(&answer.so_far().tokens);
        drop(answer);
        println!();
    }
    Ok(())
}

/// Forgets the text from `len` on. A window's ring keeps its last tokens alone: where it does not reach back that far, the
/// error says how far it does, and the sequence begins anew.
fn undo(session: &mut Session, id: SequenceId, text: &mut Vec<u32>, len: usize) -> hyc_runtime::Result<()> {
    text.truncate(len);
    if let Err(error) = session.truncate(id, session.len(id)?.min(len as u64)) {
        println!("[from the beginning: {}]", error.message);
        session.truncate(id, 0)?;
    }
    Ok(())
}
