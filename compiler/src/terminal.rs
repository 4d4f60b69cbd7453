//! Standard output and standard error: the one place that writes to them.
//!
//! - [`print()`] and [`write()`] go to standard output. Where its reader has gone (`hyc inspect m.hyc | head -1`)
//!   nobody is left to tell: the error is [`ErrorKind::ReaderGone`], which ends the command without a word and
//!   with exit code 0. A full disk and everything else is an error like any other, with exit code 5.
//! - [`note`], [`report`] and [`progress`] go to standard error. What cannot be written there is dropped and never
//!   changes how a command ends.
//!
//! Clippy's `print_stdout` and `print_stderr` and, in `clippy.toml`, `std::io::stdout` and `stderr` are refused
//! everywhere else.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;
use clap::builder::StyledStr;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio;

use crate::error::{Error, ErrorKind, Result};
use crate::words::{bounded, visible};

/// Whether the last thing on standard output was no line's end.
static INSIDE_A_LINE: AtomicBool = AtomicBool::new(false);

/// Prints text to standard output, at once.
pub fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

/// Writes bytes to standard output, at once. Errors: the reader has gone; the bytes do not fit.
pub fn write(bytes: &[u8]) -> Result<()> {
    if let Some(last) = bytes.last() {
        INSIDE_A_LINE.store(*last != b'\n', Ordering::Relaxed);
    }
    write_all(stdio::stdout(), bytes).map_err(|e| match e {
        Errno::PIPE | Errno::CONNRESET => {
            Error::new(ErrorKind::ReaderGone, "the reader of standard output has gone")
        }
        _ => {
            let e = std::io::Error::from(e);
            let error = Error::new(ErrorKind::Resource, format!("cannot write to standard output: {e}"));
            if e.kind() == std::io::ErrorKind::StorageFull { error.help("free some space") } else { error }
        }
    })
}

/// Writes text to standard error as it is, beginning on a line of its own where both outputs are terminals.
pub fn note(text: &str) {
    if INSIDE_A_LINE.load(Ordering::Relaxed) && stdout_is_terminal() && stderr_is_terminal() {
        let _ = write(b"\n");
    }
    let _ = write_all(stdio::stderr(), text.as_bytes());
}

/// Tells what is wrong with the arguments, in colour where `color` says so and they are of ordinary characters and length.
pub fn usage(text: &StyledStr, color: bool) {
    let plain = text.to_string();
    let shown = bounded(visible(&plain));
    note(&if color && shown == plain { text.ansi().to_string() } else { shown });
}

/// Tells an error, in colour where `color` says so. A reader that has gone is told nothing.
pub fn report(error: &Error, color: bool) {
    if error.kind != ErrorKind::ReaderGone {
        note(&rendered(error, color));
    }
}

