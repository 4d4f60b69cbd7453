//! What a file is that was given for weights and is not safetensors.

use std::path::Path;

use crate::error::Error;
use crate::words::place;

const CONVERT: &str = "load it where it was made and save its tensors as safetensors \
                       (`safetensors.torch.save_file` in Python)";

/// Formats known by how their files begin: the beginning, what it is, what to do.
const FORMATS: &[(&[u8], &str, &str)] = &[
    (b"PK\x03\x04", "a zip archive, as PyTorch's checkpoints (.bin, .pt, .pth) are", CONVERT),
    (b"\x80\x02", "a Python pickle, as old PyTorch checkpoints are", CONVERT),
    (b"\x80\x03", "a Python pickle", CONVERT),
    (b"\x80\x04", "a Python pickle", CONVERT),
    (b"\x80\x05", "a Python pickle", CONVERT),
    (b"\x89HDF", "an HDF5 file", CONVERT),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\x1f\x8b", "compressed (gzip)", "unpack it first"),
    (b"BZh", "compressed (bzip2)", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed (zstd)", "unpack it first"),
    (b"\xfd7zXZ", "compressed (xz)", "unpack it first"),
    (b"\x7fELF", "a program", "give a safetensors file"),
];

/// Files of text, by how they begin in lower case.
const TEXTS: &[(&str, &str, &str)] = &[
    ("<!doctype", WEB_PAGE, DOWNLOAD),
    ("<html", WEB_PAGE, DOWNLOAD),
    ("<?xml", "an XML page and not the weights", DOWNLOAD),
    ("entry not found", "a server's answer and not the weights", DOWNLOAD),
    ("{", "JSON that is no index of weight files: it has no `weight_map`", "give a .safetensors file"),
];
const WEB_PAGE: &str = "a web page and not the weights";
const DOWNLOAD: &str =
    "download the file itself: on Hugging Face its address has `/resolve/` in place of `/blob/`";

/// The error of a file that begins with `first` and is clearly something else; `None` where it may be
/// safetensors.
pub fn other_format(path: &Path, first: &[u8]) -> Option<Error> {
    let shown = place(path);
    let is = |what: &str, help: &str| Some(Error::input(format!("{shown} is {what}")).help(help));
    if first.is_empty() {
        return is("empty", "download, copy or export it again");
    }
    // A header of at most 100 MB has a length with four zeros at its end, and begins with a brace.
    if first.len() > 8 && first[4..8] == [0; 4] && first[8] == b'{' {
        return None;
    }
    if let Some(fault) = pointer(path, first) {
        return Some(fault);
    }
    for (begin, what, help) in FORMATS {
        if first.starts_with(begin) {
            return is(what, help);
        }
    }
    let text = String::from_utf8_lossy(first);
    let text = text.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    for (begin, what, help) in TEXTS {
        if text.starts_with(begin) {
            return is(what, help);
        }
    }
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
    if first.iter().all(printable) {
        return is("text and no safetensors file", "give a .safetensors file, or an index of several");
    }
    None
}

/// What Git keeps in place of a large file.
fn pointer(path: &Path, first: &[u8]) -> Option<Error> {
    let text = String::from_utf8_lossy(first);
    if !text.starts_with("version https://git-lfs") && !text.starts_with("version https://hawser") {
        return None;
    }
    let size = text.lines().find_map(|line| line.strip_prefix("size ")?.trim().parse::<u64>().ok());
    let size = size.map_or(String::new(), |bytes| format!(" (of {bytes} bytes)"));
    let message = format!(
        "{} is a Git LFS pointer: it stands for the weight file{size} and does not hold it",
        place(path)
    );
    Some(Error::input(message).help("run `git lfs install` and `git lfs pull` in its folder"))
}
