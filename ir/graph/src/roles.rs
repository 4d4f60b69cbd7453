//! What a graph op may do with its operands, and what its results are. Each op says it of its own ([`Described`]): the one
//! description that the verifier, the passes and the text form go by. What an op does not say it may not do.

use std::ops::{Deref, DerefMut};

use hyc_plan::Reach;

/// What an operand is to the op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A tensor of f32.
    Tensor,
    /// Chosen experts.
    Experts,
    /// A weight.
    Weight,
    /// Probabilities of an attention, or maxima of them.
    Scores,
    /// The version of a cache that is read, and how far back.
    Cache(Reach),
    /// The version of a cache that is appended to: the newest one.
    Append,
    /// A selection of blocks, looked up in the cache that the operand of this name is.
    Selection {
        /// That operand.
        over: &'static str,
    },
    /// The page lists of the selection that the operand of this name is.
    PageLists {
        /// That operand.
        of: &'static str,
    },
}

/// What a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// A tensor of f32.
    Tensor,
    /// Chosen experts.
    Experts,
    /// A weight.
    Weight,
    /// Probabilities of an attention, or maxima of them.
    Scores(Over),
    /// A version of a cache.
    Cache(Version),
    /// A selection of blocks.
    Selection(Over),
    /// The page lists of the selection in the operand of this name.
    PageLists(&'static str),
}

/// The cache that scores were computed over, or blocks ranked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The version in the operand of this name.
    Cache(&'static str),
    /// What the scores in the operand of this name were computed over.
    Scores(&'static str),
    /// One of an earlier step, which is gone.
    EarlierStep,
    /// Not known before `detect-chains` has run.
    Open,
}

/// Where a version of a cache comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The cache before this step.
    State,
    /// The version in the operand of this name, with this step's rows.
    After(&'static str),
    /// A copy of the version in the operand of this name.
    CopyOf(&'static str),
    /// Not known before `detect-chains` has run.
    Open,
}

/// An operand or a result with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role<K> {
    /// Short name, as in the text form: `x`, `cache`, `sel`, ...
    pub name: &'static str,
    /// What it is.
    pub kind: K,
}

/// Most operands of an op.
const MOST: usize = 10;

/// A short list: an op is asked for it once per use.
#[derive(Debug, Clone, Copy)]
pub struct List<K> {
    roles: [Role<K>; MOST],
    len: usize,
}

impl<K: Copy> List<K> {
    fn new(filler: K) -> List<K> {
        List { roles: [Role { name: "", kind: filler }; MOST], len: 0 }
    }

    pub(crate) fn of<const N: usize>(filler: K, roles: [(&'static str, K); N]) -> List<K> {
        let mut list = List::new(filler);
        list.extend(roles);
        list
    }

    pub(crate) fn extend(&mut self, roles: impl IntoIterator<Item = (&'static str, K)>) {
        for (name, kind) in roles {
            self.roles[self.len] = Role { name, kind };
            self.len += 1;
        }
    }

    /// Where the operand of that name stands.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.iter().position(|role| role.name == name)
    }
}

impl<K> Deref for List<K> {
    type Target = [Role<K>];

    fn deref(&self) -> &[Role<K>] {
        &self.roles[..self.len]
    }
}

impl<K> DerefMut for List<K> {
    fn deref_mut(&mut self) -> &mut [Role<K>] {
        &mut self.roles[..self.len]
    }
}

/// The operands and results of an op.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// The operands, in order.
    pub takes: List<Takes>,
    /// The results, in order.
    pub gives: List<Gives>,
}

impl Roles {
    /// Which operand is a cache that is appended to.
    pub fn append(&self) -> Option<usize> {
        self.takes.iter().position(|role| role.kind == Takes::Append)
    }
}

/// What every op says of its operands and results.
pub trait Described {
    /// The operands, in order.
    fn takes(&self) -> List<Takes>;

    /// The results, in order.
    fn gives(&self) -> List<Gives>;
}
