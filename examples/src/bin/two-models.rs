//! Two models of one shape in one program, weights and all. Prints as JSON what each continues tokens 1, 2, 3 with.

#![allow(clippy::print_stdout)] // An example: it may end at a closed pipe.

use hyc_runtime::{Model, Result, Session};

hyc_runtime::linked_model!(mod dense);
hyc_runtime::linked_model!(mod twin);

fn main() -> Result<()> {
    let (dense, twin) = (dense::load(&Default::default())?, twin::load(&Default::default())?);
    println!("[{:?}, {:?}]", continued(dense)?, continued(twin)?);
    Ok(())
}

fn continued(model: Model) -> Result<Vec<u32>> {
    let mut session = Session::new(model, &Default::default())?;
    let id = session.add_sequence()?;
    session.feed(id, &[1, 2, 3])?;
    let mut tokens = Vec::new();
    while tokens.len() < 8 {
        for (id, token) in session.step_sampled()?.sampled {
            let token = token?;
            tokens.push(token);
            session.feed(id, &[token])?;
        }
    }
    Ok(tokens)
}
