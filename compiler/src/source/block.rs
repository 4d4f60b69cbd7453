//! Rows of a tensor in their source's own encoding.

use hyc_plan::Codec;

use crate::error::Result;

/// How a source stores numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// IEEE binary32.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
}

impl Encoding {
    /// Of a safetensors dtype, where it is one that models are stored in.
    pub fn of_dtype(dtype: &str) -> Option<Encoding> {
        match dtype {
            "F32" => Some(Encoding::F32),
            "BF16" => Some(Encoding::Bf16),
            "F16" => Some(Encoding::F16),
            _ => None,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Encoding::F32 => 4,
            Encoding::Bf16 | Encoding::F16 => 2,
        }
    }

    /// The codec whose codes these are.
    fn codec(self) -> Option<Codec> {
        match self {
            Encoding::F32 => Some(Codec::F32),
            Encoding::Bf16 => Some(Codec::Bf16),
            Encoding::F16 => None,
        }
    }
}

/// Rows of a tensor, one after the other, as their source has them.
#[derive(Debug, Default)]
pub struct Block {
    /// How.
    pub encoding: Encoding,
    /// The numbers.
    pub bytes: Vec<u8>,
}

/// Gives tensors by the model's names, some rows at a time.
pub trait TensorSource {
    /// Rows `first .. first + count` of the tensor seen as `[rows, cols]`, as the source has them, into `out`.
    /// Errors: there is no such tensor; it cannot be read.
    fn block(&self, name: &str, cols: u64, first: u64, count: u64, out: &mut Block) -> Result<()>;

    /// The error of element `at` of a tensor, `x`, which a codec does not take.
    fn unfit(&self, name: &str, codec: Codec, at: u64, x: f32) -> crate::error::Error;

    /// Rows as f32 into `out`. Errors: those of [`TensorSource::block`]; an element that is not finite, or not once it is
    /// stored by `codec`.
    fn rows(
        &self,
        name: &str,
        codec: Codec,
        (cols, first, count): (u64, u64, u64),
        block: &mut Block,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        self.block(name, cols, first, count, block)?;
        block.to_f32(out);
        match out.iter().position(|x| !codec.takes(*x)) {
            None => Ok(()),
            Some(at) => Err(self.unfit(name, codec, first * cols + at as u64, out[at])),
        }
    }
}

impl Block {
    /// The numbers as f32, into `out`.
    pub fn to_f32(&self, out: &mut Vec<f32>) {
        out.clear();
        let (halves, _) = self.bytes.as_chunks::<2>();
        match self.encoding {
            Encoding::F32 => out.extend(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
            Encoding::Bf16 => out.extend(halves.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32())),
            Encoding::F16 => out.extend(halves.iter().map(|b| half::f16::from_le_bytes(*b).to_f32())),
        }
    }

    /// Multiplies the numbers, which are f32 then.
    pub fn scale(&mut self, by: f64) {
        let mut numbers = Vec::new();
        self.to_f32(&mut numbers);
        self.bytes.clear();
        self.bytes.extend(numbers.iter().flat_map(|x| ((f64::from(*x) * by) as f32).to_le_bytes()));
        self.encoding = Encoding::F32;
    }

    /// The numbers as codes of `codec`, where they are that already.
    pub fn codes(&self, codec: Codec) -> Option<&[u8]> {
        (self.encoding.codec() == Some(codec)).then_some(&self.bytes)
    }
}
