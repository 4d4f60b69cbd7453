//! The verifier's rules. Each has words, and the shortest text that breaks it and no other in `programs/`: a rule without
//! them does not compile.

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// What holds where it is kept.
    pub says: &'static [&'static str],
    /// The text of a graph that breaks it; `None` where only a wrong description of an op can.
    pub broken: Option<&'static str>,
}

macro_rules! rules {
    ($($about:literal: $($(#[doc = $says:literal])+ $constant:ident $name:literal by $what:ident;)+)+) => {
        $($($(#[doc = $says])+ pub const $constant: &str = $name;)+)+

        /// All of them.
        pub const RULES: &[Rule] = &[$($(Rule {
            name: $name,
            about: $about,
            says: &[$($says),+],
            broken: broken!($what $name),
        }),+),+];
    };
}

macro_rules! broken {
    (program $name:literal) => {
        Some(include_str!(concat!("programs/", $name, ".hyir")))
    };
    (description $name:literal) => {
        None
    };
}

rules! {
    "Structure":
    /// A value that is read has a producer.
    SSA_PRODUCER "ssa-producer" by program;
    /// It has no second producer.
    SSA_TWO_PRODUCERS "ssa-two-producers" by program;
    /// The producer stands before the reader.
    SSA_ORDER "ssa-order" by program;
    /// An op has the operands and results that its kind and attributes say.
    ARITY "arity" by program;
    /// Operands and results have the types and widths that the op's kind says.
    TYPE "type" by program;
    /// What an op says of its operands and results holds together.
    ROLES "roles" by description;
    /// Attributes are possible: no zero heads, a finite eps above 0, and so on.
    ATTRIBUTE "attribute" by program;
    /// There is exactly one `output`, the last op.
    OUTPUT "output" by program;

    "Caches":
    /// A version of a cache is appended to once: each append continues the newest version.
    CACHE_VERSION "cache-version" by program;
    /// A ring is read by window attentions of at most its window alone.
    RING_WINDOW "ring-window" by program;
    /// A cache that is read in a step has been appended to in that step: the bare state of before is never read while its
    /// owner appends.
    ALIAS_BEFORE_APPEND "alias-before-append" by program;

    "Selection provenance, of each read of a selection":
    /// There is a producer, which ranks blocks of a cache.
    SELECTION_PRODUCER "selection-producer" by program;
    /// There is exactly one.
    SELECTION_TWO_PRODUCERS "selection-two-producers" by program;
    /// It stands before the read.
    SELECTION_DOMINANCE "selection-dominance" by program;
    /// It ran in this forward pass, not in an earlier one.
    SELECTION_STEP "selection-step" by program;
    /// Selection and cache share their page map.
    SELECTION_MAP "selection-map" by program;
    /// The block is the cache's page.
    SELECTION_BLOCK "selection-block" by program;
    /// The KV heads agree.
    SELECTION_HEADS "selection-heads" by program;
    /// The cache is the version that the oracle itself read, or the reading layer's own.
    SELECTION_CACHE "selection-cache" by program;
    /// Page lists are those of the selection that is read beside them.
    SELECTION_LISTS "selection-lists" by program;
}

/// A fault's rule and sentence.
pub(super) type Fault = (&'static str, String);

/// A fault of an operand's or a result's type.
pub(super) fn fault(message: impl Into<String>) -> Fault {
    (TYPE, message.into())
}
