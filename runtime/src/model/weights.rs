//! Where a model's weights lie, and their bytes.

use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use hyc_plan::{Plan, Weight, WeightId};

use super::digests::Digests;
use super::fault::{damaged, no_weight, unread_weights, wrong_weights};
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

    /// Some bytes of a weight that the file has, checked: the digests' leaves that they touch. Errors: as [`Model::weight`], and
    /// weights that are made up.
    pub(crate) fn weight_piece(&self, id: WeightId, bytes: Range<usize>) -> Result<&[u8]> {
        let weight = self.plan.weights.get(id.index()).ok_or_else(|| no_weight(id))?;
        match &self.weights {
            Weights::File(starts) => {
                self.check_weight(&weight.name, bytes.clone())?;
                let start = starts[id.index()];
                Ok(&self.weight_file().1[start + bytes.start..start + bytes.end])
            }
            Weights::Random(..) | Weights::Absent => Err(wrong_weights(&self.path, true)),
            Weights::Unread => Err(unread_weights(&self.path)),
        }
    }

    /// The same in pieces of at most `most` bytes (64 KiB at least), in order; nothing is kept of what is made up.
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
                let (len, most) = (weight.bytes() as usize, most.max(1 << 16));
                (0..len).step_by(most).try_for_each(|at| sink(self.weight_piece(id, at..len.min(at + most))?))
            }
        }
    }
}
