//! What `hyc explain` says.

use std::fmt::Write;

use hyc_ir::text::nearest;
use serde_json::{Value, json};

use super::keys::{Default, Key, SECTIONS, SectionKeys, Type, homes, section};
use super::names::{self, Ours};

/// One line per key, of all sections.
pub fn overview() -> String {
    let mut out = String::new();
    for section in SECTIONS {
        let _ = writeln!(out, "[{}]  {}", section.name, plain(first_sentence(section.meaning)));
        for key in section.keys {
            let _ = writeln!(out, "  {:15} {}", key.name, plain(first_sentence(key.meaning)));
        }
    }
    out
}

/// What a section is for, and its keys; or what a key is, as in `attention.gate`. `None`: there is no such one.
pub fn explain(topic: &str) -> Option<String> {
    Some(match find(topic)? {
        (section, None) => section_text(section),
        (section, Some(key)) => key_text(section, key),
    })
}

/// The same for machines; without a topic, all sections.
pub fn explain_json(topic: Option<&str>) -> Option<Value> {
    Some(match topic.map(find) {
        None => json!({ "sections": SECTIONS.iter().map(|s| section_json(s)).collect::<Vec<_>>() }),
        Some(None) => return None,
        Some(Some((section, None))) => section_json(section),
        Some(Some((section, Some(key)))) => key_json(section, key),
    })
}

/// What to ask for in place of a topic that there is not.
pub fn explain_hint(topic: &str) -> String {
    let topic = topic.trim_matches(['[', ']']);
    let last = topic.rsplit('.').next().unwrap_or(topic);
    if let Some(Ours::Key(section, key)) = names::ours(last) {
        return format!("it is called `{section}.{key}` here");
    }
    if let Some(Ours::Other(_, _, note) | Ours::Note(note)) = names::ours(last) {
        return note.to_string();
    }
    let homes: Vec<String> =
        homes(last).iter().map(|section| format!("`hyc explain {}.{last}`", section.name)).collect();
    if !homes.is_empty() {
        return homes.join(" or ");
    }
    let keys = |section: &'static SectionKeys| section.keys.iter().map(move |key| (section, key));
    let all: Vec<(&str, String)> = SECTIONS
        .iter()
        .flat_map(|section| keys(section))
        .map(|(section, key)| (key.name, format!("{}.{}", section.name, key.name)))
        .chain(SECTIONS.iter().map(|section| (section.name, section.name.to_string())))
        .collect();
    let words: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    match nearest(last, &words).and_then(|near| all.iter().find(|(name, _)| *name == near)) {
        Some((_, path)) => format!("did you mean `hyc explain {path}`?"),
        None => "`hyc explain` alone lists all sections and keys".to_string(),
    }
}

fn find(topic: &str) -> Option<(&'static SectionKeys, Option<&'static Key>)> {
    let topic = topic.trim_matches(['[', ']']);
    let (name, key) = topic.split_once('.').map_or((topic, None), |(name, key)| (name, Some(key)));
    let section = match section(name) {
        Some(section) => section,
        // A key by itself, where one section alone has it.
        None => match (key, homes(name).as_slice()) {
            (None, [home]) => return Some((home, home.key(name))),
            _ => return None,
        },
    };
    let Some(key) = key else { return Some((section, None)) };
    let (key, inner) = key.split_once('.').map_or((key, None), |(key, inner)| (key, Some(inner)));
    let found = section.key(key)?;
    match (inner, found.ty) {
        (None, _) => Some((section, Some(found))),
        (Some(inner), Type::Table(table)) => Some((table, Some(table.key(inner)?))),
        _ => None,
    }
}

fn section_text(section: &SectionKeys) -> String {
    let need = if section.required { "required" } else { "may be left out" };
    let mut out = format!("[{}]: {need}\n{}\n\n", section.name, wrap(section.meaning, ""));
    for key in section.keys {
        let _ = writeln!(out, "  {:15} {}", key.name, plain(first_sentence(key.meaning)));
    }
    let key = section.keys.first().map_or("", |key| key.name);
    let _ = write!(out, "\n`hyc explain {}.{key}` says more of one key.\n", section.name);
    out
}

fn key_text(section: &SectionKeys, key: &Key) -> String {
    let (value, default) = (plain(&key.ty.words()), key.default.words());
    let mut out = format!("{}.{}: {value}\n", section.name, key.name);
    let _ = match key.default {
        Default::Required | Default::Needed(_) => writeln!(out, "{}", wrap(&default, "  ")),
        _ => writeln!(out, "{}", wrap(&format!("default: {default}"), "  ")),
    };
    let _ = write!(out, "\n{}\n", wrap(key.meaning, ""));
    if let Some(formula) = &key.formula {
        out.push('\n');
        for line in formula.text.split(";  ") {
            let _ = writeln!(out, "{}", wrap(line, "    "));
        }
        let _ = writeln!(out, "  ({})", formula.source);
    }
    if let Type::Table(inner) = key.ty {
        out.push('\n');
        for key in inner.keys {
            // The name hangs out to the left of its words.
            let words =
                wrap(&format!("{}; {}", key.ty.words(), first_sentence(key.meaning)), &" ".repeat(20));
            let _ = writeln!(out, "  {:17} {}", key.name, words.trim_start());
        }
    }
    if !key.tensors.is_empty() {
        out.push_str("\nTensors:\n");
    }
    for tensor in key.tensors {
        let dtype = plain(tensor.dtype.words());
        let _ = writeln!(out, "  {} {}, {dtype}", tensor.name, tensor.dims());
        let _ = writeln!(out, "{}", wrap(tensor.place, "      "));
    }
    let _ = write!(out, "\nExample:\n  {} = {}\n", key.name, key.example);
    out
}

fn section_json(section: &SectionKeys) -> Value {
    json!({
        "section": section.name, "required": section.required, "meaning": section.meaning,
        "keys": section.keys.iter().map(|key| key_json(section, key)).collect::<Vec<_>>(),
    })
}

fn key_json(section: &SectionKeys, key: &Key) -> Value {
    let tensors = key.tensors.iter().map(|tensor| {
        json!({
            "name": tensor.name, "shape": tensor.shape, "dtype": plain(tensor.dtype.words()),
            "where": tensor.place,
        })
    });
    let mut value = json!({
        "section": section.name, "key": key.name, "type": plain(&key.ty.words()),
        "default": plain(&key.default.words()), "meaning": key.meaning, "example": key.example,
        "formula": key.formula.as_ref().map(|f| json!({ "text": f.text, "source": f.source })),
        "tensors": tensors.collect::<Vec<_>>(),
    });
    if let Type::Table(inner) = key.ty {
        value["keys"] = inner.keys.iter().map(|key| key_json(inner, key)).collect();
    }
    value
}

/// Markdown's code quotes have no meaning on a terminal.
fn plain(text: &str) -> String {
    text.replace('`', "")
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

/// Lines of at most 100 characters that begin with `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut lines = vec![indent.to_string()];
    for word in plain(text).split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line + 1 + word.chars().count() > 100 && line > indent.len() {
            lines.push(indent.to_string());
        }
        if let Some(line) = lines.last_mut() {
            if line.len() > indent.len() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}
