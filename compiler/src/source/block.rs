//! Rows of a tensor as their source has them, and what they become for a codec.

use std::borrow::Cow;

use hyc_plan::{Codec, Shared};

use crate::error::{Error, Result};
use crate::gguf::{BlockFault, Stored};

/// Rows of a tensor, one after the other, as their source has them.
#[derive(Debug, Default)]
pub struct Block {
    /// How.
    pub stored: Stored,
    /// The numbers.
    pub bytes: Vec<u8>,
}

/// Rows for a codec.
#[derive(Debug)]
pub enum Rows<'b> {
    /// Numbers that it takes.
    Numbers(&'b [f32]),
    /// They are of this codec already: codes, each in bytes of its own, and what their groups share.
    Codes(Cow<'b, [u8]>, Vec<Shared>),
}

/// Why a codec does not take a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unfit {
    /// A number that is not finite, or not once it is stored.
    Number(f32),
    /// What the block that begins there shares.
    Block(BlockFault),
}

/// Gives tensors by the model's names, some rows at a time.
pub trait TensorSource {
    /// Rows `first .. first + count` of the tensor seen as `[rows, cols]`, as the source has them, into `out`.
    /// Errors: there is no such tensor; it cannot be read.
    fn block(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Block) -> Result<()>;

    /// The error of element `at` of a tensor, which a codec does not take.
    fn unfit(&self, name: &str, codec: Codec, at: u64, why: Unfit) -> Error;

    /// Rows for a codec; `block` and `numbers` hold them. What is of the codec already passes as it is. Errors: those of
    /// [`TensorSource::block`]; what is unfit.
    fn rows<'b>(
        &self,
        name: &str,
        codec: Codec,
        (cols, first, count): (u64, u64, u64),
        block: &'b mut Block,
        numbers: &'b mut Vec<f32>,
    ) -> Result<Rows<'b>> {
        self.block(name, cols, first, count, block)?;
        let error = |at: u64, why| Err(self.unfit(name, codec, first * cols + at, why));
        let same = block.stored.codec() == Some(codec);
        let taken = same && codec.group().is_some();
        if let Some((at, fault)) = block.stored.fault(&block.bytes, taken) {
            return error(at * block.stored.elements(), Unfit::Block(fault));
        }
        if taken {
            let (codes, shared) = block.stored.take(&block.bytes);
            return Ok(Rows::Codes(codes.into(), shared));
        }
        block.to_f32(numbers);
        match (0..).zip(&*numbers).find(|(_, x)| !codec.takes(**x)) {
            Some((at, x)) => error(at, Unfit::Number(*x)),
            None if same => Ok(Rows::Codes(Cow::Borrowed(&block.bytes), Vec::new())),
            None => Ok(Rows::Numbers(numbers)),
        }
    }
}

impl Block {
    /// The numbers as f32, into `out`.
    pub fn to_f32(&self, out: &mut Vec<f32>) {
        out.clear();
        let (halves, _) = self.bytes.as_chunks::<2>();
        match self.stored {
            Stored::F32 => out.extend(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Stored::Bf16 => out.extend(halves.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32())),
            Stored::F16 => out.extend(halves.iter().map(|b| half::f16::from_le_bytes(*b).to_f32())),
            blocks => blocks.decode(&self.bytes, &mut |x| out.push(x)),
        }
    }

    /// Multiplies the numbers, which are f32 then.
    pub fn scale(&mut self, by: f64) {
        let mut numbers = Vec::new();
        self.to_f32(&mut numbers);
        self.bytes.clear();
        self.bytes.extend(numbers.iter().flat_map(|x| ((f64::from(*x) * by) as f32).to_le_bytes()));
        self.stored = Stored::F32;
    }
}
