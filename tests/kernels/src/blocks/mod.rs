//! What the probes of the GPU back end's building blocks (`hyc_kernels::gpu::probe`) read, and what they must leave
//! behind, in plain Rust.

mod choice;
mod lanes;
mod pipes;
mod products;

use hyc_plan::pack::{bf16_to_f32, f32_to_bf16};

use crate::{Memory, Rng};

/// The row of the table that they belong to.
pub const FAMILY: &str = "blocks";
/// Words behind an output that nobody may write.
const GUARD: usize = 64;

/// A word of an output.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// This one.
    Int(u32),
    /// This one; any NaN for a NaN.
    Float(f32),
    /// The nearest bf16 of two numbers, the first in the low half; any NaN for a NaN.
    Bf16(f32, f32),
    /// An f32 no further from `.0` than `.1`.
    Near(f64, f64),
}

/// Operands of one probe: inputs, then outputs.
pub struct Block {
    inputs: Vec<Vec<u32>>,
    want: Vec<Vec<Want>>,
}

/// The operands of the probe of that name.
pub fn block(name: &str, rng: &mut Rng) -> Option<Block> {
    let makers = [lanes::block, pipes::block, products::block, choice::block];
    makers.into_iter().find_map(|make| make(name, rng))
}

fn words(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn random_words(rng: &mut Rng, count: u64) -> Vec<u32> {
    (0..count).map(|_| rng.bits() as u32).collect()
}

/// Normal numbers that bf16 holds.
fn random_bf16(rng: &mut Rng, count: u64) -> Vec<f32> {
    (0..count).map(|_| bf16_to_f32(f32_to_bf16(rng.normal()))).collect()
}

impl Want {
    /// How far a word is off, as a share of what is allowed.
    fn error(self, word: u32) -> f64 {
        let right = |right: bool| if right { 0.0 } else { f64::INFINITY };
        let same = |want: f32, got: f32| got.to_bits() == want.to_bits() || want.is_nan() && got.is_nan();
        let half = |want: f32, got: u32| same(bf16_to_f32(f32_to_bf16(want)), bf16_to_f32(got as u16));
        match self {
            Want::Int(want) => right(word == want),
            Want::Float(want) => right(same(want, f32::from_bits(word))),
            Want::Bf16(low, high) => right(half(low, word) && half(high, word >> 16)),
            Want::Near(want, allowed) => {
                let off = (f64::from(f32::from_bits(word)) - want).abs() / allowed;
                if off.is_nan() { f64::INFINITY } else { off }
            }
        }
    }
}

impl Block {
    /// The operands before the probe runs; outputs are filled with NaN, and have something behind them.
    pub fn memory(&self) -> Vec<Memory> {
        let bytes = |words: &Vec<u32>| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let inputs = self.inputs.iter().map(|words| Memory::new(&bytes(words)));
        let outputs = self.want.iter().map(|want| Memory::filled(4 * (want.len() + GUARD), 0xff));
        inputs.chain(outputs).collect()
    }

    /// The largest error as a share of what is allowed; or what is wrong, an entry an operand.
    pub fn check(&self, got: &[Memory]) -> Result<f64, Vec<String>> {
        let (mut worst, mut wrong) = (0f64, Vec::new());
        for (i, (before, after)) in self.memory().iter().zip(got).enumerate() {
            let words = |memory: &Memory| -> Vec<u32> {
                let bytes = memory.bytes().chunks_exact(4);
                bytes.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            };
            let (before, after) = (words(before), words(after));
            let want = i.checked_sub(self.inputs.len()).map_or(&[][..], |i| &self.want[i]);
            let errors: Vec<f64> = want.iter().zip(&after).map(|(want, word)| want.error(*word)).collect();
            worst = errors.iter().copied().fold(worst, f64::max);
            let bad: Vec<usize> = (0..errors.len()).filter(|at| errors[*at] > 1.0).collect();
            if let Some(at) = bad.first() {
                let (word, count) = (after[*at], bad.len());
                wrong.push(format!(
                    "operand {i}: {count} of {} words wrong, the first at {at}: {word:#x} ({:e}), not {:?}",
                    want.len(),
                    f32::from_bits(word),
                    want[*at]
                ));
            }
            if let Some(at) = (want.len()..before.len()).find(|at| before[*at] != after[*at]) {
                wrong.push(format!("operand {i}: word {at} was written"));
            }
        }
        if wrong.is_empty() { Ok(worst) } else { Err(wrong) }
    }
}
