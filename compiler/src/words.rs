//! Words of a message that come from elsewhere: names out of files, paths, lists of faults.
//!
//! However long an input and whatever is in it, what is said of it has a bounded length, and no control character of
//! it reaches a terminal. [`Error`](crate::error::Error) bounds every message and help ([`bounded`]), and
//! [`terminal`](crate::terminal) spells out what it prints ([`visible`]), so that no place that makes a message has to
//! think of it; those that put a name, a path or a list into one use [`shortened`], [`place`] and [`listed`] for what
//! reads better.

use std::borrow::Cow;
use std::path::Path;

/// Bytes of a line of a message; what stands in it may have been copied from a file.
const LONG_LINE: usize = 600;
/// Lines of a message: more than a full list and what stands around it, and a translated configuration's.
const MOST_LINES: usize = 100;
/// Items of a list.
const MOST_LISTED: usize = 12;

/// A line of reasonable length: the middle of a longer one is left out.
pub fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= LONG_LINE {
        return Cow::Borrowed(text);
    }
    let head = text.floor_char_boundary(LONG_LINE / 2);
    let tail = text.ceil_char_boundary(text.len() - LONG_LINE / 4);
    Cow::Owned(format!("{} ... {}", &text[..head], &text[tail..]))
}

/// A message of reasonable length: each line shortened, lines beyond the most counted.
pub fn bounded(text: String) -> String {
    if text.len() <= LONG_LINE {
        return text;
    }
    let lines: Vec<Cow<'_, str>> = text.split('\n').take(MOST_LINES).map(shortened).collect();
    let more = text.split('\n').count() - lines.len();
    let end = if more > 0 { format!("\nand {more} more lines") } else { String::new() };
    lines.join("\n") + &end
}

/// The first of many, each shortened, and how many more there are.
pub fn listed(items: &[impl AsRef<str>], between: &str) -> String {
    let mut shown: Vec<Cow<'_, str>> =
        items.iter().take(MOST_LISTED).map(|item| shortened(item.as_ref())).collect();
    if items.len() > MOST_LISTED {
        shown.push(format!("and {} more", items.len() - MOST_LISTED).into());
    }
    shown.join(between)
}

/// A path as a message names it: one line, without control characters, and short.
pub fn place(path: &Path) -> String {
    let spelt = spelt(&path.display().to_string(), |c| c.is_control());
    shortened(&spelt).into_owned()
}

/// Text in which control characters, say of a file's name, are spelt out, so that they cannot act on a terminal.
#[cfg(feature = "cli")]
pub fn visible(text: &str) -> String {
    spelt(text, |c| c.is_control() && c != '\n' && c != '\t')
}

fn spelt(text: &str, spell: impl Fn(char) -> bool) -> String {
    let one = |c: char| if spell(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_whatever_is_in_them() {
        let mega = 1 << 20;
        for text in ["é".repeat(mega / 2), "\n".repeat(mega), "x\n".repeat(mega / 2)] {
            let text = bounded(text);
            assert!(text.len() < 1200, "{}", text.len());
        }
        let lines = format!("{}\n", "x".repeat(9999)).repeat(9999);
        assert!(bounded(lines).len() < 64 << 10);
        assert_eq!(bounded(format!("a\n{}", "b".repeat(LONG_LINE))), format!("a\n{}", "b".repeat(LONG_LINE)));
        let many: Vec<String> = (0..50).map(|_| "n".repeat(mega)).collect();
        let list = listed(&many, ", ");
        assert!(list.len() < 12 * LONG_LINE && list.ends_with(", and 38 more"), "{}", list.len());
    }

    #[test]
    fn a_path_is_one_line_without_control_characters() {
        assert_eq!(place(Path::new("a\nb\x1b[2J/é.toml")), "a\\u{a}b\\u{1b}[2J/é.toml");
        assert_eq!(visible("one\n\ttwo\x7f\r"), "one\n\ttwo\\u{7f}\\u{d}");
    }
}
