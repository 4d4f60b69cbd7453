//! What a GPU's products read, where nobody said, and where it was asked for in vain.

use hyc_ir::Graph;
use hyc_kernels::{Activations, FP8_ROWS};
use hyc_plan::Plan;

use crate::error::{Error, Result};

/// What products read where nothing was said: rows of fp8 where a dump's products do.
pub fn usual(graph: &Graph) -> Activations {
    let fp8 = graph.ops().any(|id| graph.op(id).op.fp8_rows().flatten().is_some());
    if fp8 { Activations::Fp8 } else { Activations::Bf16 }
}

/// Errors: no product of the plan reads rows of fp8, though that was asked for.
pub fn check_fp8(plan: &Plan) -> Result<()> {
    if plan.steps.iter().any(|step| step.op.fp8_rows().is_some()) {
        return Ok(());
    }
    let chunk = plan.model.chunk;
    if chunk < FP8_ROWS {
        let message = format!(
            "activations in fp8 are for steps of {FP8_ROWS} tokens and more: `chunk` under [target] is {chunk}"
        );
        return Err(Error::input(message).help("make `chunk` larger, or leave `--activations fp8` away"));
    }
    let message = "activations in fp8: no matrix of a layer is stored in fp8 with one scale a row";
    Err(Error::input(message).help("add `--quantise fp8`, or leave `--activations fp8` away"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hyc_kernels::{Generator, Nvidia};
    use hyc_plan::{Gpu, NvidiaArch, TargetKind};

    use super::*;
    use crate::frontend::{build_graph, parse_model};

    const MODEL: &str = "[model]\nname = \"m\"\nlayers = 2\nhidden = 64\nheads = 2\nkv_heads = 1\nhead_dim = 64\n\
                         ffn = 64\nvocab = 64\nrope = { theta = 10000.0 }\n\
                         [attention]\npattern = \"1:1\"\nblock = 64\ntop_k = 64\nwindow = 32\n\
                         [weights]\nquantise = \"fp8\"\n[target]\nchunk = 128\n";

    fn graph(model: &str) -> Graph {
        let desc =
            parse_model(Path::new("model.toml"), model).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let mut graph = build_graph(&desc);
        graph.header.target = TargetKind::Nvidia(NvidiaArch::Sm90a);
        graph
    }

    fn compiled(graph: Graph, activations: Activations) -> hyc_passes::Compiled {
        let nvidia = Nvidia::new(Gpu::of(NvidiaArch::Sm90a), Generator::of_anything());
        hyc_passes::run(graph, &Nvidia { activations, ..nvidia }, &mut |_| true).expect("is planned")
    }

    #[test]
    fn a_dump_says_what_its_products_read() {
        for wanted in [Activations::Fp8, Activations::Bf16] {
            let graph = compiled(graph(MODEL), wanted).graph;
            assert_eq!(usual(&graph), wanted);
            assert_eq!(compiled(graph.clone(), wanted).graph, graph, "{wanted:?}");
        }
    }

    #[test]
    fn rows_of_fp8_that_nobody_reads_are_refused() {
        let check = |model: &str| check_fp8(&compiled(graph(model), Activations::Fp8).plan);
        check(MODEL).expect("there are some");
        for (from, to, says) in [
            ("\"fp8\"", "\"int8\"", "stored in fp8 with one scale a row"),
            ("\"fp8\"", "\"fp8(32)\"", "stored in fp8 with one scale a row"),
            ("chunk = 128", "chunk = 64", "steps of 65 tokens and more: `chunk` under [target] is 64"),
        ] {
            let error = check(&MODEL.replace(from, to)).expect_err(to);
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}
