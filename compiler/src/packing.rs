//! The weights of an artefact in the making: packed by all cores, handed on in the order of the file.
//!
//! A weight is cut into pieces of whole bands. Of `n` lanes, lane `i` packs pieces `i`, `i + n`, `i + 2n` and so on of all
//! weights, and is at most two pieces ahead: memory does not grow with the model, and what comes out does not depend on
//! `n`.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use hyc_plan::Weight;
use hyc_plan::pack::Packer;

use crate::error::{Error, ErrorKind, Result};
use crate::source::{Block, Rows, TensorSource};

/// Bytes of codes that a piece has at least, where it is not a weight's last.
const PIECE: u64 = 1 << 20;
/// Bytes of codes that are worth a thread.
const PER_THREAD: u64 = 4 * PIECE;

/// Neighbouring bands of a weight.
struct Piece<'w> {
    weight: &'w Weight,
    bands: Vec<(u64, u64)>,
    last: bool,
}

/// The pieces of all weights, in order.
fn pieces(weights: &[Weight]) -> impl Iterator<Item = Piece<'_>> {
    weights.iter().flat_map(|weight| {
        let (codec, layout) = (weight.format.codec, weight.format.layout);
        let mut bands = layout.bands().peekable();
        std::iter::from_fn(move || {
            let (mut taken, mut bytes) = (Vec::new(), 0);
            while bytes < PIECE
                && let Some((first, count)) = bands.next()
            {
                taken.push((first, count));
                bytes += codec.code_bytes(count * layout.cols());
            }
            let last = bands.peek().is_none();
            (!taken.is_empty()).then_some(Piece { weight, bands: taken, last })
        })
    })
}

/// A piece as the file has it, with its packer, which knows what stands behind all codes.
struct Packed {
    bytes: Vec<u8>,
    packer: Packer,
    last: bool,
}

/// What one thread packs with.
struct Hands<'s> {
    source: &'s dyn TensorSource,
    block: Block,
    numbers: Vec<f32>,
}

impl<'s> Hands<'s> {
    fn of(source: &'s dyn TensorSource) -> Hands<'s> {
        Hands { source, block: Block::default(), numbers: Vec::new() }
    }

    /// Reads, converts and packs a piece. Each number is looked at; what is in the artefact's codec already passes as it
    /// is.
    fn pack(&mut self, piece: &Piece<'_>) -> Result<Packed> {
        let (name, format) = (&piece.weight.name, piece.weight.format);
        let (mut packer, mut bytes) = (Packer::new(format), Vec::new());
        for (first, count) in &piece.bands {
            let place = (format.layout.cols(), *first, *count);
            match self.source.rows(name, format.codec, place, &mut self.block, &mut self.numbers)? {
                Rows::Codes(codes, shared) => packer.push_codes(&codes, &shared, &mut bytes),
                Rows::Numbers(numbers) => packer.push(numbers, &mut bytes),
            }
        }
        Ok(Packed { bytes, packer, last: piece.last })
    }
}

/// Who packs every `n`-th piece: a thread, or, where there is none, whoever takes them.
enum Lane<'s> {
    Thread(Receiver<Result<Packed>>),
    Here(Box<dyn Iterator<Item = Result<Packed>> + 's>),
}

/// All weights, packed, one after the other.
pub struct Stream<'s> {
    lanes: Vec<Lane<'s>>,
    next: usize,
}

impl Stream<'_> {
    fn piece(&mut self) -> Result<Packed> {
        let lane = self.next % self.lanes.len();
        self.next += 1;
        let piece = match &mut self.lanes[lane] {
            Lane::Thread(pieces) => pieces.recv().ok(),
            Lane::Here(pieces) => pieces.next(),
        };
        piece.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "a weight has fewer pieces than bands")))
    }

    /// Hands on the bytes of the next weight, which is `weight`, in pieces. Errors: those of its source and of `sink`.
    pub fn weight(&mut self, weight: &Weight, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut whole = Packer::new(weight.format);
        loop {
            let Packed { mut bytes, packer, last } = self.piece()?;
            whole.absorb(packer);
            if last {
                whole.finish(&mut bytes);
                return sink(&bytes);
            }
            sink(&bytes)?;
        }
    }
}