fn rendered(error: &Error, color: bool) -> String {
    let (red, bold, reset) = if color { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut out = match &error.rendered {
        Some(diagnostics) => format!("{}\n", diagnostics.render(color).trim_end()),
        None => format!("{red}error{reset}{bold}:{reset} {}\n", visible(&error.message)),
    };
    if let Some(help) = &error.help {
        out.push_str(&format!("  {bold}help{reset}: {}\n", visible(help)));
    }
    out
}

/// What a progress bar says of bytes.
pub const BYTES: &str = "{bytes}/{total_bytes} {bytes_per_sec}";
/// What a progress bar says of tokens.
pub const TOKENS: &str = "{pos}/{len} tokens {per_sec}";

/// A progress bar on standard error; hidden where that is no terminal or a dumb one, or where `show` is false.
pub fn progress(show: bool, total: u64, what: &str, figures: &str) -> ProgressBar {
    let show = show && stderr_is_terminal() && !dumb(&environment);
    let bar = if show { ProgressBar::new(total) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template(&format!("{{msg:>10}} [{{bar:32}}] {figures}")) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_string());
    bar
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    stdio::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    stdio::stderr().is_terminal()
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, as NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM ask for.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// What `--color` says among arguments that may not parse: their error is coloured, too.
    pub fn asked(arguments: impl IntoIterator<Item = OsString>) -> Color {
        let mut arguments = arguments.into_iter().take_while(|argument| argument != "--");
        while let Some(argument) = arguments.next() {
            let value = match argument.to_str() {
                Some("--color") => arguments.next().unwrap_or_default(),
                Some(other) => other.strip_prefix("--color=").unwrap_or_default().into(),
                None => continue,
            };
            if let Some(Ok(color)) = value.to_str().map(|value| Color::from_str(value, false)) {
                return color;
            }
        }
        Color::Auto
    }

    /// Whether to colour what goes to standard output or error, of which `terminal` says what it is.
    pub fn enabled(self, terminal: bool) -> bool {
        self.enabled_in(terminal, &environment)
    }

    /// The rules of <https://no-color.org> and <https://bixense.com/clicolors>: NO_COLOR is stronger than
    /// CLICOLOR_FORCE, and that is stronger than CLICOLOR=0 and TERM.
    fn enabled_in(self, terminal: bool, variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
        let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let zero = |name: &str| variable(name).is_some_and(|value| value == "0");
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto if set("CLICOLOR_FORCE") && !zero("CLICOLOR_FORCE") => true,
            Color::Auto => terminal && !zero("CLICOLOR") && !dumb(variable),
        }
    }
}

fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Whether the terminal says that it understands no escape sequences.
fn dumb(variable: &dyn Fn(&str) -> Option<OsString>) -> bool {
    variable("TERM").is_none_or(|term| term == "dumb")
}

/// Writes all of it. An output that another program has made non-blocking is waited for.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&to, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(terminal: bool, variables: &[(&str, &str)]) -> bool {
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        Color::Auto.enabled_in(terminal, &value)
    }

    #[test]
    fn colour_follows_the_environment() {
        const XTERM: (&str, &str) = ("TERM", "xterm");
        assert!(auto(true, &[XTERM]) && !auto(false, &[XTERM]));
        assert!(!auto(true, &[]) && !auto(true, &[("TERM", "dumb")]));
        assert!(!auto(true, &[XTERM, ("NO_COLOR", "1")]) && auto(true, &[XTERM, ("NO_COLOR", "")]));
        assert!(!auto(true, &[XTERM, ("CLICOLOR", "0")]) && auto(true, &[XTERM, ("CLICOLOR", "1")]));
        assert!(!auto(false, &[XTERM, ("CLICOLOR", "1")]));
        assert!(auto(false, &[("CLICOLOR_FORCE", "1")]) && !auto(false, &[XTERM, ("CLICOLOR_FORCE", "0")]));
        assert!(auto(true, &[("TERM", "dumb"), ("CLICOLOR", "0"), ("CLICOLOR_FORCE", "1")]));
        assert!(!auto(true, &[XTERM, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]));
        assert!(Color::Always.enabled_in(false, &|_| Some("dumb".into())));
        assert!(!Color::Never.enabled_in(true, &|_| Some("1".into())));
    }

    #[test]
    fn the_wish_for_colour_is_found_before_the_arguments_parse() {
        let asked = |arguments: &[&str]| Color::asked(arguments.iter().map(OsString::from));
        assert_eq!(asked(&["hyc", "--color", "always", "--bad"]), Color::Always);
        assert_eq!(asked(&["hyc", "run", "--color=never"]), Color::Never);
        assert_eq!(asked(&["hyc", "--color", "pink"]), Color::Auto);
        assert_eq!(asked(&["hyc", "--", "--color=always"]), Color::Auto);
        assert_eq!(asked(&["hyc", "--color"]), Color::Auto);
    }

    #[test]
    fn control_characters_are_spelt_out() {
        let error = Error::input("cannot read a\x1b]0;title\x07b\r").help("one\ntwo\x7f");
        let text = "error: cannot read a\\u{1b}]0;title\\u{7}b\\u{d}\n  help: one\ntwo\\u{7f}\n";
        assert_eq!(rendered(&error, false), text);
    }
}
