//! The list of cases: every op in every class of shape that its kernels tell apart.

mod attention;
mod experts;
mod generic;
mod grouped;
mod handed_on;
mod kv_codes;
mod page_lists;
mod projections;
mod sample;
mod selection;
mod strips;
mod tiled;
mod timed;

use hyc_plan::round_up;
use hyc_plan::*;

use crate::case::{Case, Fill};

/// All cases; names are distinct.
pub fn all() -> Vec<Case> {
    let tiled = [tiled::all(), page_lists::all(), strips::all()].concat();
    let handed_on = handed_on::all(&tiled);
    let codes = [kv_codes::all(), kv_codes::tiled(&[&tiled[..], &handed_on].concat())].concat();
    [portable(), codes, handed_on, tiled, selection::tiled(), sample::all()].concat()
}

/// The cases that need no tensor cores.
pub fn portable() -> Vec<Case> {
    [generic::all(), selection::portable()].concat()
}

/// Those that a processor has kernels for.
pub fn host() -> Vec<Case> {
    [portable(), grouped::all(), kv_codes::all()].concat()
}

/// What `cargo bench` times.
pub fn timed() -> Vec<Case> {
    timed::all()
}

/// (Tokens before, rows) of each sequence.
type Sequences<'a> = &'a [(u64, u64)];

/// Rows and positions for kernels of few tokens.
const RAGGED: &[Sequences<'static>] =
    &[&[(0, 1)], &[(5, 1), (23, 1)], &[(0, 13)], &[(9, 7), (0, 3), (31, 1)]];

fn tensor(width: u64) -> OperandSpec {
    OperandSpec::Tensor { elem: Elem::F32, width, stride: round_up(width, 16) }
}

fn indices(width: u64) -> OperandSpec {
    OperandSpec::Tensor { elem: Elem::I32, width, stride: round_up(width, 16) }
}

fn vector(len: u64) -> OperandSpec {
    OperandSpec::Weight(Format { codec: Codec::F32, layout: Layout::Vector { len } })
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Panels(Codec),
    Tiles,
    Strips(Codec),
}

impl Store {
    /// `count` matrices of `out` features, `group` of which share panels.
    fn matrix(self, count: u64, out: u64, in_features: u64, group: u64) -> OperandSpec {
        match self {
            Store::Panels(codec) => OperandSpec::Weight(Format {
                codec,
                layout: Layout::Panels { count, out_features: out, in_features, group },
            }),
            Store::Tiles => OperandSpec::Weight(Format {
                codec: Codec::Bf16,
                layout: Layout::Tiles { count, out_features: out, in_features },
            }),
            Store::Strips(codec) => OperandSpec::Weight(Format {
                codec,
                layout: Layout::Strips { count, out_features: out, in_features },
            }),
        }
    }
}

/// How far a kernel may be driven.
#[derive(Debug, Clone, Copy)]
struct Limits {
    rows: u64,
    context: u64,
}

const FEW: Limits = Limits { rows: 64, context: 1024 };
const MANY: Limits = Limits { rows: 512, context: 40000 };

fn spec(op: StepOp, operands: Vec<OperandSpec>, limits: Limits) -> KernelSpec {
    KernelSpec { op, operands, rows: Rows::Tokens, max_rows: limits.rows, max_context: limits.context }
}

fn case(family: &str, spec: &KernelSpec, sequences: Sequences<'_>, f32_error: f64) -> Case {
    let (family, sequences) = (family.to_string(), sequences.to_vec());
    Case { family, spec: spec.clone(), sequences, fill: Fill::Random, small: false, f32_error }
}

/// The same case among those for a sanitizer, where `small`.
fn sized(case: Case, small: bool) -> Case {
    Case { small, ..case }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_and_rows_within_the_kernels() {
        for cases in [super::all(), super::host(), super::timed()] {
            let mut names = HashSet::new();
            for case in cases {
                assert!(names.insert(case.name()), "{} twice", case.name());
                let rows: u64 = case.sequences.iter().map(|(_, rows)| rows).sum();
                assert!(rows <= case.spec.max_rows, "{}", case.name());
                assert!(case.sequences.iter().all(|(past, rows)| past + rows <= case.spec.max_context));
            }
        }
    }
}
