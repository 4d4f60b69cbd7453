//! HTML in the making. Names come out of files that nobody vouches for: text and values of attributes are escaped here,
//! and tags and attributes' names are the program's own, so that no caller can forget it.

use std::fmt::Display;

use sha2::{Digest, Sha256};

/// An element's attributes.
pub type Attrs<'a> = &'a [(&'static str, &'a dyn Display)];

/// A document, or a part of one.
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// An element and what is inside it.
    pub fn el(&mut self, tag: &'static str, attrs: Attrs<'_>, inside: impl FnOnce(&mut Html)) {
        self.begin(tag, attrs);
        inside(self);
        self.0.push_str(&format!("</{tag}>"));
    }

    /// An element with text alone.
    pub fn leaf(&mut self, tag: &'static str, attrs: Attrs<'_>, text: impl Display) {
        self.el(tag, attrs, |h| h.text(text));
    }

    /// An element that has no inside: `meta`, `input`.
    pub fn void(&mut self, tag: &'static str, attrs: Attrs<'_>) {
        self.begin(tag, attrs);
    }

    /// Text.
    pub fn text(&mut self, text: impl Display) {
        escape(&text.to_string(), &mut self.0);
    }

    /// The page's own script or style.
    pub fn code(&mut self, tag: &'static str, code: &'static str) {
        self.0.push_str(&format!("<{tag}>{code}</{tag}>"));
    }

    /// A block of data for the script. In a string of JSON `<` may be spelt `\u003c`, so that nothing ends the block.
    pub fn data(&mut self, id: &'static str, value: &serde_json::Value) {
        let json = value.to_string().replace('<', "\\u003c");
        self.0.push_str(&format!("<script type=\"application/json\" id=\"{id}\">{json}</script>"));
    }

    /// A line's end, for those who read the source.
    pub fn line(&mut self) {
        self.0.push('\n');
    }

    /// The text.
    pub fn done(self) -> String {
        self.0
    }

    fn begin(&mut self, tag: &'static str, attrs: Attrs<'_>) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attrs {
            self.0.push_str(&format!(" {name}=\""));
            escape(&value.to_string(), &mut self.0);
            self.0.push('"');
        }
        self.0.push('>');
    }
}

/// Escapes markup, and spells out characters that would turn the text around them or be no text.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.extend(c.escape_unicode());
            }
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

/// A name as a part of an id and of a link to it: other characters than letters, digits, `.`, `_` and `-` are spelt out.
pub fn slug(name: &str) -> String {
    let spell = |c: char| {
        let plain = c.is_ascii_alphanumeric() || "._-".contains(c);
        if plain { c.to_string() } else { format!("~{:06x}", c as u32) }
    };
    name.chars().map(spell).collect()
}

/// The id of a value: `L12.sel` as it is, any other name behind `v.`, so that none is the id of something else.
pub fn value_id(name: &str) -> String {
    let layer = name.strip_prefix('L').and_then(|rest| rest.split_once('.'));
    let of_layer = layer
        .is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    if of_layer { slug(name) } else { format!("v.{}", slug(name)) }
}

/// How a content security policy names this inline script or style.
pub fn policy_hash(code: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(code)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_is_it_stays_text() {
        let mut h = Html::default();
        let name = "</script><img src=x onerror='a'>\"&\u{202e}\u{1b}";
        h.leaf("b", &[("title", &name)], name);
        let spelt = "&lt;/script&gt;&lt;img src=x onerror=&#39;a&#39;&gt;&quot;&amp;\\u{202e}\\u{1b}";
        assert_eq!(h.done(), format!("<b title=\"{spelt}\">{spelt}</b>"));
        let mut h = Html::default();
        h.data("d", &serde_json::json!(["</script>"]));
        assert_eq!(h.done(), "<script type=\"application/json\" id=\"d\">[\"\\u003c/script>\"]</script>");
    }

    #[test]
    fn ids_are_of_one_name_each() {
        let ids = ["L1.x", "x", "v.x", "L.x", "L1", "a b", "a~000020b"].map(value_id);
        assert_eq!(ids, ["L1.x", "v.x", "v.v.x", "v.L.x", "v.L1", "v.a~000020b", "v.a~00007e000020b"]);
    }

    #[test]
    fn base64_is_what_everybody_calls_so() {
        let spelt = ["", "a", "ab", "abc", "abcd", "abcde"].map(|text| base64(text.as_bytes()));
        assert_eq!(spelt, ["", "YQ==", "YWI=", "YWJj", "YWJjZA==", "YWJjZGU="]);
    }
}
