//! hyc.h is what these sources say, and the library exports what hyc.h declares. `HYC_BLESS=1` writes both anew.

mod common;

use std::collections::BTreeSet;

use common::{folder, library};
use object::{Object, ObjectSymbol};

fn header() -> String {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).expect("cbindgen.toml");
    // In the order in which a reader needs them; lib.rs would bring each in once more.
    let sources =
        ["version", "failure", "error", "event", "options", "model", "session", "generation", "batch"];
    let builder = sources.iter().fold(cbindgen::Builder::new().with_config(config), |builder, source| {
        builder.with_src(folder().join(format!("src/{source}.rs")))
    });
    let mut text = Vec::new();
    builder.generate().expect("bindings").write(&mut text);
    String::from_utf8(text).expect("text")
}

#[test]
fn the_header_is_what_the_sources_say() {
    hyc_filetest::expect(&folder().join("include/hyc.h"), &header());
}

#[test]
fn the_library_exports_what_the_header_declares() {
    let bytes = std::fs::read(library()).expect("libhyc.so");
    let file = object::File::parse(&*bytes).expect("a shared library");
    let exported: BTreeSet<String> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition() && symbol.is_global())
        .filter_map(|symbol| Some(symbol.name().ok()?.to_string()))
        .collect();
    let text = exported.iter().map(|name| format!("{name}\n")).collect::<String>();
    hyc_filetest::expect(&folder().join("include/symbols.txt"), &text);
    let header = header();
    for name in &exported {
        assert!(name.starts_with("hyc_"), "{name} is exported");
        let declared = header.matches(&format!("{name}(")).count();
        assert_eq!(declared, 1, "declarations of {name}");
    }
}
