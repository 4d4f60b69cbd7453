//! Attributes of ops: their values in the text form, and what an op may take.

use std::fmt;

use hyc_plan::{Epilogue, GateMode, KvCodec, RopeScaling};

/// An attribute's value in the text form.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// A non-negative integer.
    Int(u64),
    /// A float, printed so that it parses back to the same bits.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A bare word.
    Word(String),
    /// A word with numbers, as `linear(4.0)`.
    Call(String, Vec<f64>),
}

/// The text form.
impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(n) => write!(f, "{n}"),
            // `{:?}` prints the shortest text that parses back to the same bits, always with a point or exponent.
            Attr::Float(x) => write!(f, "{x:?}"),
            Attr::Bool(b) => write!(f, "{b}"),
            Attr::Word(word) => f.write_str(word),
            Attr::Call(word, numbers) => {
                let numbers: Vec<String> = numbers.iter().map(|x| format!("{x:?}")).collect();
                write!(f, "{word}({})", numbers.join(", "))
            }
        }
    }
}

/// A Rust type that an attribute field may have.
pub trait AttrValue: Sized {
    /// Into text form; `None` leaves the attribute out.
    fn to_attr(&self) -> Option<Attr>;
    /// From text form; `None` where the attribute is absent. `Err` says what is expected.
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str>;
    /// A value of each kind that an op's operands may depend on; `None` is an attribute that is left out.
    fn choices() -> Vec<Option<Attr>>;
    /// What is written, in words.
    const WORDS: &'static str;
    /// The same of an attribute that may be left out.
    const OPTIONAL: &'static str = "number, or left out";
}

impl AttrValue for u64 {
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Int(*self))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            Some(Attr::Int(n)) => Ok(*n),
            _ => Err("an integer"),
        }
    }
    fn choices() -> Vec<Option<Attr>> {
        vec![Some(Attr::Int(1))]
    }
    const WORDS: &'static str = "integer";
}

impl AttrValue for f64 {
    fn to_attr(&self) -> Option<Attr> {
        Some(Attr::Float(*self))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            Some(Attr::Float(x)) => Ok(*x),
            Some(Attr::Int(n)) => Ok(*n as f64),
            _ => Err("a number"),
        }
    }
    fn choices() -> Vec<Option<Attr>> {
        vec![Some(Attr::Float(1.0))]
    }
    const WORDS: &'static str = "number";
}

/// Absent means false, so that a dump shows only what is so.
impl AttrValue for bool {
    fn to_attr(&self) -> Option<Attr> {
        self.then_some(Attr::Bool(true))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            None => Ok(false),
            Some(Attr::Bool(b)) => Ok(*b),
            _ => Err("true or false"),
        }
    }
    fn choices() -> Vec<Option<Attr>> {
        vec![None, Some(Attr::Bool(true))]
    }
    const WORDS: &'static str = "`true`, or left out";
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Option<Attr> {
        self.as_ref().and_then(T::to_attr)
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        attr.map(|attr| T::from_attr(Some(attr))).transpose()
    }
    fn choices() -> Vec<Option<Attr>> {
        std::iter::once(None).chain(T::choices()).collect()
    }
    const WORDS: &'static str = T::OPTIONAL;
}

impl AttrValue for RopeScaling {
    fn to_attr(&self) -> Option<Attr> {
        let (name, numbers) = self.parts();
        Some(Attr::Call(name.to_string(), numbers))
    }
    fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
        match attr {
            Some(Attr::Call(name, numbers)) => RopeScaling::of(name, numbers).ok_or(RopeScaling::FORMS),
            _ => Err(RopeScaling::FORMS),
        }
    }
    fn choices() -> Vec<Option<Attr>> {
        vec![RopeScaling::Linear { factor: 1.0 }.to_attr()]
    }
    const WORDS: &'static str = RopeScaling::FORMS;
    const OPTIONAL: &'static str = "`linear(factor)`, `llama3(factor, low, high, original)`, `yarn(factor, fast, slow, original, \
                                     magnitude)`, `factors(magnitude, a number for each pair)`, or left out";
}

macro_rules! word_attr {
    ($type:ty, $expected:literal, $($word:literal => $value:path),+) => {
        impl AttrValue for $type {
            fn to_attr(&self) -> Option<Attr> {
                Some(Attr::Word(match self { $($value => $word),+ }.to_string()))
            }
            fn from_attr(attr: Option<&Attr>) -> Result<Self, &'static str> {
                match attr {
                    Some(Attr::Word(word)) => match word.as_str() {
                        $($word => Ok($value),)+
                        _ => Err($expected),
                    },
                    _ => Err($expected),
                }
            }
            fn choices() -> Vec<Option<Attr>> {
                vec![$(Some(Attr::Word($word.to_string()))),+]
            }
            const WORDS: &'static str = $expected;
            const OPTIONAL: &'static str = concat!($expected, ", or left out");
        }
    };
}
word_attr!(GateMode, "none, head or elementwise",
    "none" => GateMode::None, "head" => GateMode::Head, "elementwise" => GateMode::Elementwise);
word_attr!(Epilogue, "store, residual or swiglu",
    "store" => Epilogue::Store, "residual" => Epilogue::Residual, "swiglu" => Epilogue::SwiGlu);
word_attr!(KvCodec, "f32, bf16, int8 or fp8",
    "f32" => KvCodec::F32, "bf16" => KvCodec::Bf16, "int8" => KvCodec::Int8, "fp8" => KvCodec::Fp8);
