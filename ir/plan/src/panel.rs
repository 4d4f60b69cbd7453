//! Panels of [`Layout::Panels`](crate::Layout::Panels).

use crate::align::PANEL;
use crate::codec::Codec;

/// A panel: [`PANEL`] outputs by so many inputs, group by group what the group of each output shares, then the codes. A codec
/// whose numbers share nothing has one group of all inputs.
///
/// ```text
/// group   shared [output: 16]   codes [input][place: 16]
/// ```
/// In a grouped codec place 4 l + v of an input's codes is output 4 v + l: a quarter l of them, a word of bytes or half a word of
/// int4, has output l of each vector v of four, so that shifts of all quarters give a vector in lane order. Codes of int4 without a
/// least value are in two's complement: as they are, less eight.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    codec: Codec,
    in_features: u64,
}

impl Panel {
    /// Of so many input features.
    pub fn of(codec: Codec, in_features: u64) -> Panel {
        Panel { codec, in_features }
    }

    /// Inputs of a group, of which the last may have fewer.
    pub fn group(self) -> u64 {
        self.codec.group().unwrap_or(u64::MAX).clamp(1, self.in_features.max(1))
    }

    /// Bytes of what a group's outputs share.
    pub fn shared_bytes(self) -> u64 {
        PANEL * self.codec.shared_bytes()
    }

    /// Bytes of an input's codes.
    pub fn input_bytes(self) -> u64 {
        self.codec.code_bytes(PANEL)
    }

    /// Bytes of a group of so many inputs.
    pub fn group_bytes(self, inputs: u64) -> u64 {
        self.shared_bytes() + inputs * self.input_bytes()
    }

    /// Bytes in all.
    pub fn bytes(self) -> u64 {
        self.in_features.div_ceil(self.group()) * self.shared_bytes() + self.in_features * self.input_bytes()
    }
}
