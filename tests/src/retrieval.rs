//! The trained model's planted-key prompts of 4k tokens, with PyTorch's tokens.

use std::path::Path;

use hyc_runtime::{
    CancelToken, Event, GenerateOptions, Model, Result, Sampling, Session, Tokenizer, generate,
};
use safetensors::SafeTensors;

/// `retrieval.safetensors`.
pub struct Prompts {
    /// Token ids.
    pub prompts: Vec<Vec<u32>>,
    /// What PyTorch generates.
    pub expected: Vec<Vec<u32>>,
    /// What was planted.
    pub keys: Vec<Vec<u32>>,
    /// How far each expected token's logit is above the next.
    pub margins: Vec<Vec<f32>>,
}

impl Prompts {
    /// Reads them.
    pub fn open(path: &Path) -> Prompts {
        let bytes = std::fs::read(path).expect("a safetensors file");
        let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let view = |name: &str| tensors.tensor(name).expect("a tensor of the prompts");
        let rows = |name: &str| -> Vec<Vec<u32>> {
            let view = view(name);
            let words = view.data().chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])));
            let words: Vec<u32> = words.collect();
            words.chunks(view.shape()[1]).map(<[u32]>::to_vec).collect()
        };
        let expected = rows("expected");
        let margins = view("margins");
        let margins = margins.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let margins: Vec<f32> = margins.collect();
        Prompts {
            // Rows are padded with 65535.
            prompts: rows("prompts")
                .into_iter()
                .map(|row| row.into_iter().filter(|token| *token != 65535).collect())
                .collect(),
            margins: margins.chunks(expected[0].len()).map(<[f32]>::to_vec).collect(),
            keys: rows("keys"),
            expected,
        }
    }
}

/// A token that is not PyTorch's; what comes behind it is not compared.
#[derive(Debug)]
pub struct Other {
    /// Index of the prompt.
    pub prompt: usize,
    /// Index of the token.
    pub token: usize,
    /// Ours and PyTorch's.
    pub ids: (u32, u32),
    /// How far PyTorch's token was above the next in logits.
    pub margin: f32,
}

/// How greedy decoding went.
#[derive(Debug, Default)]
pub struct Report {
    /// Prompts whose planted key came out.
    pub keys_right: usize,
    /// Where tokens differ, ties or not.
    pub others: Vec<Other>,
}

/// Decodes the first `count` prompts greedily.
pub fn decode(session: &mut Session, model: &Model, prompts: &Prompts, count: usize) -> Result<Report> {
    let tokenizer = Tokenizer::of(model)?;
    let mut report = Report::default();
    for i in 0..count {
        let expected = &prompts.expected[i];
        let greedy = Some(Sampling::default());
        let options = GenerateOptions {
            max_new_tokens: expected.len(),
            sampling: greedy,
            ..GenerateOptions::default()
        };
        let cancel = CancelToken::new();
        let done = generate(session, &tokenizer, &prompts.prompts[i], &options, &cancel, &mut |_: Event| {})?;
        report.keys_right += usize::from(done.tokens.starts_with(&prompts.keys[i]));
        let differs = |at: &usize| done.tokens.get(*at) != Some(&expected[*at]);
        if let Some(token) = (0..expected.len()).find(differs) {
            let ids = (done.tokens.get(token).copied().unwrap_or(u32::MAX), expected[token]);
            report.others.push(Other { prompt: i, token, ids, margin: prompts.margins[i][token] });
        }
    }
    Ok(report)
}
