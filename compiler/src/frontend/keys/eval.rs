//! `[eval]`.

use hyc_plan::eval::RANGES;

use super::{Default, Formula, Key, PLAIN, SectionKeys, Type};

/// What must hold of the model on a text.
pub const EVAL: SectionKeys = SectionKeys {
    name: "eval",
    required: false,
    meaning: "What must hold of the model on a text: `hyc eval` of the artefact ends with an error where it does not. It is \
              stored in the artefact, and no run goes by it. `--gate` takes the place of all of it, `--no-gate` leaves it out.",
    keys: &[
        Key {
            name: "recall",
            ty: Type::Within(RANGES[0]),
            default: Default::Otherwise("any recall will do"),
            example: "0.9",
            meaning: "The least share of its attention that each layer which reads a selection keeps in it, as a mean over its \
                      heads and the tokens that see more blocks than are selected. Refused where no layer reads one.",
            formula: Some(Formula {
                text: "recall_h(t) = sum_{j in selected blocks, j <= t} exp(q_h . k_j / sqrt(d)) / sum_{j <= t} exp(q_h . k_j / sqrt(d)),  \
                       with the queries of the layer and the keys of the cache that it reads; a sink has no key",
                source: "`hyc eval --help`; blocks selected as in HySparse, arXiv 2602.03560, eq. 3",
            }),
            ..PLAIN
        },
        Key {
            name: "keys",
            ty: Type::Within(RANGES[1]),
            default: Default::Otherwise("no key is planted"),
            example: "0.8",
            meaning: "The least share of the numbers planted in the text that the model names at its end. Needs a tokenizer.",
            ..PLAIN
        },
        Key {
            name: "perplexity",
            ty: Type::Within(RANGES[2]),
            default: Default::Otherwise("any perplexity will do"),
            example: "12.5",
            meaning: "The greatest perplexity. It depends on the text, which the artefact does not have.",
            formula: Some(Formula {
                text: "exp of the mean of -ln p over the tokens of each window but its first",
                source: "Jelinek et al., J. Acoust. Soc. Am. 62, S63 (1977)",
            }),
            ..PLAIN
        },
        Key {
            name: "context",
            ty: Type::Integer(1),
            default: Default::Otherwise("2048, or `max_context` where that is less"),
            example: "4096",
            meaning: "Tokens of a window, and of the text that a key is planted in, where `--context` says nothing; at most \
                      `max_context`.",
            ..PLAIN
        },
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A key for every gate, with its own range, and the window.
    #[test]
    fn keys_are_the_gates() {
        let gates: Vec<&str> = RANGES.iter().map(|range| range.key).chain(["context"]).collect();
        assert_eq!(EVAL.names(), gates);
        for key in EVAL.keys {
            assert!(!matches!(key.ty, Type::Within(range) if range.key != key.name));
        }
    }
}
