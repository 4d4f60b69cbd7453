//! "Did you mean".

/// Bytes of a word that may be a slip of another one: of a longer one the distance is not taken to its end.
pub const LONG_WORD: usize = 64;

/// The word most like `word`, where one is near.
pub fn nearest<'w>(word: &str, words: &[&'w str]) -> Option<&'w str> {
    if word.len() > LONG_WORD {
        return None;
    }
    let best = words.iter().map(|w| (distance(word, w), *w)).min()?;
    (best.0 <= 1 + word.chars().count() / 3).then_some(best.1)
}

/// Levenshtein's distance, of the first [`LONG_WORD`] characters of `a`.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().take(LONG_WORD).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}
