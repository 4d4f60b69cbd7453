//! What the files of one crate import of each other, found in their text: the paths of `use`, and those in code that begin
//! with `crate`, `self`, `super` or a module that the file declares. Comments, strings and `#[cfg(test)]` modules don't
//! count, and a name that a `mod.rs` passes on is the file's that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module's path from the crate's root.
type Module = Vec<String>;

/// Files of one crate, by module.
pub struct Crate {
    files: BTreeMap<Module, File>,
}

#[derive(Default)]
struct File {
    /// From the source folder.
    name: String,
    /// Absolute paths that it names, ending in an item.
    paths: BTreeSet<Module>,
    /// Names that it passes on, and what they stand for.
    passed_on: BTreeMap<String, Module>,
}

impl Crate {
    /// Reads all `.rs` files under `src`, programs (`main.rs`, `bin/`) aside.
    pub fn read(src: &Path) -> Crate {
        let mut texts = Vec::new();
        collect(src, "", &mut texts);
        Crate::new(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
    }

    /// The same of names and texts.
    pub fn new<'t>(texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Crate {
        let files = texts.into_iter().map(|(name, text)| {
            let module = module_of(name);
            let mut file = File { name: name.to_string(), ..File::default() };
            Reader { tokens: tokens(text), at: 0, module: module.clone(), inline: vec![], depth: 0 }
                .read(&mut file);
            (module, file)
        });
        Crate { files: files.collect() }
    }

    /// Each file and the files that it imports.
    pub fn imports(&self) -> Imports {
        let of = |file: &File| {
            let targets = file.paths.iter().map(|path| self.owner(path, 8));
            targets.filter(|name| *name != file.name).map(String::from).collect()
        };
        self.files.values().map(|file| (file.name.clone(), of(file))).collect()
    }

    /// The file that has what a path names, through at most `steps` files that pass it on.
    fn owner(&self, path: &[String], steps: usize) -> &str {
        let (file, rest) = (0..=path.len())
            .rev()
            .find_map(|n| Some((self.files.get(&path[..n])?, &path[n..])))
            .unwrap_or_else(|| panic!("no file for {path:?}"));
        match rest.first().and_then(|name| file.passed_on.get(name)) {
            Some(path) if steps > 0 => {
                let whole: Module = path.iter().chain(&rest[1..]).cloned().collect();
                self.owner(&whole, steps - 1)
            }
            Some(_) | None => &file.name,
        }
    }
}

type Imports = BTreeMap<String, BTreeSet<String>>;

/// A shortest circle of imports, closed; none where there is none. A module and its parts are one subject: that a `mod.rs`
/// or `lib.rs` names what stands in its folder closes no circle that stays in the folder.
pub fn circle(imports: &Imports) -> Option<Vec<String>> {
    let below = |file: &str, other: &str| match file.rsplit_once('/').unwrap_or(("", file)) {
        (folder, "mod.rs") => other.starts_with(&format!("{folder}/")),
        (_, name) => name == "lib.rs",
    };
    let arrows = || imports.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to)));
    let without: Imports = imports
        .iter()
        .map(|(from, all)| (from.clone(), all.iter().filter(|to| !below(from, to)).cloned().collect()))
        .collect();
    let inside = without.keys().filter_map(|file| back(&without, file, file, &|_| true));
    // Those that leave a module's folder and come back to it.
    let through = arrows().filter(|(from, to)| below(from, to)).filter_map(|(from, to)| {
        let mut circle = back(imports, to, from, &|file| file != from && !below(from, file))?;
        circle.insert(0, from.clone());
        Some(circle)
    });
    inside.chain(through).min_by_key(Vec::len)
}

/// A shortest way along imports from `begin` to `end`, of at least one step, on which a file is `met`.
fn back(imports: &Imports, begin: &str, end: &str, met: &dyn Fn(&str) -> bool) -> Option<Vec<String>> {
    let mut ways = vec![(vec![begin.to_string()], met(begin))];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for (way, found) in &ways {
            for to in way.last().and_then(|last| imports.get(last)).into_iter().flatten() {
                let found = *found || met(to);
                let way: Vec<String> = way.iter().chain([to]).cloned().collect();
                if found && to == end {
                    return Some(way);
                }
                if seen.insert((to.clone(), found)) {
                    longer.push((way, found));
                }
            }
        }
        ways = longer;
    }
    None
}

