//! The greedy choices of other projects for pieces of text, with SmolLM2-135M-Instruct's values in f32: transformers'
//! (`tests/smollm2/make.py`) and llama.cpp's (`make_llama_cpp.py`).

use std::path::Path;

use hyc_runtime::{Result, SequenceId, Session};

use crate::Golden;

/// Sequences of a step.
const BATCH: usize = 16;
/// Where the two likeliest tokens are nearer to each other, either may be first.
pub const MARGIN: f32 = 1e-3;

/// What another project computes of the pieces, and how far a session's logits are from it.
pub struct Theirs {
    /// The project.
    pub whose: &'static str,
    /// `[piece][place][2]`: the two likeliest tokens, and their logits.
    best: Vec<i32>,
    logits: Vec<f32>,
    /// The largest difference of a logit that may be, all being in f32: twice what was measured.
    pub most: f32,
    /// The largest difference of a logit that was.
    pub worst: f32,
    /// Choices that were compared.
    pub choices: usize,
    /// Other choices: piece, place, and by how much theirs was above the next.
    pub others: Vec<(usize, usize, f32)>,
}

impl Theirs {
    fn open(whose: &'static str, file: &Path, shape: [usize; 2], most: f32) -> Theirs {
        let golden = Golden::open(file);
        let tensors = (golden.i32("best").expect("has `best`"), golden.f32("logits").expect("has `logits`"));
        let ((best_shape, best), (_, logits)) = tensors;
        assert_eq!(best_shape, [shape[0], shape[1], 2], "{}", file.display());
        Theirs { whose, best, logits, most, worst: 0.0, choices: 0, others: Vec::new() }
    }

    /// Logits of a place of a piece beside theirs.
    fn compare(&mut self, row: &[f32], (piece, place): (usize, usize), length: usize) {
        let at = 2 * (piece * length + place);
        let [first, second] = [self.logits[at], self.logits[at + 1]];
        let best = self.best[at] as usize;
        self.worst = self.worst.max((row[best] - first).abs());
        self.choices += 1;
        if (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])) != Some(best) {
            self.others.push((piece, place, first - second));
        }
    }
}

/// Runs all pieces, sixteen at a time, token by token. `session`: of the model, with logits of sixteen rows.
/// `root`: the repository. Errors: the session's.
pub fn greedy_choices(session: &mut Session, root: &Path) -> Result<[Theirs; 2]> {
    let [ours, llama] =
        ["golden.safetensors", "llama_cpp.safetensors"].map(|name| root.join("tests/smollm2").join(name));
    let golden = Golden::open(&ours);
    let (shape, tokens) = golden.i32("tokens").expect("has `tokens`");
    let (count, length) = (shape[0], shape[1]);
    let mut theirs = [
        Theirs::open("transformers", &ours, [count, length], 7.6e-3),
        Theirs::open("llama.cpp", &llama, [count, length], 8.8e-3),
    ];
    for pieces in (0..count).collect::<Vec<usize>>().chunks(BATCH) {
        let ids = pieces.iter().map(|_| session.add_sequence()).collect::<Result<Vec<SequenceId>>>()?;
        for place in 0..length {
            for (id, piece) in ids.iter().zip(pieces) {
                session.feed(*id, &[tokens[piece * length + place] as u32])?;
            }
            session.step_sampled()?;
            for (id, piece) in ids.iter().zip(pieces) {
                let row = session.output(*id, "logits")?;
                theirs.iter_mut().for_each(|theirs| theirs.compare(&row, (*piece, place), length));
            }
        }
        for id in ids {
            session.remove_sequence(id)?;
        }
    }
    Ok(theirs)
}
