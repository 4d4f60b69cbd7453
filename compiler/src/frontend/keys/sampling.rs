//! `[sampling]`.

use hyc_plan::sampling::RANGES;

use super::{Default, Formula, Key, PLAIN, SectionKeys, Type};

/// The range of a setting, by its place in the list.
const fn within(index: usize) -> Type {
    Type::Within(RANGES[index])
}

/// How tokens are chosen.
pub const SAMPLING: SectionKeys = SectionKeys {
    name: "sampling",
    required: false,
    meaning: "How tokens are chosen where no flag and no option says otherwise; it is stored in the artefact. A model \
              without the section is greedy. Logits change and tokens drop out in this order: penalties, temperature, \
              top-k, top-p, min-p.",
    keys: &[
        Key {
            name: "temperature",
            ty: within(0),
            default: Default::Value("1"),
            example: "0.8",
            meaning: "Divides the logits; 0 takes the likeliest token, the lower of equal ones.",
            ..PLAIN
        },
        Key {
            name: "top_k",
            ty: within(1),
            default: Default::Value("0"),
            example: "40",
            meaning: "Keeps the k likeliest tokens; 0: all.",
            ..PLAIN
        },
        Key {
            name: "top_p",
            ty: within(2),
            default: Default::Value("1"),
            example: "0.95",
            meaning: "Keeps the likeliest tokens whose probabilities first reach this sum; 1: all.",
            formula: Some(Formula {
                text: "the smallest set of likeliest tokens with  sum p >= top_p",
                source: "Holtzman et al., arXiv 1904.09751, sec. 3.1",
            }),
            ..PLAIN
        },
        Key {
            name: "min_p",
            ty: within(3),
            default: Default::Value("0"),
            example: "0.05",
            meaning: "Keeps tokens at least this likely beside the likeliest; 0: all.",
            formula: Some(Formula {
                text: "the tokens with  p >= min_p max(p)",
                source: "Nguyen et al., arXiv 2407.01082, sec. 3",
            }),
            ..PLAIN
        },
        Key {
            name: "repeat_penalty",
            ty: within(4),
            default: Default::Value("1"),
            example: "1.1",
            meaning: "Makes tokens of prompt and text less likely, at temperature 0 too; 1: none, below 1: likelier.",
            formula: Some(Formula {
                text: "logit / repeat_penalty where the logit is above 0, else logit * repeat_penalty",
                source: "Keskar et al., arXiv 1909.05858, sec. 4.1, as transformers and vLLM have it",
            }),
            ..PLAIN
        },
        Key {
            name: "presence_penalty",
            ty: within(5),
            default: Default::Value("0"),
            example: "0.5",
            meaning: "Taken from the logits of tokens that were generated, not of the prompt's.",
            ..PLAIN
        },
        Key {
            name: "frequency_penalty",
            ty: within(6),
            default: Default::Value("0"),
            example: "0.5",
            meaning: "Taken from the logits of tokens that were generated, once for each time.",
            formula: Some(Formula {
                text: "logit - frequency_penalty count - presence_penalty [count > 0],  after the repeat penalty",
                source: "OpenAI's API reference, frequency and presence penalties, as vLLM has it",
            }),
            ..PLAIN
        },
        Key {
            name: "penalty_window",
            ty: within(7),
            default: Default::Value("1024"),
            example: "1024",
            meaning: "How many tokens back penalties look.",
            ..PLAIN
        },
        Key {
            name: "seed",
            ty: Type::Seed,
            default: Default::Otherwise("a new one every time, which is printed"),
            example: "7",
            meaning: "Seed of the choice: with it equal prompts have equal continuations.",
            ..PLAIN
        },
    ],
};

#[cfg(test)]
mod tests {
    use hyc_plan::sampling::Range;

    use super::*;

    /// A key for every setting, with its own range, and the seed.
    #[test]
    fn keys_are_the_settings() {
        let settings: Vec<&str> = RANGES.iter().map(|range| range.key).chain(["seed"]).collect();
        assert_eq!(SAMPLING.names(), settings);
        for key in SAMPLING.keys {
            if let Type::Within(Range { key: setting, .. }) = key.ty {
                assert_eq!(key.name, setting);
            }
        }
    }
}
