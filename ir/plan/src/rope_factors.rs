//! What each pair's frequency is divided by, as a list: what no formula of few numbers says.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::elem::is_positive_f32;

/// Most pairs of a head that a list is of.
pub const MOST_PAIRS: usize = 128;

/// A number for each pair that turns, in their order.
#[derive(Clone, Copy, PartialEq)]
pub struct RopeFactors {
    count: usize,
    all: [f32; MOST_PAIRS],
}

impl RopeFactors {
    /// A list of numbers; `None`: there are none, or more than [`MOST_PAIRS`].
    pub fn new(numbers: &[f32]) -> Option<RopeFactors> {
        let mut all = [0.0; MOST_PAIRS];
        all.get_mut(..numbers.len()).filter(|part| !part.is_empty())?.copy_from_slice(numbers);
        Some(RopeFactors { count: numbers.len(), all })
    }

    /// The list.
    pub fn list(&self) -> &[f32] {
        &self.all[..self.count]
    }

    /// The same as the shortest numbers that give it.
    pub fn shortest(&self) -> impl Iterator<Item = f64> + '_ {
        self.list().iter().map(|x| x.to_string().parse().unwrap_or(f64::from(*x)))
    }

    /// Whether all of it is positive.
    pub fn is_possible(&self) -> bool {
        self.list().iter().all(|x| is_positive_f32(f64::from(*x)))
    }
}

impl std::fmt::Debug for RopeFactors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.list().fmt(f)
    }
}

impl Serialize for RopeFactors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.list().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RopeFactors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RopeFactors, D::Error> {
        let list = Vec::<f32>::deserialize(deserializer)?;
        RopeFactors::new(&list).ok_or_else(|| {
            serde::de::Error::custom(format!("{} factors of RoPE, not 1 to {MOST_PAIRS}", list.len()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_they_are_written() {
        let list = RopeFactors::new(&[1.0, 1.03, 1e-30, 64.25]).unwrap();
        let json = serde_json::to_string(&list).unwrap();
        assert_eq!(json, "[1.0,1.03,1e-30,64.25]");
        assert_eq!(serde_json::from_str::<RopeFactors>(&json).unwrap(), list);
        assert_eq!(list.shortest().collect::<Vec<f64>>(), [1.0, 1.03, 1e-30, 64.25]);
        assert!(list.is_possible() && !RopeFactors::new(&[1.0, 0.0]).unwrap().is_possible());
        assert!(RopeFactors::new(&[]).is_none() && RopeFactors::new(&[1.0; MOST_PAIRS + 1]).is_none());
        let long = serde_json::to_string(&vec![1.0; MOST_PAIRS + 1]).unwrap();
        let error = serde_json::from_str::<RopeFactors>(&long).unwrap_err();
        assert!(error.to_string().contains("129 factors of RoPE"), "{error}");
    }
}