/// Packs `weights` on at most `threads` threads while `hand_on` takes them. Errors: those of `hand_on`.
pub fn packed<R>(
    weights: &[Weight],
    source: &(dyn TensorSource + Sync),
    threads: usize,
    hand_on: impl FnOnce(&mut Stream<'_>) -> Result<R>,
) -> Result<R> {
    let bytes: u64 = weights.iter().map(|weight| weight.bytes()).sum();
    let lanes = threads.min((bytes / PER_THREAD + 1) as usize).max(1);
    let lane_of = |lane: usize| {
        let mut hands = Hands::of(source);
        pieces(weights).skip(lane).step_by(lanes).map(move |piece| hands.pack(&piece))
    };
    thread::scope(|scope| {
        let lane = |lane: usize| {
            let (sender, receiver) = sync_channel(1);
            // Ends with the first error, and when nobody takes what it packs.
            let pack = move || {
                let mut pieces = lane_of(lane);
                let _ = pieces.try_for_each(|piece| {
                    let ends = piece.is_err();
                    if sender.send(piece).is_err() || ends { Err(()) } else { Ok(()) }
                });
            };
            let spawned = lanes > 1 && thread::Builder::new().spawn_scoped(scope, pack).is_ok();
            if spawned { Lane::Thread(receiver) } else { Lane::Here(Box::new(lane_of(lane))) }
        };
        hand_on(&mut Stream { lanes: (0..lanes).map(lane).collect(), next: 0 })
    })
}

#[cfg(test)]
mod tests {
    use hyc_plan::pack::pack;
    use hyc_plan::{Codec, Format, Layout};

    use super::*;
    use crate::source::{Stored, Unfit};

    /// Element (row, col) of every tensor; row `bad` has a number that nothing takes.
    struct Made {
        bad: u64,
    }

    fn element(row: u64, col: u64) -> f32 {
        ((row * 7919 + col * 31) % 1021) as f32 / 1021.0 - 0.5
    }

    impl TensorSource for Made {
        fn block(&self, _: &str, cols: u64, first: u64, count: u64, out: &mut Block) -> Result<()> {
            (out.stored, out.bytes) = (Stored::F32, Vec::new());
            for row in first..first + count {
                let number = |col| if row == self.bad { f32::NAN } else { element(row, col) };
                out.bytes.extend((0..cols).flat_map(|col| number(col).to_le_bytes()));
            }
            Ok(())
        }

        fn unfit(&self, name: &str, _: Codec, at: u64, why: Unfit) -> Error {
            Error::input(format!("element {at} of `{name}`: {why:?}"))
        }
    }

    /// Weights of every way to pack, some of many pieces.
    fn weights() -> Vec<Weight> {
        let int4 = Codec::Int4 { group: 64, zero: true };
        let formats = [
            ("vector", Codec::F32, Layout::Vector { len: 300 }),
            ("table", int4, Layout::Rows { rows: 5000, cols: 514 }),
            (
                "panels",
                Codec::F32,
                Layout::Panels { count: 3, out_features: 1000, in_features: 512, group: 500 },
            ),
            ("coded", int4, Layout::Panels { count: 2, out_features: 2000, in_features: 640, group: 2000 }),
            ("tiles", Codec::Bf16, Layout::Tiles { count: 2, out_features: 1500, in_features: 1000 }),
            ("strips", int4, Layout::Strips { count: 3, out_features: 1000, in_features: 1000 }),
        ];
        let weight = |(name, codec, layout): (&str, _, _)| Weight {
            name: name.into(),
            shape: vec![],
            format: Format { codec, layout },
        };
        formats.into_iter().map(weight).collect()
    }

    fn all(weights: &[Weight], bad: u64, threads: usize) -> Result<Vec<Vec<u8>>> {
        packed(weights, &Made { bad }, threads, |stream| {
            let one = |weight: &Weight| {
                let mut bytes = Vec::new();
                stream.weight(weight, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                Ok(bytes)
            };
            weights.iter().map(one).collect()
        })
    }

    #[test]
    fn bytes_do_not_depend_on_the_threads() {
        let weights = weights();
        assert!(pieces(&weights).count() > 12);
        for threads in [1, 2, 3, 16] {
            for (weight, bytes) in weights.iter().zip(all(&weights, u64::MAX, threads).unwrap()) {
                let layout = weight.format.layout;
                let rows: u64 = layout.bands().map(|(_, rows)| rows).sum();
                let numbers: Vec<f32> =
                    (0..rows).flat_map(|row| (0..layout.cols()).map(move |col| element(row, col))).collect();
                assert!(bytes == pack(weight.format, &numbers), "`{}` by {threads} threads", weight.name);
            }
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let weights = weights();
        for threads in [1, 3] {
            let error = all(&weights, 1700, threads).unwrap_err();
            assert!(error.message.contains("of `table`"), "{error}");
            let stopped = packed(&weights, &Made { bad: u64::MAX }, threads, |stream| {
                stream.weight(&weights[0], &mut |_| Err(Error::new(ErrorKind::Cancelled, "enough")))
            });
            assert_eq!(stopped.unwrap_err().kind, ErrorKind::Cancelled);
        }
    }
}
