//! The tree of digests of an artefact in the making (`hyc_plan::artefact::TREE`).

use hyc_plan::artefact::{DIGEST, LEAF, digest};

/// Bytes of the tree over tensors of these sizes.
pub fn bytes(tensors: impl Iterator<Item = u64>) -> u64 {
    tensors.map(|bytes| bytes.div_ceil(LEAF) * DIGEST as u64).sum()
}

/// Takes the bytes of all tensors in turn, in pieces of any size.
#[derive(Default)]
pub struct Tree {
    leaves: Vec<u8>,
    /// The leaf that has begun.
    open: Vec<u8>,
}

impl Tree {
    /// More bytes of the tensor in hand.
    pub fn update(&mut self, mut piece: &[u8]) {
        let leaf = LEAF as usize;
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(leaf - self.open.len()));
            piece = later;
            if now.len() == leaf {
                self.leaves.extend(digest(now));
                continue;
            }
            self.open.extend_from_slice(now);
            if self.open.len() == leaf {
                self.end_tensor();
            }
        }
    }

    /// Ends a tensor: the next byte begins a leaf.
    pub fn end_tensor(&mut self) {
        if !self.open.is_empty() {
            self.leaves.extend(digest(&self.open));
            self.open.clear();
        }
    }

    /// The tree.
    pub fn leaves(&self) -> &[u8] {
        &self.leaves
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_do_not_depend_on_pieces() {
        let leaf = LEAF as usize;
        let data: Vec<u8> = (0..3 * leaf + 5).map(|i| (i * 31 % 251) as u8).collect();
        for len in [0, 1, leaf - 1, leaf, leaf + 1, 3 * leaf + 5] {
            let want: Vec<u8> = data[..len].chunks(leaf).flat_map(digest).collect();
            for piece in [1000, leaf, 2 * leaf - 1] {
                let mut tree = Tree::default();
                data[..len].chunks(piece).for_each(|piece| tree.update(piece));
                tree.end_tensor();
                assert!(tree.leaves() == want, "{len} bytes by {piece}");
            }
            assert_eq!(bytes([len as u64].into_iter()), want.len() as u64);
        }
    }
}
