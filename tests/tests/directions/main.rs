//! What may import what, by one table: `tests/directions.txt`.

mod imports;

use std::collections::{BTreeMap, BTreeSet};

use hyc_tests::root;
use imports::{Crate, circle};

/// A section: its header, and its lines as a name with what it may import.
type Section = (String, Vec<(String, BTreeSet<String>)>);

fn table(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push((header.to_string(), vec![]));
            continue;
        }
        let (name, allowed) = line.split_once(':').unwrap_or((line, ""));
        let lines = &mut sections.last_mut().expect("a line stands under a header").1;
        let allowed: BTreeSet<String> = allowed.split_whitespace().map(String::from).collect();
        for other in &allowed {
            assert!(
                lines.iter().any(|(above, _)| above == other),
                "`{name}` names `{other}`, which is not above it"
            );
        }
        lines.push((name.to_string(), allowed));
    }
    sections
}

fn sections() -> Vec<Section> {
    table(&std::fs::read_to_string(root().join("tests/directions.txt")).unwrap())
}

fn section(name: &str) -> Vec<(String, BTreeSet<String>)> {
    sections().into_iter().find(|(header, _)| header == name).unwrap().1
}

/// What a section's table does not allow: entries that it lacks or that are not there, and imports.
fn faults(
    allowed: &[(String, BTreeSet<String>)],
    found: &BTreeMap<String, BTreeSet<(String, String)>>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, _) in allowed.iter().filter(|(name, _)| !found.contains_key(name)) {
        faults.push(format!("`{name}` stands in the table and nowhere else"));
    }
    for (name, imports) in found {
        let Some((_, allowed)) = allowed.iter().find(|(other, _)| other == name) else {
            faults.push(format!("`{name}` does not stand in the table"));
            continue;
        };
        for (to, why) in imports.iter().filter(|(to, _)| !allowed.contains(to)) {
            faults.push(format!("`{name}` may not import `{to}`: {why}"));
        }
    }
    faults
}

/// The entry of `folder` that a file stands in; `mod` for its own file.
fn entry<'f>(folder: &str, file: &'f str) -> Option<&'f str> {
    let below = file.strip_prefix(folder)?;
    let first = below.split('/').next()?;
    Some(match first.strip_suffix(".rs").unwrap_or(first) {
        "lib" => "mod",
        name => name,
    })
}

/// Imports between the entries of `folder`, which is "" or ends in a slash.
fn between(folder: &str, files: &Crate) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let mut found: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for (file, imports) in files.imports() {
        let Some(from) = entry(folder, &file) else { continue };
        let entries = found.entry(from.to_string()).or_default();
        for import in &imports {
            if let Some(to) = entry(folder, import).filter(|to| *to != from) {
                entries.insert((to.to_string(), format!("{file} imports {import}")));
            }
        }
    }
    found
}

#[test]
fn crates_depend_on_what_the_table_allows() {
    let workspace: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let manifests = members.iter().map(|member| {
        let path = root().join(member.as_str().unwrap()).join("Cargo.toml");
        std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap()
    });
    let manifests: BTreeMap<String, toml::Table> =
        manifests.map(|m| (m["package"]["name"].as_str().unwrap().to_string(), m)).collect();
    let found = manifests.iter().map(|(name, manifest)| {
        let tables =
            ["dependencies", "build-dependencies"].map(|kind| manifest.get(kind).and_then(|t| t.as_table()));
        let names = tables.into_iter().flatten().flat_map(|table| table.keys());
        let ours = names.filter(|name| manifests.contains_key(*name));
        (name.clone(), ours.map(|to| (to.clone(), "its Cargo.toml says so".to_string())).collect())
    });
    assert_eq!(faults(&section("crates"), &found.collect()), [""; 0]);
}

