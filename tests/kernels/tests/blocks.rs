//! The probes of the GPU's building blocks: each has its operands, and becomes one launch.
#![cfg(feature = "llvm")]

use hyc_kernel_tests::{Rng, blocks};
use hyc_kernels::gpu::probe;

#[test]
fn each_probe_has_a_block_of_as_many_operands() {
    for probe in probe::all() {
        let block =
            blocks::block(probe.name, &mut Rng(1)).unwrap_or_else(|| panic!("no block {}", probe.name));
        assert_eq!(block.memory().len(), probe.spec().operands.len(), "{}", probe.name);
        let wrong = block.check(&block.memory());
        assert!(wrong.is_err(), "{}: nothing done is right", probe.name);
    }
}

#[test]
fn each_probe_is_one_launch() {
    for probe in probe::all() {
        let ptx = probe.compile("probe").unwrap_or_else(|e| panic!("{}: {e}", probe.name));
        assert_eq!(ptx.kernels[0].launches.len(), 1, "{}", probe.name);
        assert!(ptx.text.contains(".entry probe("), "{}", probe.name);
    }
}
