//! Models that are bytes in memory.

mod common;

use std::sync::Arc;

use common::Parts;
use hyc_runtime::{ErrorKind, LoadOptions, Model, WeightId};

/// Bytes that begin at a multiple of 64, and some before them.
struct Owner {
    memory: Vec<u8>,
    begin: usize,
    len: usize,
}

impl Owner {
    /// `off` bytes behind a multiple of 64.
    fn new(bytes: &[u8], off: usize) -> Owner {
        let mut memory = vec![0; bytes.len() + 128];
        let begin = memory.as_ptr().align_offset(64) + off;
        memory[begin..begin + bytes.len()].copy_from_slice(bytes);
        Owner { memory, begin, len: bytes.len() }
    }
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.len]
    }
}

#[test]
fn a_model_lives_in_what_somebody_keeps() {
    let file = Parts::new().with_code().with_tokenizer().file();
    let owner = Arc::new(Owner::new(&file, 0));
    // SAFETY: the hand-made model's code is never called here; the bytes stay as they are.
    let model = unsafe { Model::from_owner(owner.clone(), &LoadOptions::default()) }.unwrap();
    assert_eq!(Arc::strong_count(&owner), 2);
    let place = model.weight(WeightId(0)).unwrap().as_ptr_range();
    let whole = (*owner).as_ref().as_ptr_range();
    assert!(whole.start <= place.start && place.end <= whole.end, "the weights were copied");
    drop(model);
    assert_eq!(Arc::strong_count(&owner), 1);
}

#[test]
fn bytes_that_are_not_aligned_are_told_and_not_copied() {
    let file = Parts::new().with_code().file();
    for off in [1, 8, 32, 63] {
        let owner = Arc::new(Owner::new(&file, off));
        // SAFETY: as above.
        let error = unsafe { Model::from_owner(owner, &LoadOptions::default()) }.err().unwrap();
        assert_eq!(error.kind, ErrorKind::BadInput);
        assert!(error.message.contains(&format!("begins {off} bytes behind a multiple of 64")), "{error}");
    }
    let leaked: &'static Owner = Box::leak(Box::new(Owner::new(&file, 4)));
    // SAFETY: as above.
    assert!(unsafe { Model::from_static(leaked.as_ref(), &LoadOptions::default()) }.is_err());
    let leaked: &'static Owner = Box::leak(Box::new(Owner::new(&file, 0)));
    // SAFETY: as above.
    assert!(unsafe { Model::from_static(leaked.as_ref(), &LoadOptions::default()) }.is_ok());
}

#[test]
fn damage_in_memory_is_found_as_in_a_file() {
    let file = Parts::new().with_code().with_tokenizer().file();
    for len in [0, 7, 8, 100, file.len() - 1] {
        // SAFETY: as above.
        let error =
            unsafe { Model::from_owner(Arc::new(Owner::new(&file[..len], 0)), &LoadOptions::default()) };
        assert_eq!(error.err().unwrap().kind, ErrorKind::BadArtefact, "{len} bytes");
    }
    let at = file.len() / 2;
    let mut bad = file.clone();
    bad[at] ^= 1;
    let full = LoadOptions { verify: hyc_runtime::Verify::Full, ..LoadOptions::default() };
    // SAFETY: as above.
    let error = unsafe { Model::from_owner(Arc::new(Owner::new(&bad, 0)), &full) }.err().unwrap();
    assert!(error.message.contains("is damaged"), "{error}");
}
