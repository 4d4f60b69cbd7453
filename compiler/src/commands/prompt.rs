//! Where a prompt comes from, and what of its bytes is the prompt.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::input;
use crate::signal;
use crate::terminal;
use crate::words::place;

/// More than the longest context holds.
const MAX_BYTES: usize = 256 << 20;
/// How long Ctrl-C goes unnoticed at most while nothing comes.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What every command that takes a prompt takes.
#[derive(Debug, Clone, clap::Args)]
pub struct PromptArgs {
    /// The prompt
    #[arg(short, long, conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file; without either, and for `-`, from standard input. One newline at its
    /// end and a byte order mark at its beginning are not part of it (with --raw they are)
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt. `raw`: every byte of a file is part of it. `quiet`: no word to a terminal that it waits.
    ///
    /// Errors: what cannot be read, is longer than 256 MiB or no UTF-8; Ctrl-C meanwhile.
    pub fn read(&self, raw: bool, quiet: bool) -> Result<String> {
        if let Some(text) = &self.prompt {
            return Ok(text.clone());
        }
        let path = self.prompt_file.as_deref().filter(|path| *path != Path::new("-"));
        let (bytes, name) = match path {
            Some(path) => {
                let file = input::open("read the prompt", path)?;
                let bytes = read(&file).map_err(|e| e.of(place(path)))?;
                (bytes, place(path))
            }
            None => {
                let stdin = std::io::stdin();
                if stdin.is_terminal() && !quiet {
                    terminal::note(
                        "reading the prompt from the terminal; Ctrl-D on a line of its own ends it\n",
                    );
                }
                let name = "standard input".to_string();
                (read(&stdin).map_err(|e| e.of(name.clone()))?, name)
            }
        };
        text(bytes, &name, raw)
    }
}

/// Why there is no prompt.
#[derive(Debug)]
pub enum Fault {
    /// The system does not give it.
    Read(Errno),
    /// More than the longest context holds.
    Long,
    /// Ctrl-C came first.
    Cancelled,
}

impl Fault {
    /// The error, for an input of that name.
    pub fn of(self, name: String) -> Error {
        match self {
            Fault::Read(e) => Error::new(
                ErrorKind::Resource,
                format!("cannot read the prompt from {name}: {}", std::io::Error::from(e)),
            ),
            Fault::Long => {
                Error::input(format!("the prompt in {name} is longer than {} MiB", MAX_BYTES >> 20))
                    .help("no context holds so much: is it the right file?")
            }
            Fault::Cancelled => Error::new(ErrorKind::Cancelled, "cancelled while waiting for the prompt"),
        }
    }
}

/// All bytes up to the end, unless Ctrl-C comes first.
fn read(input: &impl AsFd) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while more(input, &mut bytes)? > 0 {
        if bytes.len() > MAX_BYTES {
            return Err(Fault::Long);
        }
    }
    Ok(bytes)
}

/// Waits for more of an input and appends it; 0: there is no more. Ctrl-C ends the wait.
pub fn more(input: &impl AsFd, bytes: &mut Vec<u8>) -> Result<usize, Fault> {
    let mut piece = vec![0; 64 << 10];
    loop {
        if signal::pressed() {
            return Err(Fault::Cancelled);
        }
        match poll(&mut [PollFd::new(input, PollFlags::IN)], Some(&WAIT)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(Fault::Read(e)),
        }
        match rustix::io::read(input, &mut piece) {
            Ok(count) => {
                bytes.extend_from_slice(&piece[..count]);
                return Ok(count);
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(Fault::Read(e)),
        }
    }
}

/// A file's bytes as a prompt. A shell's `echo` and every editor end a text with a newline that nobody typed.
fn text(bytes: Vec<u8>, name: &str, raw: bool) -> Result<String> {
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::input(format!("the prompt in {name} is not UTF-8 text: byte {at} begins no character"))
            .help("convert it, for example with `iconv -t utf-8`")
    })?;
    if !raw {
        if text.ends_with('\n') {
            text.truncate(text.len() - if text.ends_with("\r\n") { 2 } else { 1 });
        }
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
    }
    Ok(text)
}

/// A stop text from the command line, with `\n`, `\r`, `\t`, `\\` and `\u{HEX}` as what they stand for.
pub fn unescape(text: &str) -> Result<String, String> {
    const HELP: &str = "escapes are \\n, \\r, \\t, \\\\ and \\u{HEX}; write \\\\ for a backslash";
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let next = rest.chars().next().ok_or_else(|| format!("a backslash ends the text: {HELP}"))?;
        rest = &rest[next.len_utf8()..];
        match next {
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            '\\' => out.push('\\'),
            'u' => {
                let hex = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
                let code = hex.and_then(|(hex, _)| char::from_u32(u32::from_str_radix(hex, 16).ok()?));
                out.push(code.ok_or_else(|| format!("\\u names no character: {HELP}"))?);
                rest = hex.map_or("", |(_, rest)| rest);
            }
            other => return Err(format!("\\{other} is no escape: {HELP}")),
        }
    }
    out.push_str(rest);
    if out.is_empty() {
        return Err("an empty text would end nothing".to_string());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(bytes: &[u8], raw: bool) -> String {
        text(bytes.to_vec(), "a file", raw).unwrap()
    }

    #[test]
    fn one_newline_and_a_byte_order_mark_are_no_part_of_a_prompt() {
        assert_eq!(prompt(b"a\n", false), "a");
        assert_eq!(prompt(b"a\r\n", false), "a");
        assert_eq!(prompt(b"a\n\n", false), "a\n");
        assert_eq!(prompt(b"a\r", false), "a\r");
        assert_eq!(prompt(b"\n", false), "");
        assert_eq!(prompt(b"\n a ", false), "\n a ");
        assert_eq!(prompt("\u{feff}a\u{feff}\n".as_bytes(), false), "a\u{feff}");
        assert_eq!(prompt("\u{feff}a\n".as_bytes(), true), "\u{feff}a\n");
    }

    #[test]
    fn what_is_no_text_is_refused_with_its_place() {
        let error = text(b"abc\xffd".to_vec(), "p.txt", false).unwrap_err();
        assert!(error.message.contains("p.txt") && error.message.contains("byte 3"), "{}", error.message);
    }

    #[test]
    fn escapes() {
        for (given, meant) in [
            ("\\n\\n", "\n\n"),
            ("a\\tb\\r", "a\tb\r"),
            ("\\\\n", "\\n"),
            ("\\u{1F600}é", "\u{1f600}é"),
            ("\n", "\n"),
            ("-", "-"),
        ] {
            assert_eq!(unescape(given).as_deref(), Ok(meant), "{given}");
        }
        for bad in ["", "\\", "a\\", "\\begin", "\\é", "\\u", "\\u{", "\\u{}", "\\u{d800}", "\\u{110000}"] {
            assert!(unescape(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn more_than_any_context_is_refused() {
        let zeros = std::fs::File::open("/dev/zero").unwrap();
        assert!(matches!(read(&zeros), Err(Fault::Long)));
    }
}
