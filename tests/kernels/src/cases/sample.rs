//! A token a row, equal to the reference's: every filter, ties, rows that are no numbers, and logits behind those
//! that are chosen from.

use hyc_plan::*;

use super::{Case, FEW, Fill, case, indices, sized, spec, tensor};
use crate::case::Filter;

/// Rows: one, some, and more than the kernel has blocks.
const ROWS: [usize; 3] = [1, 3, 140];

pub fn all() -> Vec<Case> {
    let filters = Filter::ALL.map(Fill::Sampled).into_iter();
    let fills: Vec<Fill> = filters.chain([Fill::TiedLogits, Fill::BadLogits]).collect();
    let mut cases = Vec::new();
    let some = [(97, 64), (4096, 4095), (151_936, 151_669)].map(|(vocab, named)| (vocab, Some(named)));
    for (vocab, named) in [5, 97, 4096, 151_680].map(|vocab| (vocab, None)).into_iter().chain(some) {
        let tokens = spec(StepOp::Sample(ops::Sample { vocab, named }), vec![tensor(vocab), indices(1)], FEW);
        let spec = KernelSpec { rows: Rows::Outputs, max_rows: 140, ..tokens };
        for fill in &fills {
            for rows in ROWS {
                let small = rows == 3 && vocab < 5000;
                let case = sized(case("sample", &spec, &vec![(0, 1); rows], 0.0), small);
                cases.push(Case { fill: *fill, ..case });
            }
        }
    }
    cases
}
