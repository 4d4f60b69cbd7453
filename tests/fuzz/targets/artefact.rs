//! The artefact reader: any file, rightly signed or not, is loaded or refused; of one that is loaded, what a
//! session would take can be told. And what a compiled model does whose plan was changed, with every digest outside its
//! code made anew: it is refused, or runs and computes what the changed plan means.
#![no_main]

use hyc_runtime::{KvRoom, LoadOptions, MemoryPlan, Model, Tokenizer};
use hyc_tests::mutate::{Outcome, Subject, mutate};

fn load(bytes: &[u8]) -> bool {
    let path = std::env::temp_dir().join(format!("hyc-fuzz-{}.hyc", std::process::id()));
    std::fs::write(&path, bytes).expect("room in the temporary folder");
    // SAFETY: no session runs it.
    let Ok(model) = (unsafe { Model::load(&path, &LoadOptions::default()) }) else { return false };
    let m = &model.plan().model;
    let memory = MemoryPlan::new(&model, KvRoom::new(m.max_context.div_ceil(m.page), 1), 1);
    let _ = memory.check(model.plan());
    let _ = Tokenizer::of(&model);
    true
}

thread_local! {
    /// What is changed, and the folder that its files lie in.
    static SUBJECT: (tempfile::TempDir, Subject) = {
        let folder = tempfile::tempdir().expect("room in the temporary folder");
        let subject = Subject::of("dense", folder.path());
        (folder, subject)
    };
}

/// Takes `bytes` for choices of what to change; an odd first byte renews the plan's digest in the code, too.
fn changed(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    let mut words = rest.chunks_exact(2);
    let mut next = |n: usize| {
        let word = words.next().map_or(0, |word| u16::from_le_bytes([word[0], word[1]]));
        usize::from(word) % n.max(1)
    };
    let renew = first % 2 == 1;
    SUBJECT.with(|(_, subject)| {
        let Some((plan, what)) = mutate(subject.plan(), &mut next) else { return };
        match subject.outcome(&plan, renew) {
            Outcome::Wrong(message) => panic!("{what}: {message}"),
            Outcome::Another if !renew => panic!("{what}: other tokens"),
            Outcome::Refused(_) | Outcome::Same | Outcome::Another => {}
        }
    });
}

/// `HYC_SEEDS=FOLDER artefact`: turns the artefacts in a folder into what fuzzing starts from, and ends.
fn seeds() {
    let Some(folder) = std::env::var_os("HYC_SEEDS") else { return };
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let bytes = std::fs::read(&path).expect("a file");
        std::fs::write(&path, hyc_fuzz::artefact::parts(&bytes).expect("an artefact")).expect("room");
    }
    std::process::exit(0);
}

libfuzzer_sys::fuzz_target!(init: seeds(), |bytes: &[u8]| {
    load(bytes);
    changed(bytes);
    if let Some(file) = std::str::from_utf8(bytes).ok().and_then(hyc_fuzz::artefact::file) {
        load(&file);
    }
});