fn collect(folder: &Path, prefix: &str, texts: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let below = format!("{prefix}{name}");
        if entry.file_type().unwrap().is_dir() {
            if below != "bin" {
                collect(&entry.path(), &format!("{below}/"), texts);
            }
        } else if below.ends_with(".rs") && below != "main.rs" {
            texts.push((below, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
}

fn module_of(name: &str) -> Module {
    let path = name.strip_suffix(".rs").unwrap_or(name);
    let path = if path == "lib" { "" } else { path.strip_suffix("mod").unwrap_or(path) };
    path.split('/').filter(|part| !part.is_empty()).map(String::from).collect()
}

/// Identifiers, `::`, and all other characters one by one; neither comments, strings nor white space.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\n');
    let (mut found, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '"' {
            i += 1;
            while i < chars.len() && chars[i] != '"' {
                i += if chars[i] == '\\' { 2 } else { 1 };
            }
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += 2;
            while i < chars.len() && chars[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else if c.is_alphanumeric() || c == '_' {
            let begin = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[begin..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            if matches!(word.as_str(), "r" | "br") && at(i + hashes) == '"' {
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                i += hashes + 1;
                while i < chars.len() && !chars[i..].starts_with(&end) {
                    i += 1;
                }
                i += end.len();
            } else {
                found.push(word);
            }
        } else if c == ':' && at(i + 1) == ':' {
            found.push("::".into());
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.into());
            }
            i += 1;
        }
    }
    found
}

/// Goes through the tokens of one file.
struct Reader {
    tokens: Vec<String>,
    at: usize,
    module: Module,
    /// Modules with bodies in this file that we are in, and the depth of braces outside each.
    inline: Vec<(String, usize)>,
    depth: usize,
}

impl Reader {
    fn token(&self, i: usize) -> &str {
        self.tokens.get(i).map_or("", String::as_str)
    }

    fn starts(&self, i: usize, tokens: &[&str]) -> bool {
        tokens.iter().zip(i..).all(|(token, i)| self.token(i) == *token)
    }

    fn read(mut self, file: &mut File) {
        let declared: BTreeSet<String> = (0..self.tokens.len())
            .filter(|i| self.token(*i) == "mod" && self.token(i + 2) == ";")
            .map(|i| self.token(i + 1).to_string())
            .collect();
        while self.at < self.tokens.len() {
            let i = self.at;
            self.at += 1;
            match self.token(i) {
                "{" => self.depth += 1,
                "}" => {
                    self.depth -= 1;
                    self.inline.pop_if(|(_, depth)| *depth == self.depth);
                }
                "#" if self.starts(i, &["#", "[", "cfg", "(", "test", ")", "]", "mod"])
                    && self.token(i + 9) == "{" =>
                {
                    self.at = i + 10;
                    self.skip_body();
                }
                "mod" if self.token(i + 2) == "{" => {
                    self.inline.push((self.token(i + 1).to_string(), self.depth))
                }
                "use" => {
                    let passed_on = matches!(self.token(i.wrapping_sub(1)), "pub" | ")");
                    let mut leaves = Vec::new();
                    self.tree(&[], &mut leaves);
                    for (name, path) in leaves {
                        let Some(path) = self.absolute(&path, &declared) else { continue };
                        if passed_on {
                            file.passed_on.insert(name, path.clone());
                        }
                        file.paths.insert(path);
                    }
                }
                // `pub(in crate::x)` opens a path to others and takes none.
                "in" if self.token(i.wrapping_sub(1)) == "(" => {
                    while self.token(self.at) != ")" {
                        self.at += 1;
                    }
                }
                _ if self.token(i + 1) == "::"
                    && !matches!(self.token(i.wrapping_sub(1)), "::" | "$" | ".") =>
                {
                    let mut path = vec![self.token(i).to_string()];
                    while self.token(self.at) == "::" && is_name(self.token(self.at + 1)) {
                        path.push(self.token(self.at + 1).to_string());
                        self.at += 2;
                    }
                    file.paths.extend(self.absolute(&path, &declared));
                }
                _ => {}
            }
        }
    }

    /// Skips to behind the closing brace of a body that has been opened.
    fn skip_body(&mut self) {
        let mut depth = 1;
        while depth > 0 && self.at < self.tokens.len() {
            match self.token(self.at) {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// The names that a tree of `use` brings, each with its path.
    fn tree(&mut self, before: &[String], leaves: &mut Vec<(String, Module)>) {
        let mut path = before.to_vec();
        loop {
            let token = self.token(self.at).to_string();
            self.at += 1;
            match token.as_str() {
                "::" => {}
                "{" => {
                    while !matches!(self.token(self.at), "}" | "") {
                        self.tree(&path, leaves);
                        if self.token(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => {
                    let name = self.token(self.at).to_string();
                    self.at += 1;
                    leaves.push((name, path));
                    return;
                }
                "self" if !before.is_empty() && path.len() == before.len() => {}
                _ => path.push(token),
            }
            if matches!(self.token(self.at), ";" | "," | "}" | "") {
                leaves.push((path.last().cloned().unwrap_or_default(), path));
                return;
            }
        }
    }

    /// A path from the crate's root; none where it leads to another crate.
    fn absolute(&self, path: &[String], declared: &BTreeSet<String>) -> Option<Module> {
        let here = || self.module.iter().chain(self.inline.iter().map(|(name, _)| name)).cloned().collect();
        let mut base: Module = match path.first()?.as_str() {
            "crate" => vec![],
            "self" | "super" => here(),
            name if declared.contains(name) && self.inline.is_empty() => here(),
            _ => return None,
        };
        for part in path {
            match part.as_str() {
                "crate" | "self" | "*" => {}
                "super" => drop(base.pop()),
                _ => base.push(part.clone()),
            }
        }
        Some(base)
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}
