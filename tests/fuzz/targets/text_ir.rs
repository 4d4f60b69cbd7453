//! The text IR: any text gives errors, or a graph that prints to a fixed point; one that verifies goes
//! through the passes to a Plan that verifies, or to an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(graph) = hyc_ir::text::parse(text) else { return };
    let printed = hyc_ir::text::print(&graph);
    let again = hyc_ir::text::parse(&printed).expect("what was printed can be read");
    assert_eq!(printed, hyc_ir::text::print(&again));
    let style = hyc_ir::text::Style { notes: true, ..Default::default() };
    let short = hyc_ir::text::print_as(&graph, &style);
    let again = hyc_ir::text::parse(&short).expect("what was printed can be read");
    assert_eq!(short, hyc_ir::text::print_as(&again, &style));
    if hyc_ir::verify::verify(&graph).is_ok() {
        hyc_fuzz::compile(&graph);
    }
});
