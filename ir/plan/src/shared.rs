//! What the numbers of a group of a codec share.

/// What the numbers of a group share: a number is `code * scale + least`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shared {
    /// What codes are multiplied by.
    pub scale: f32,
    /// What is added.
    pub least: f32,
}

impl Shared {
    /// Of numbers that share nothing.
    pub const NONE: Shared = Shared { scale: 1.0, least: 0.0 };

    /// Of codes that are multiplied alone.
    pub const fn scaled(scale: f32) -> Shared {
        Shared { scale, least: 0.0 }
    }

    /// Of a symmetric [`Codec::Int4`](crate::Codec::Int4).
    pub fn symmetric(scale: f32) -> Shared {
        Shared { scale, least: -8.0 * scale }
    }
}
