//! The tree of digests, and which of its leaves were found right.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use hyc_plan::artefact::{DIGEST, LEAF, ROOT_KEY, TREE, digest, hex};

use super::fault::damaged;
use super::header::Header;
use crate::error::{Error, ErrorKind, Result};
use crate::memory::Machine;

/// Most threads: what reads a file this fast has no more to give.
const MOST_THREADS: usize = 64;
/// Bytes that are worth a thread.
const PER_THREAD: usize = 4 << 20;

/// The leaves of all tensors.
pub(super) struct Digests {
    /// The tree's bytes in the file.
    tree: Range<usize>,
    /// Name, bytes in the file and first leaf of each tensor but the tree, in the order of the file.
    tensors: Vec<(String, Range<usize>, usize)>,
    index: BTreeMap<String, usize>,
    /// Leaves that were found right. What a thread sees late it checks again.
    right: Vec<AtomicBool>,
}

impl Digests {
    /// Reads the tree. Errors: there is none, of this root and for these tensors.
    pub(super) fn new(path: &Path, file: &[u8], header: &Header) -> Result<Digests> {
        let place = header.tensors.get(TREE).map(|tree| tree.place.clone());
        let tree = place.ok_or_else(|| damaged(path, "it has no digests"))?;
        if header.metadata.get(ROOT_KEY) != Some(&hex(&digest(&file[tree.clone()]))) {
            return Err(damaged(path, "its digests do not have the digest that is stated"));
        }
        let others = header.tensors.iter().filter(|(name, _)| *name != TREE);
        let mut tensors: Vec<(String, Range<usize>, usize)> =
            others.map(|(name, tensor)| (name.clone(), tensor.place.clone(), 0)).collect();
        tensors.sort_unstable_by_key(|(_, place, _)| (place.start, place.end));
        let mut leaves = 0;
        for (_, place, first) in &mut tensors {
            *first = leaves;
            leaves += place.len().div_ceil(LEAF as usize);
        }
        if leaves * DIGEST != tree.len() {
            return Err(damaged(path, format!("it has {} digests for {leaves} leaves", tree.len() / DIGEST)));
        }
        let index = tensors.iter().enumerate().map(|(i, (name, ..))| (name.clone(), i)).collect();
        Ok(Digests { tree, tensors, index, right: (0..leaves).map(|_| AtomicBool::new(false)).collect() })
    }

    /// The leaves of `bytes` of a tensor; none of a tensor that is not there.
    pub(super) fn leaves(&self, name: &str, bytes: Range<usize>) -> Range<usize> {
        let Some((_, place, first)) = self.index.get(name).map(|i| &self.tensors[*i]) else { return 0..0 };
        let (start, end) = (bytes.start.min(place.len()), bytes.end.min(place.len()));
        first + start / LEAF as usize..first + end.div_ceil(LEAF as usize)
    }

    /// Every leaf of the tensors that `of` names.
    pub(super) fn leaves_of(&self, of: impl Fn(&str) -> bool) -> Vec<usize> {
        let names = self.tensors.iter().filter(|(name, ..)| of(name));
        names.flat_map(|(name, place, _)| self.leaves(name, 0..place.len())).collect()
    }

    /// The tensor of a leaf, and the leaf's bytes in the file.
    pub(super) fn place(&self, leaf: usize) -> (&str, Range<usize>) {
        let (name, place, first) =
            &self.tensors[self.tensors.partition_point(|(.., first)| *first <= leaf) - 1];
        let start = place.start + (leaf - first) * LEAF as usize;
        (name, start..place.end.min(start + LEAF as usize))
    }

    /// Whether a leaf is right; `bytes` are the leaf's, of the file or a copy.
    fn is_right(&self, file: &[u8], leaf: usize, bytes: &[u8]) -> bool {
        if self.right[leaf].load(Ordering::Relaxed) {
            return true;
        }
        let stated = &file[self.tree.clone()][leaf * DIGEST..][..DIGEST];
        let right = digest(bytes)[..] == *stated;
        self.right[leaf].store(right, Ordering::Relaxed);
        right
    }

    /// Checks a leaf, where nobody has, by a copy of its bytes. Errors: the copy is not what the digest says.
    pub(super) fn check_copy(&self, path: &Path, file: &[u8], leaf: usize, copy: &[u8]) -> Result<()> {
        if self.is_right(file, leaf, copy) { Ok(()) } else { Err(self.wrong(path, leaf)) }
    }

    /// The error of a leaf that is not what its digest says.
    fn wrong(&self, path: &Path, leaf: usize) -> Error {
        let (name, place) = self.place(leaf);
        let message = format!(
            "tensor `{name}` does not have the digest that is stated, in bytes {} to {} of the file",
            place.start, place.end
        );
        damaged(path, message)
    }

    /// Checks those of `leaves` that nobody has checked, on all cores; `progress` gets the bytes that are through and
    /// all bytes, at least at the end, and ends it with [`ErrorKind::Cancelled`] where it returns false. Errors: a
    /// leaf that is not what its digest says.
    pub(super) fn check(
        &self,
        path: &Path,
        file: &[u8],
        leaves: impl IntoIterator<Item = usize>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let open = leaves.into_iter().filter(|leaf| !self.right[*leaf].load(Ordering::Relaxed));
        let open: Vec<usize> = open.collect();
        if open.is_empty() {
            return Ok(());
        }
        let total: usize = open.iter().map(|leaf| self.place(*leaf).1.len()).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (bad, stop) = (AtomicUsize::new(usize::MAX), AtomicBool::new(false));
        // Takes one leaf; false: there is none left.
        let step = || {
            let Some(leaf) = open.get(next.fetch_add(1, Ordering::Relaxed)) else { return false };
            let place = self.place(*leaf).1;
            if self.is_right(file, *leaf, &file[place.clone()]) {
                done.fetch_add(place.len(), Ordering::Relaxed);
            } else {
                bad.fetch_min(*leaf, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
            !stop.load(Ordering::Relaxed)
        };
        let worth = open.len().min(total / PER_THREAD + 1).min(MOST_THREADS);
        let threads = if worth > 1 { worth.min(Machine::here().cores()) } else { 1 };
        let cancelled = std::thread::scope(|scope| {
            for _ in 1..threads {
                let spawned = std::thread::Builder::new().spawn_scoped(scope, || while step() {});
                // Where the system refuses a thread, those that are there do its work.
                if spawned.is_err() {
                    break;
                }
            }
            while step() {
                if !progress(done.load(Ordering::Relaxed) as u64, total as u64) {
                    stop.store(true, Ordering::Relaxed);
                    return true;
                }
            }
            false
        });
        match bad.into_inner() {
            _ if cancelled => {
                Err(Error::new(ErrorKind::Cancelled, format!("cancelled while loading {}", path.display())))
            }
            usize::MAX if progress(total as u64, total as u64) => Ok(()),
            usize::MAX => {
                Err(Error::new(ErrorKind::Cancelled, format!("cancelled while loading {}", path.display())))
            }
            leaf => Err(self.wrong(path, leaf)),
        }
    }
}
