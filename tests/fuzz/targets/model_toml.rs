//! model.toml: any text gives a graph that verifies and survives its own text form, or diagnostics that can
//! be laid out.
#![no_main]

use std::path::Path;

use hyc::frontend::{build_graph, parse_model};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match parse_model(Path::new("model.toml"), text) {
        Err(diagnostics) => assert!(!diagnostics.render(false).is_empty()),
        // A graph of a thousand layers says nothing that one of forty does not, and takes long.
        Ok(desc) if desc.layers.len() > 40 => {}
        Ok(desc) => {
            let graph = build_graph(&desc);
            hyc_ir::verify::verify(&graph).expect("a valid description gives a valid graph");
            let text = hyc_ir::text::print(&graph);
            let again = hyc_ir::text::parse(&text).expect("what was printed can be read");
            assert_eq!(text, hyc_ir::text::print(&again));
            hyc_fuzz::compile(&graph);
        }
    }
});
