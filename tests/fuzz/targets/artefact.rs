//! The artefact reader: any file, rightly signed or not, is loaded or refused; of one that is loaded, what a
//! session would take can be told.
#![no_main]

use hyc_runtime::{LoadOptions, MemoryPlan, Model, Tokenizer};

fn load(bytes: &[u8]) -> bool {
    let path = std::env::temp_dir().join(format!("hyc-fuzz-{}.hyc", std::process::id()));
    std::fs::write(&path, bytes).expect("room in the temporary folder");
    // SAFETY: none of its code is run.
    let Ok(model) = (unsafe { Model::load(&path, &LoadOptions::default()) }) else { return false };
    let m = &model.plan().model;
    let memory = MemoryPlan::new(&model, m.max_context.div_ceil(m.page), 1, 1);
    let _ = memory.check(model.plan());
    let _ = Tokenizer::of(&model);
    true
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
    if let Some(file) = std::str::from_utf8(bytes).ok().and_then(hyc_fuzz::artefact::file) {
        load(&file);
    }
});
