//! Memory is taken when it is used. One test alone in this process, which measures itself.

mod common;

use common::{Parts, Plain, assert_close, naive};
use hyc_runtime::{Engine, KvRoom, Model, StepInput, Values, Verify};

/// Bytes of this process in memory: now (`VmRSS`) or at most so far (`VmHWM`).
fn resident(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn memory_is_taken_when_it_is_used() {
    junk_in_headers_takes_little();
    caches_are_touched_when_their_pages_are_used();
}

/// Parsed into a tree of values, two bytes of such a header would take 32.
fn junk_in_headers_takes_little() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("junk.hyc");
    let mut header = br#"{"__metadata__":{"hyc.version":"2"},"a":{"dtype":"U8","shape":[1"#.to_vec();
    header.extend(b",1".repeat(30_000_000));
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
    drop(header);
    // The largest use so far begins anew.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident("VmRSS");
    assert!(Model::open_to_look(&path, Verify::Header).is_err());
    let grown = resident("VmHWM").saturating_sub(before);
    assert!(grown < 150 << 20, "{} MiB for a header of 60 MB", grown >> 20);
}

fn caches_are_touched_when_their_pages_are_used() {
    let model = Parts::new().load().unwrap();
    let cache = &model.plan().caches[0];
    let pages = (2 << 30) / cache.page_bytes();
    let before = resident("VmRSS");
    let mut engine = Engine::with_kernels(model.clone(), Box::new(Plain), KvRoom::new(pages, 3)).unwrap();
    // Two pages far from each other.
    let tokens = [3, 1, 4, 1, 5];
    let input = StepInput {
        token_ids: tokens.map(|t| t as i32).to_vec(),
        positions: vec![0, 1, 2, 3, 4],
        sequence: vec![0; 5],
        page_table: vec![pages as i32 / 2, pages as i32 - 1],
        ring_slot: vec![0],
        out_rows: vec![4],
        sampling: vec![],
        seen: vec![],
    };
    engine.begin(input).unwrap();
    engine.run_pass().unwrap();
    let Values::F32(logits) = engine.buffer(model.plan().logits).unwrap() else { panic!("no floats") };
    assert_close(&logits, &naive(&tokens), "logits");
    // Huge pages are 2 MiB each.
    let grown = resident("VmRSS").saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for five tokens in a cache of 2 GiB", grown >> 20);
}
