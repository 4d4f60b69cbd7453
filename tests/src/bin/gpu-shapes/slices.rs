//! Given tokens in a session with slices and in one without: each step's logits differ by rounding alone, since a slice sums
//! some outputs in other parts.

use hyc_plan::Plan;
use hyc_runtime::{GpuOptions, Session, SessionOptions};
use hyc_tests::{relative_error, root_mean_square, text};

/// Tokens of the prompt, and of those that are given one by one.
pub const TOKENS: (usize, usize) = (300, 64);
/// The largest relative error of a step's logits, twice what an H100 measured on the 7B: a sum in another order is another bf16
/// here and there, which 36 layers carry on.
const LIMIT: f64 = 2.4e-2;

/// A row of logits for each step.
pub type Rows = Vec<Vec<f32>>;

/// Options of a session with slices.
pub fn options() -> SessionOptions {
    SessionOptions { gpu: GpuOptions { slices: true, ..GpuOptions::default() }, ..SessionOptions::default() }
}

/// How many slices of how many steps a plan has; `None`: there are none.
pub fn told(plan: &Plan) -> Option<String> {
    let steps: usize = plan.slices.iter().map(|slice| slice.parts.len()).sum();
    (steps > 0).then(|| format!("{} slices of {steps} steps", plan.slices.len()))
}

/// The logits behind the prompt and behind each given token of one new sequence. Errors: a device's; a step gives none.
pub fn logits(session: &mut Session, tokens: &[u32]) -> Result<Rows, String> {
    let id = session.add_sequence().map_err(text)?;
    let (prompt, given) = tokens.split_at(TOKENS.0);
    let mut all = Vec::new();
    for fed in std::iter::once(prompt).chain(given.chunks(1)) {
        session.feed(id, fed).map_err(text)?;
        while session.pending(id).map_err(text)? > 0 {
            let step = all.len();
            let output = session.step().map_err(|e| format!("step {step}: {e}"))?;
            if output.tokens == 0 {
                return Err(format!("step {step}: no token was taken"));
            }
            for (_, row) in output.logits {
                all.push(row.map_err(|e| format!("step {step}: {e}"))?);
            }
        }
    }
    session.remove_sequence(id).map_err(text)?;
    match all.len() == 1 + given.len() {
        true => Ok(all),
        false => Err(format!("{} rows of logits for {} tokens", all.len(), 1 + given.len())),
    }
}

/// Errors: a step's logits are too far apart; another greedy token where that is no tie.
pub fn compare(with: &[Vec<f32>], without: &[Vec<f32>]) -> Result<String, String> {
    if with.len() != without.len() {
        return Err(format!("{} steps with slices, {} without", with.len(), without.len()));
    }
    let (mut most, mut equal, mut ties) = (0.0, 0, Vec::new());
    for (step, (a, b)) in with.iter().zip(without).enumerate() {
        if a.len() != b.len() || b.is_empty() {
            return Err(format!("step {step}: {} and {} logits", a.len(), b.len()));
        }
        equal += usize::from(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
        let error = relative_error(a, b);
        // `max` would drop what is no number.
        most = if error.is_nan() { f64::INFINITY } else { f64::max(most, error) };
        let ((ours, _), (theirs, lead)) = (best(a), best(b));
        // Three times what the limit lets the difference of two logits be off by.
        let tie = 3.0 * std::f32::consts::SQRT_2 * LIMIT as f32 * root_mean_square(b);
        if ours != theirs && lead > tie {
            return Err(format!(
                "step {step}: token {ours}, not {theirs}, whose lead of {lead:.1e} is no tie ({tie:.1e})"
            ));
        }
        if ours != theirs {
            ties.push(step);
        }
    }
    if most > LIMIT {
        return Err(format!("logits differ by {most:.1e} (limit {LIMIT:.0e})"));
    }
    Ok(format!(
        "{} steps: logits differ by {most:.1e} at most (limit {LIMIT:.0e}), {equal} equal to the bit; the same greedy tokens save {} ties {ties:?}",
        with.len(),
        ties.len()
    ))
}

/// The first of the greatest logits, and its lead over the best of the others.
fn best(logits: &[f32]) -> (usize, f32) {
    let mut best = 0;
    for (i, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = i;
        }
    }
    let others = logits.iter().enumerate().filter(|(i, _)| *i != best);
    let second = others.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max);
    (best, logits.get(best).map_or(0.0, |logit| logit - second))
}
