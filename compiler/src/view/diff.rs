//! Two lists of lines side by side: what both have in common stands once on either side, long stretches of it folded.

/// A row of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// A line of both: its places.
    Both(usize, usize),
    /// A line of the first, a line of the second, or one of each beside the other.
    Changed(Option<usize>, Option<usize>),
    /// So many lines of both, left out.
    Folded(usize),
}

/// Common lines that are kept around a change.
const AROUND: usize = 1;
/// Lines of a side that are compared: of more, all are told as changed.
const MOST: usize = 600;

/// The rows; nothing where the two are equal.
pub fn rows<T: PartialEq>(old: &[T], new: &[T]) -> Vec<Row> {
    if old == new {
        return Vec::new();
    }
    if old.len() > MOST || new.len() > MOST {
        return beside((0..old.len()).collect(), (0..new.len()).collect());
    }
    // The longest common list of what stands behind (i, j).
    let mut longest = vec![vec![0u32; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i][j] = match old[i] == new[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut rows) = (0, 0, Vec::new());
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            rows.append(&mut beside(std::mem::take(&mut gone), std::mem::take(&mut come)));
            rows.push(Row::Both(i, j));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            gone.push(i);
            i += 1;
        } else {
            come.push(j);
            j += 1;
        }
    }
    rows.append(&mut beside(gone, come));
    fold(&rows)
}

/// What a stretch changed, line beside line.
fn beside(gone: Vec<usize>, come: Vec<usize>) -> Vec<Row> {
    let lines = gone.len().max(come.len());
    (0..lines).map(|at| Row::Changed(gone.get(at).copied(), come.get(at).copied())).collect()
}

fn fold(rows: &[Row]) -> Vec<Row> {
    let changed = |at: usize| !matches!(rows[at], Row::Both(..));
    let near = |at: usize| (at.saturating_sub(AROUND)..=(at + AROUND).min(rows.len() - 1)).any(changed);
    let mut out: Vec<Row> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        match (near(at), out.last_mut()) {
            (true, _) => out.push(*row),
            (false, Some(Row::Folded(lines))) => *lines += 1,
            (false, _) => out.push(Row::Folded(1)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_stands_between_what_did_not() {
        let old = ["a", "b", "c", "d", "e", "f"];
        let new = ["a", "b", "c", "x", "f"];
        let rows = rows(&old, &new);
        let expected = [
            Row::Folded(2),
            Row::Both(2, 2),
            Row::Changed(Some(3), Some(3)),
            Row::Changed(Some(4), None),
            Row::Both(5, 4),
        ];
        assert_eq!(rows, expected);
        assert!(super::rows(&old, &old).is_empty());
        let long: Vec<usize> = (0..MOST + 1).collect();
        assert_eq!(super::rows(&long, &[1]).len(), MOST + 1);
    }
}
