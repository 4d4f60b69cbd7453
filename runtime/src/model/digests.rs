//! The digests of an artefact's tensors.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use hyc_ir::artefact::DIGESTS_KEY;
use sha2::{Digest, Sha256};

use super::damaged;
use super::header::hex;
use crate::error::{Error, ErrorKind, Result};

/// Every tensor that `checked` names has its digest. Tensors are shared out to eight threads at most: the
/// file is read at the disk's speed long before that.
pub(super) fn check_digests(
    path: &Path,
    map: &[u8],
    places: &BTreeMap<String, (usize, usize)>,
    metadata: &BTreeMap<String, String>,
    checked: &dyn Fn(&str) -> bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    const PIECE: usize = 4 << 20;
    let digests: BTreeMap<String, String> = metadata
        .get(DIGESTS_KEY)
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| damaged(path, "it has no digests"))?;
    let list: Vec<(&String, &(usize, usize))> = places.iter().filter(|(name, _)| checked(name)).collect();
    let total: usize = list.iter().map(|(_, (start, end))| end - start).sum();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = |pieces: mpsc::Sender<usize>| -> Option<String> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (name, (start, end)) = list.get(i)?;
            let mut digest = Sha256::new();
            for piece in map[*start..*end].chunks(PIECE) {
                digest.update(piece);
                // Nobody listens any more only where the loading is being cancelled.
                let _ = pieces.send(piece.len());
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
            }
            if digests.get(*name) != Some(&hex(&digest.finalize())) {
                return Some((*name).clone());
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let bad = std::thread::scope(|scope| {
        let (sender, pieces) = mpsc::channel();
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(move || work(sender))
            })
            .collect();
        drop(sender);
        let mut done = 0;
        for piece in pieces {
            done += piece;
            if !stop.load(Ordering::Relaxed) && !progress(done as u64, total as u64) {
                stop.store(true, Ordering::Relaxed);
            }
        }
        workers.into_iter().filter_map(|worker| worker.join().ok().flatten()).min()
    });
    if stop.into_inner() {
        return Err(Error::new(ErrorKind::Cancelled, format!("cancelled while loading {}", path.display())));
    }
    match bad {
        None => Ok(()),
        Some(name) => Err(damaged(path, format!("tensor `{name}` does not have the digest that is stated"))),
    }
}
