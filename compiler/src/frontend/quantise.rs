//! In which codec each matrix is stored: `quantise` and `formats` of `[weights]`.

use hyc_plan::Codec;

use crate::source::Pattern;

/// Input features of a group where nothing is said.
const GROUP: u32 = 64;
/// The embedding's table: its rows are looked up.
pub const TABLE: &str = "model.embed_tokens.weight";
/// As a group: the whole row.
const ROW: u32 = u32::MAX;

/// How a matrix is stored, whatever its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixFormat(Codec);

impl MatrixFormat {
    /// The names, for errors and documentation.
    pub const NAMES: &str = "f32, bf16, int8 (a scale a row), int8(GROUP), fp8, fp8(GROUP), int4 (groups of 64), int4(GROUP), \
                             int4z (with a zero point), int4z(GROUP)";

    /// Of a word. Errors: what it is not.
    pub fn parse(word: &str) -> Result<MatrixFormat, String> {
        Ok(MatrixFormat(match word {
            "int4" => Codec::Int4 { group: GROUP, zero: false },
            "int4z" => Codec::Int4 { group: GROUP, zero: true },
            "int8" => Codec::Int8 { group: ROW },
            "fp8" => Codec::Fp8 { group: ROW },
            word => word
                .parse()
                .map_err(|_| format!("no format is named `{word}`; there are {}", MatrixFormat::NAMES))?,
        }))
    }

    /// Whether numbers share scales.
    pub fn shares(self) -> bool {
        self.0.group().is_some()
    }

    /// The codec for rows of so many numbers.
    pub fn codec(self, in_features: u64) -> Codec {
        let row = u32::try_from(in_features).unwrap_or(ROW);
        match self.0 {
            Codec::Int8 { group: ROW } => Codec::Int8 { group: row },
            Codec::Fp8 { group: ROW } => Codec::Fp8 { group: row },
            codec => codec,
        }
    }
}

/// What `[weights]` says of formats.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Formats {
    /// Of all matrices but the router, the table and the head.
    pub all: Option<MatrixFormat>,
    /// Of some, by the model's names; the first that is of a name counts.
    pub some: Vec<(Pattern, MatrixFormat)>,
}

impl Formats {
    /// The codec of a matrix, whose numbers are `plain` where nothing else is said. What the table and a router have, and a head
    /// that is the table, is small or read otherwise: it stays. The head is in bytes at least.
    pub fn codec(&self, name: &str, dims: &[usize], plain: Codec) -> Codec {
        let in_features = dims.last().map_or(1, |dim| *dim as u64);
        if let Some((_, format)) = self.some.iter().find(|(pattern, _)| pattern.is_of(name)) {
            return format.codec(in_features);
        }
        let Some(all) = self.all else { return plain };
        match (name, all.0) {
            (TABLE, _) => plain,
            ("lm_head.weight", Codec::Int4 { .. }) => {
                MatrixFormat(Codec::Int8 { group: ROW }).codec(in_features)
            }
            _ if name.ends_with(".mlp.router.weight") => plain,
            _ => all.codec(in_features),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats(all: &str, some: &[(&str, &str)]) -> Formats {
        let some = some
            .iter()
            .map(|(name, word)| (Pattern::parse(name).unwrap(), MatrixFormat::parse(word).unwrap()));
        Formats { all: Some(MatrixFormat::parse(all).unwrap()), some: some.collect() }
    }

    #[test]
    fn who_keeps_what() {
        let of = formats("int4", &[("*.o_proj.weight", "int8(64)"), ("model.layers.0.*", "bf16")]);
        let codec = |name: &str, dims: &[usize]| of.codec(name, dims, Codec::Bf16).to_string();
        assert_eq!(codec("model.layers.3.mlp.up_proj.weight", &[512, 256]), "int4(64)");
        assert_eq!(codec("model.layers.0.self_attn.o_proj.weight", &[512, 256]), "int8(64)");
        assert_eq!(codec("model.layers.0.mlp.up_proj.weight", &[512, 256]), "bf16");
        assert_eq!(codec("model.layers.3.mlp.router.weight", &[16, 256]), "bf16");
        assert_eq!(codec("model.embed_tokens.weight", &[99, 256]), "bf16");
        assert_eq!(codec("lm_head.weight", &[99, 256]), "int8(256)");
        assert_eq!(
            formats("fp8", &[]).codec("lm_head.weight", &[9, 300], Codec::F32).to_string(),
            "fp8(300)"
        );
        assert_eq!(Formats::default().codec("lm_head.weight", &[9, 300], Codec::F32), Codec::F32);
        for word in ["int3", "", "int4()", "int8(0)", "INT4"] {
            let error = MatrixFormat::parse(word).unwrap_err();
            assert!(
                error.starts_with(&format!("no format is named `{word}`; there are f32, bf16")),
                "{error}"
            );
        }
    }
}
