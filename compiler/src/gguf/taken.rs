//! Blocks that are groups of a codec: their codes and what they share are taken as they are, and nothing is rounded.
//!
//! ```text
//! Q4_0  d: f16, 16 bytes       (q - 8) d   int4(32)
//! Q4_1  d, m: f16, 16 bytes    q d + m     int4z(32)
//! Q8_0  d: f16, 32 bytes       q d         int8(32), whose scale is an f32: every f16 is one
//! ```
//! Of the bytes of Q4_0 and Q4_1 the low halves are elements 0 to 15, the high ones 16 to 31.

use hyc_plan::{Codec, Shared};

use super::stored::{Stored, f16};

/// Numbers of a block.
const GROUP: u32 = 32;

/// What is wrong with what a block shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BlockFault {
    /// Its scale is not finite.
    Scale(f32),
    /// Its least value is not finite.
    Least(f32),
    /// Its scale is 0, and it has codes of other numbers.
    NoScale,
}

impl Stored {
    /// The codec whose codes these are.
    pub fn codec(self) -> Option<Codec> {
        match self {
            Stored::F32 => Some(Codec::F32),
            Stored::Bf16 => Some(Codec::Bf16),
            Stored::Q4_0 => Some(Codec::Int4 { group: GROUP, zero: false }),
            Stored::Q4_1 => Some(Codec::Int4 { group: GROUP, zero: true }),
            Stored::Q8_0 => Some(Codec::Int8 { group: GROUP }),
            Stored::F16
            | Stored::Q5_0
            | Stored::Q5_1
            | Stored::Q2K
            | Stored::Q3K
            | Stored::Q4K
            | Stored::Q5K
            | Stored::Q6K => None,
        }
    }

    /// Codes, a byte each, and what groups share, of whole blocks of a type that has a grouped codec.
    pub fn take(self, bytes: &[u8]) -> (Vec<u8>, Vec<Shared>) {
        let (mut codes, mut shared) = (Vec::new(), Vec::new());
        for block in bytes.chunks_exact(self.bytes() as usize) {
            shared.push(self.shared(block));
            match self {
                Stored::Q8_0 => codes.extend_from_slice(&block[2..]),
                _ => {
                    let halves = &block[block.len() - 16..];
                    codes.extend(halves.iter().map(|byte| byte & 15));
                    codes.extend(halves.iter().map(|byte| byte >> 4));
                }
            }
        }
        (codes, shared)
    }

    /// What a block of those shares.
    fn shared(self, block: &[u8]) -> Shared {
        match self {
            Stored::Q4_0 => Shared::symmetric(f16(block, 0)),
            Stored::Q4_1 => Shared { scale: f16(block, 0), least: f16(block, 2) },
            _ => Shared::scaled(f16(block, 0)),
        }
    }

    /// The first block of `bytes` that shares what cannot be, and what. `taken`: its codes are to be taken, so that a scale of 0
    /// must have none but those of the number 0, or of the least value; ggml writes such blocks of numbers that are all alike.
    pub fn fault(self, bytes: &[u8], taken: bool) -> Option<(u64, BlockFault)> {
        let (scale, least) = self.shares_at()?;
        let fault = |block: &[u8]| {
            let (scale, least) = (f16(block, scale), least.map_or(0.0, |at| f16(block, at)));
            let none = if self == Stored::Q4_0 { 0x88 } else { 0 };
            let codes = || &block[if self == Stored::Q4_1 { 4 } else { 2 }..];
            match () {
                () if !scale.is_finite() => Some(BlockFault::Scale(scale)),
                () if !least.is_finite() => Some(BlockFault::Least(least)),
                () if taken && scale == 0.0 && codes().iter().any(|code| *code != none) => {
                    Some(BlockFault::NoScale)
                }
                () => None,
            }
        };
        let mut blocks = (0..).zip(bytes.chunks_exact(self.bytes() as usize));
        blocks.find_map(|(at, block)| Some((at, fault(block)?)))
    }

