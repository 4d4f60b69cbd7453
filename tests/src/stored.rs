//! Weights that stay as a file has them: an artefact of a GPU's plan, beside the numbers of its files.

use std::path::Path;

use hyc::frontend::parse_model;
use hyc::output::{Kept, Target};
use hyc::source::{Block, TensorSource, WeightSource, Weights};
use hyc::write::{self, Artefact};
use hyc_plan::pack::load_row;
use hyc_plan::{Codec, Layout, Plan, bind};
use safetensors::SafeTensors;

use crate::card::Card;

/// The numbers of a description's files, by the model's names.
pub fn source(description: &str) -> WeightSource {
    let desc =
        parse_model(Path::new("model.toml"), description).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let files = WeightSource::open(&desc.weights.files).expect("opens");
    files.renamed(&desc.weights.names).expect("has these names")
}

/// Writes the artefact of a GPU's plan of a description.
pub fn artefact(description: &str, out: &Path) -> Plan {
    let plan = Card::default().plan(description);
    let mut code = bind::lay_out_ptx(&plan, "");
    bind::seal(&plan, &mut code);
    let target = Target::new(out, &Kept::default()).expect("can be written");
    let weights = Weights::Files(source(description));
    write::artefact(&target, &Artefact::bare(&plan, &code), &weights, &mut |_| Ok(())).expect("is written");
    plan
}

/// Whether numbers are equal to the bit, but for the sign of a zero.
pub fn same(found: &[f32], want: &[f32]) -> bool {
    found.len() == want.len()
        && found.iter().zip(want).all(|(a, b)| (a + 0.0).to_bits() == (b + 0.0).to_bits())
}

/// Writes the artefact of a description and finds in it, in strips, the numbers of the files in all weights of `codec`. How many
/// these are.
pub fn check(description: &str, codec: Codec, out: &Path) -> usize {
    let plan = artefact(description, out);
    let (bytes, source) = (std::fs::read(out).expect("is there"), source(description));
    let tensors = SafeTensors::deserialize(&bytes).expect("is an artefact");
    let (mut count, mut block, mut want) = (0, Block::default(), Vec::new());
    for weight in plan.weights.iter().filter(|weight| weight.format.codec == codec) {
        let (format, cols) = (weight.format, weight.format.layout.cols());
        assert!(matches!(format.layout, Layout::Strips { .. }), "{format:?}");
        let packed = tensors.tensor(&weight.name).expect("is there").data();
        for row in 0..weight.shape[0] {
            source.block(&weight.name, cols, row, 1, &mut block).expect("reads");
            block.to_f32(&mut want);
            let found = load_row(format, packed, row, cols);
            assert!(same(&found, &want), "{} {row}: {found:?}, not {want:?}", weight.name);
        }
        count += 1;
    }
    count
}
