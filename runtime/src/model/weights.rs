//! Where a model's weights lie, and their bytes.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use hyc_plan::{Plan, Weight, WeightId};

use super::digests::Digests;
use super::fault::{damaged, no_bytes, no_weight, unread_weights, wrong_weights};
use super::file::FileBytes;
use super::header::Header;
use super::{Model, Verify};
use crate::error::Result;
use crate::memory::Aligned;
use crate::random_weights::RandomWeights;

/// Where the weights are.
pub(super) enum Weights {
    /// In the file, or in the one beside it, from these offsets.
    File(Vec<usize>),
    /// Nowhere: they are made up, and kept for whoever wants them in the host's memory.
    Random(RandomWeights, Vec<OnceLock<Aligned>>),
    /// Nowhere, and nobody made them up.
    Absent,
    /// In the file, which is only looked at.
    Unread,
}

/// Offsets of the plan's weights, checked against the plan's sizes and types.
pub(super) fn weights(path: &Path, plan: &Plan, header: &Header) -> Result<Vec<usize>> {
    let place = |weight: &Weight| {
        let (dtype, shape) = weight.format.stored();
        let tensor = header.tensors.get(&weight.name).filter(|tensor| {
            let same = tensor.dtype.name() == dtype && tensor.shape == shape;
            same && tensor.place.len() as u64 == weight.bytes()
        });
        let wrong = || damaged(path, format!("weight `{}` is not what the plan says", weight.name));
        tensor.map(|tensor| tensor.place.start).ok_or_else(wrong)
    };
    plan.weights.iter().map(place).collect()
}

impl Model {
    /// The file that has the weights.
    fn weight_file(&self) -> (&Path, &FileBytes, &Digests) {
        match &self.beside {
            Some(other) => (&other.path, &other.file, &other.digests),
            None => (&self.path, &self.file, &self.digests),
        }
    }

    /// Checks all weights that nobody has checked, on all cores, where [`LoadOptions::verify`](crate::LoadOptions::verify) has left that for later;
    /// `progress` as in [`Model::load_observed`]. Errors: a damaged weight; `Cancelled`.
    pub fn check_weights(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<()> {
        if self.verify == Verify::Header || !matches!(self.weights, Weights::File(_)) {
            return Ok(());
        }
        let (path, file, digests) = self.weight_file();
        let bytes = |weight: &Weight| digests.leaves(&weight.name, 0..weight.bytes() as usize);
        digests.check(path, file, self.plan.weights.iter().flat_map(bytes), progress)
    }

    /// The same of some bytes of one weight.
    fn check_weight(&self, name: &str, bytes: Range<usize>) -> Result<()> {
        if self.verify == Verify::Header {
            return Ok(());
        }
        let (path, file, digests) = self.weight_file();
        digests.check(path, file, digests.leaves(name, bytes), &mut |_, _| true)
    }

    /// The packed bytes of a weight, checked. Errors: no such weight; a damaged one; no memory for one that is made
    /// up.
    pub fn weight(&self, id: WeightId) -> Result<&[u8]> {
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        let (random, kept) = match &self.weights {
            Weights::File(starts) => {
                let (start, len) = (starts[id.index()], weight.bytes() as usize);
                self.check_weight(&weight.name, 0..len)?;
                return Ok(&self.weight_file().1[start..start + len]);
            }
            Weights::Random(random, kept) => (random, &kept[id.index()]),
            Weights::Absent => return Err(wrong_weights(&self.path, true)),
            Weights::Unread => return Err(unread_weights(&self.path)),
        };
        if kept.get().is_none() {
            let (mut memory, mut at) = (Aligned::zeroed(weight.bytes())?, 0);
            random.pieces(weight, 1 << 20, &mut |piece| {
                memory.bytes_mut()[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
                Ok(())
            })?;
            // Another thread may have been faster, with the same bytes.
            let _ = kept.set(memory);
        }
        Ok(kept.get().map(Aligned::bytes).unwrap_or_default())
    }

    /// Whether the file has the weights.
    pub fn has_weights(&self) -> bool {
        matches!(self.weights, Weights::File(_) | Weights::Unread)
    }

    /// Whether the weights are made up.
    pub fn has_random_weights(&self) -> bool {
        matches!(self.weights, Weights::Random(..))
    }

    /// Where a weight of the plan begins in the file that has the weights. Errors: no file has them, or it is only looked at.
    fn start(&self, id: WeightId) -> Result<usize> {
        match &self.weights {
            Weights::File(starts) => Ok(starts[id.index()]),
            Weights::Random(..) | Weights::Absent => Err(wrong_weights(&self.path, true)),
            Weights::Unread => Err(unread_weights(&self.path)),
        }
    }

    /// Copies bytes of a weight that the file has, from byte `at` of the packed weight, to `out`, checked. Where a leaf of the
    /// digests (a [`LEAF`](hyc_plan::artefact::LEAF), from the weight's beginning) is whole in `out`, the copy is what is
    /// checked, from the core's cache: bytes come from memory once. Any number of threads may read.
    ///
    /// Errors: as [`Model::weight`]; weights that are made up; bytes that the weight does not have; a file that cannot be
    /// read any more. What is in `out` then must not be used.
    pub fn read_weight(&self, id: WeightId, at: usize, out: &mut [u8]) -> Result<()> {
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        let end = at.checked_add(out.len()).filter(|end| *end as u64 <= weight.bytes());
        let end = end.ok_or_else(|| no_bytes(&weight.name, (at, out.len()), weight.bytes()))?;
        let start = self.start(id)?;
        let (path, file, digests) = self.weight_file();
        for leaf in digests.leaves(&weight.name, at..end) {
            let place = digests.place(leaf).1;
            let part = place.start.max(start + at)..place.end.min(start + end);
            let copy = &mut out[part.start - start - at..part.end - start - at];
            file.copy(path, part.clone(), copy)?;
            if self.verify != Verify::Header {
                let bytes = if part == place { copy } else { &file[place] };
                digests.check_copy(path, file, leaf, bytes)?;
            }
        }
        Ok(())
    }

    /// The packed bytes of a weight, checked, in pieces of at most `most` bytes (64 KiB at least), in order; nothing is kept of what is made up.
    pub fn weight_pieces(
        &self,
        id: WeightId,
        most: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        match &self.weights {
            Weights::Random(random, _) => random.pieces(weight, most, sink),
            Weights::File(_) | Weights::Absent | Weights::Unread => {
                let (start, len, most) = (self.start(id)?, weight.bytes() as usize, most.max(1 << 16));
                (0..len).step_by(most).try_for_each(|at| {
                    let bytes = at..len.min(at + most);
                    self.check_weight(&weight.name, bytes.clone())?;
                    sink(&self.weight_file().1[start + bytes.start..start + bytes.end])
                })
            }
        }
    }
}
