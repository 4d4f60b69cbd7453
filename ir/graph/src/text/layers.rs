//! Some layers of a model, as they are written: `12-13`, `5`, `0-2, 7`.

use std::fmt;
use std::str::FromStr;

/// Layers by their numbers, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// First and last of each run, ascending, with a gap between two runs.
    runs: Vec<(u32, u32)>,
}

impl Layers {
    /// These, in whatever order; `None` where there are none.
    pub fn of(layers: impl IntoIterator<Item = u32>) -> Option<Layers> {
        Layers::joined(layers.into_iter().map(|layer| (layer, layer)).collect())
    }

    /// These runs, in whatever order, each ascending; `None` where there are none.
    pub(super) fn joined(mut runs: Vec<(u32, u32)>) -> Option<Layers> {
        runs.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in runs {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        (!joined.is_empty()).then_some(Layers { runs: joined })
    }

    /// Whether this layer is one of them.
    pub fn contains(&self, layer: u32) -> bool {
        let at = self.runs.partition_point(|(first, _)| *first <= layer);
        at.checked_sub(1).is_some_and(|at| layer <= self.runs[at].1)
    }

    /// The last one.
    pub fn last(&self) -> u32 {
        self.runs.last().map_or(0, |(_, last)| *last)
    }

    /// `layer 5`, or `layers 0-2, 7`.
    pub fn named(&self) -> String {
        format!("layer{} {self}", if self.count() == 1 { "" } else { "s" })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| u64::from(last - first) + 1).sum()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().flat_map(|(first, last)| *first..=*last)
    }
}

/// Errors: what is not so written, in words.
impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Layers, String> {
        let number = |word: &str| {
            let word = word.trim();
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.then(|| word.parse::<u32>().ok()).flatten();
            number.ok_or_else(|| format!("`{word}` is no layer's number"))
        };
        let run = |part: &str| match part.split_once('-') {
            None => number(part).map(|layer| (layer, layer)),
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first <= last => Ok((first, last)),
                (first, last) => Err(format!("{first} stands before {last}, and is larger")),
            },
        };
        let runs: Result<Vec<(u32, u32)>, String> = text.split(',').map(run).collect();
        Layers::joined(runs?).ok_or_else(|| "there are no layers".to_string())
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.runs.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            match first == last {
                true => write!(f, "{first}")?,
                false => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read_and_printed() {
        for (text, printed, count) in
            [("5", "5", 1), ("12-13", "12-13", 2), ("7,0-2", "0-2, 7", 4), ("0-2, 3,2-5", "0-5", 6)]
        {
            let layers: Layers = text.parse().unwrap();
            assert_eq!((layers.to_string().as_str(), layers.count()), (printed, count));
            assert_eq!(layers.to_string().parse(), Ok(layers.clone()));
            assert_eq!(Layers::of(layers.iter()), Some(layers));
        }
        let layers: Layers = "1-2,5".parse().unwrap();
        assert_eq!(
            [0, 1, 2, 3, 5, 6].map(|layer| layers.contains(layer)),
            [false, true, true, false, true, false]
        );
        assert_eq!(layers.last(), 5);
        for text in ["", "-1", "1-", "a", "3-1", "1,,2", "+1", "4294967296", "1 2", "1--2"] {
            assert!(text.parse::<Layers>().is_err(), "{text}");
        }
        assert_eq!(Layers::of([]), None);
    }
}