    /// Where a block has its scale, and its least value, if it has one.
    fn shares_at(self) -> Option<(usize, Option<usize>)> {
        match self {
            Stored::F32 | Stored::F16 | Stored::Bf16 => None,
            Stored::Q4_0 | Stored::Q5_0 | Stored::Q8_0 => Some((0, None)),
            Stored::Q4_1 | Stored::Q5_1 | Stored::Q4K | Stored::Q5K => Some((0, Some(2))),
            Stored::Q2K => Some((80, Some(82))),
            Stored::Q3K => Some((108, None)),
            Stored::Q6K => Some((208, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes and shares of blocks of random bytes are the very numbers that the blocks stand for. A zero may have another sign:
    /// of Q4_0 it is 8 d - 8 d, which is never -0.
    #[test]
    fn what_is_taken_is_what_blocks_stand_for() {
        let mut state = 7u64;
        for stored in [Stored::Q4_0, Stored::Q4_1, Stored::Q8_0] {
            let codec = stored.codec().unwrap();
            for _ in 0..2000 {
                let next = || crate::source::random::next(&mut state) as u8;
                let block: Vec<u8> = std::iter::repeat_with(next).take(stored.bytes() as usize).collect();
                if stored.fault(&block, true).is_some() {
                    continue;
                }
                let (codes, shared) = stored.take(&block);
                assert_eq!((codes.len() as u64, shared.len()), (stored.elements(), 1));
                // As they are stored in an artefact.
                let shared = codec.shared_of_bytes(&codec.shared_to_bytes(shared[0]));
                let mut codes = codes.iter();
                stored.decode(&block, &mut |x| {
                    let found = codec.decode(&[*codes.next().unwrap()], shared);
                    assert_eq!((found + 0.0).to_bits(), (x + 0.0).to_bits(), "{stored:?}: {found}, not {x}");
                });
            }
        }
    }

    #[test]
    fn a_block_without_a_scale_is_of_numbers_that_are_alike() {
        let half = |x: f32| half::f16::from_f32(x).to_le_bytes();
        let block = |shares: &[f32], codes: &[u8]| -> Vec<u8> {
            shares.iter().flat_map(|x| half(*x)).chain(codes.iter().copied()).collect()
        };
        let fault = |stored: Stored, block: &[u8]| stored.fault(block, true).map(|(_, fault)| fault);
        for zero in [0.0, -0.0] {
            assert_eq!(fault(Stored::Q4_0, &block(&[zero], &[0x88; 16])), None);
            assert_eq!(fault(Stored::Q4_0, &block(&[zero], &[0; 16])), Some(BlockFault::NoScale));
            assert_eq!(fault(Stored::Q4_1, &block(&[zero, 3.0], &[0; 16])), None);
            assert_eq!(fault(Stored::Q4_1, &block(&[zero, 3.0], &[1; 16])), Some(BlockFault::NoScale));
            assert_eq!(fault(Stored::Q8_0, &block(&[zero], &[0; 32])), None);
            assert_eq!(fault(Stored::Q8_0, &block(&[zero], &[255; 32])), Some(BlockFault::NoScale));
            // Numbers that are rounded once more are zeros all the same.
            assert_eq!(Stored::Q8_0.fault(&block(&[zero], &[255; 32]), false), None);
        }
        let two = [block(&[1.0], &[1; 32]), block(&[f32::INFINITY], &[0; 32])].concat();
        assert_eq!(Stored::Q8_0.fault(&two, false), Some((1, BlockFault::Scale(f32::INFINITY))));
        let least = block(&[1.0, f32::NEG_INFINITY], &[0; 16]);
        assert_eq!(Stored::Q4_1.fault(&least, false), Some((0, BlockFault::Least(f32::NEG_INFINITY))));
    }

    /// Every type of blocks has its scales where they are looked for: made NaN there, some number is.
    #[test]
    fn scales_are_looked_for_where_they_are() {
        for kind in (0..40).filter(|kind| Stored::of(*kind).is_ok_and(|stored| stored.elements() > 1)) {
            let stored = Stored::of(kind).unwrap();
            let (scale, least) = stored.shares_at().unwrap();
            for at in [Some(scale), least].into_iter().flatten() {
                let mut block = vec![0x11; stored.bytes() as usize];
                assert_eq!(stored.fault(&block, false), None);
                block[at..at + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
                let (_, fault) = stored.fault(&block, false).unwrap();
                assert_eq!(matches!(fault, BlockFault::Scale(_)), at == scale, "{stored:?}");
                let mut all = true;
                stored.decode(&block, &mut |x| all &= x.is_nan());
                assert!(all, "{stored:?}");
            }
        }
    }
}
