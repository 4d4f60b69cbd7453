//! A page's tags, read as plainly as they are written: every element is closed, every attribute quoted.

use std::collections::BTreeSet;

/// Elements that have no end.
const VOID: [&str; 2] = ["meta", "input"];

/// What is checked of a page.
pub struct Page {
    /// Elements and texts outside of templates.
    pub nodes: usize,
    ids: Vec<String>,
    links: Vec<String>,
    faults: Vec<String>,
}

impl Page {
    /// Reads a page.
    pub fn read(text: &str) -> Page {
        let mut page = Page { nodes: 0, ids: vec![], links: vec![], faults: vec![] };
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text.strip_prefix("<!doctype html>\n").expect("a document type");
        while let Some(at) = rest.find('<') {
            if at > 0 && !open.contains(&"template") {
                page.nodes += 1;
            }
            page.text(&rest[..at]);
            rest = &rest[at + 1..];
            let end = rest.find('>').expect("a tag ends");
            let tag = &rest[..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    page.faults.push(format!("</{name}> closes nothing"));
                }
                continue;
            }
            let name = tag.split(' ').next().unwrap_or_default();
            page.attributes(tag);
            if !open.contains(&"template") {
                page.nodes += 1;
            }
            if name == "script" || name == "style" {
                let end = rest.find(&format!("</{name}>")).expect("it ends");
                rest = &rest[end..];
            }
            if !VOID.contains(&name) {
                open.push(name);
            }
        }
        if !open.is_empty() {
            page.faults.push(format!("never closed: {open:?}"));
        }
        page
    }

    /// No stray markup, ids of one element each, links that lead somewhere.
    pub fn check(&self, what: &str) {
        assert!(self.faults.is_empty(), "{what}: {:?}", &self.faults[..self.faults.len().min(9)]);
        let ids: BTreeSet<&String> = self.ids.iter().collect();
        if ids.len() != self.ids.len() {
            let mut sorted = self.ids.clone();
            sorted.sort();
            let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]);
            panic!("{what}: twice {twice:?}");
        }
        for link in &self.links {
            assert!(ids.contains(link), "{what}: nothing has the id {link}");
        }
        assert!(self.links.len() > 20, "{what}: {} links", self.links.len());
    }

    fn text(&mut self, text: &str) {
        if text.contains(['>', '"', '\'']) {
            self.faults.push(format!("not escaped: {text}"));
        }
    }

    fn attributes(&mut self, tag: &str) {
        let mut parts = tag.split('"');
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let name = name.rsplit([' ']).next().unwrap_or_default().trim_end_matches('=');
            match name {
                "id" => self.ids.push(value.to_string()),
                "href" => match value.strip_prefix('#') {
                    Some(id) => self.links.push(id.to_string()),
                    None => self.faults.push(format!("a link that leaves the page: {value}")),
                },
                name if name.starts_with("on") || name == "style" || name == "src" => {
                    self.faults.push(format!("an attribute {name}: the policy would not let it act"));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn faults_are_seen() {
    let faults = |text: &str| Page::read(&format!("<!doctype html>\n{text}")).faults.len();
    assert_eq!(faults("<p id=\"a\">x &lt; y</p>"), 0);
    for bad in ["<p>", "<p><b></p></b>", "<p>a > b</p>", "<p onclick=\"x\"></p>", "<a href=\"http://x\"></a>"]
    {
        assert!(faults(bad) > 0, "{bad}");
    }
}