#[test]
fn folders_import_what_the_table_allows() {
    let folders = sections().into_iter().filter(|(header, _)| header.contains('/'));
    let mut seen = 0;
    for (header, allowed) in folders {
        // `kernels/src/gpu`: the crate's sources, and the folder in them.
        let (sources, folder) = header.split_once("/src").unwrap();
        let folder = folder.strip_prefix('/').map_or(String::new(), |folder| format!("{folder}/"));
        let files = Crate::read(&root().join(sources).join("src"));
        assert_eq!(faults(&allowed, &between(&folder, &files)), [""; 0], "{header}");
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for (sources, _) in section("no circles") {
        let imports = Crate::read(&root().join(&sources)).imports();
        assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 0 || imports.len() < 3, "{sources}");
        assert_eq!(circle(&imports), None, "{sources}");
    }
}

fn imports_of(texts: &[(&str, &str)]) -> Vec<String> {
    let imports = Crate::new(texts.iter().copied()).imports();
    imports.iter().flat_map(|(from, to)| to.iter().map(move |to| format!("{from} -> {to}"))).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let found = imports_of(&[
        ("lib.rs", "mod a; mod b; mod c;\npub use a::{One, two::{self, Three as Four}};"),
        ("a/mod.rs", "pub mod two; pub struct One; fn f() { two::g(); }"),
        ("a/two.rs", "use crate::b; use super::One;\n#[cfg(test)]\nmod tests { use crate::c; }"),
        (
            "b.rs",
            "// use crate::c;\nconst S: &str = \"crate::c::x\"; const R: &str = r#\"\"crate::c::x\"\"#;\nfn f(c: char) -> bool { c == '\"' && crate::c::g() }",
        ),
        (
            "c.rs",
            "pub(in crate::a) fn g() {}\nmod inside { use super::super::a::One; fn f() { super::g(); } }\nuse std::fmt;",
        ),
    ]);
    assert_eq!(
        found,
        [
            "a/mod.rs -> a/two.rs",
            "a/two.rs -> a/mod.rs",
            "a/two.rs -> b.rs",
            "b.rs -> c.rs",
            "c.rs -> a/mod.rs",
            "lib.rs -> a/mod.rs",
            "lib.rs -> a/two.rs",
        ]
    );
}

#[test]
fn a_name_that_is_passed_on_is_its_owners() {
    let files = [
        ("lib.rs", "mod a; pub use a::Deep;"),
        ("a/mod.rs", "mod inner; pub use inner::Deep;"),
        ("a/inner.rs", "pub struct Deep;"),
        ("b.rs", "use crate::Deep;"),
    ];
    assert_eq!(imports_of(&files), ["a/mod.rs -> a/inner.rs", "b.rs -> a/inner.rs", "lib.rs -> a/inner.rs"]);
}

#[test]
fn what_the_table_does_not_allow_is_a_fault() {
    let allowed = &table("[f]\nlow:\nhigh: low\ngone:")[0].1;
    let files = Crate::new([
        ("f/low.rs", "use super::high::part::X;"),
        ("f/high/mod.rs", "mod part; use part::Y;"),
        ("f/high/part.rs", "use super::Z; use crate::f::low;"),
        ("f/new.rs", ""),
        ("lib.rs", ""),
    ]);
    assert_eq!(
        faults(allowed, &between("f/", &files)),
        [
            "`gone` stands in the table and nowhere else",
            "`low` may not import `high`: f/low.rs imports f/high/part.rs",
            "`new` does not stand in the table",
        ]
    );
    let circle = circle(&files.imports()).unwrap();
    assert_eq!(circle, ["f/high/part.rs", "f/low.rs", "f/high/part.rs"]);
}

#[test]
fn a_circle_through_a_module_counts_where_it_leaves_the_module() {
    let inside = [("m/mod.rs", "mod part; use part::Y;"), ("m/part.rs", "use super::Z;")];
    assert_eq!(circle(&Crate::new(inside).imports()), None);
    let left = [
        ("m/mod.rs", "mod part; use part::f;"),
        ("m/part.rs", "use crate::n::N;"),
        ("n.rs", "use crate::m::M;"),
    ];
    let found = circle(&Crate::new(left).imports()).unwrap();
    assert_eq!(found, ["m/mod.rs", "m/part.rs", "n.rs", "m/mod.rs"]);
}

#[test]
#[should_panic(expected = "`low` names `high`, which is not above it")]
fn a_table_cannot_have_a_circle() {
    table("[f]\nlow: high\nhigh: low");
}
