//! What deny.toml says of licences and sources, held against the tree without `cargo deny`: offline, as it is locked.

use std::process::Command;

use hyc_tests::root;
use serde_json::Value;

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap()
}

fn list<'t>(table: &'t toml::Table, section: &str, key: &str) -> Vec<&'t str> {
    table[section][key].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Whether an SPDX expression can be met with `allowed` licences. `/` is how old manifests write OR.
fn met(expression: &str, allowed: &[&str]) -> bool {
    let text =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{1}");
    let words: Vec<String> = text.split_whitespace().map(|word| word.replace('\u{1}', " WITH ")).collect();
    let mut at = 0;
    let result = any(&words, &mut at, allowed);
    result && at == words.len()
}

fn any(words: &[String], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = all(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "OR") {
        *at += 1;
        result |= all(words, at, allowed);
    }
    result
}

fn all(words: &[String], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at).is_some_and(|word| word == "AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[String], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if word != "(" {
        return allowed.contains(&word.as_str());
    }
    let result = any(words, at, allowed);
    *at += 1;
    result && words.get(*at - 1).is_some_and(|word| word == ")")
}

#[test]
fn expressions_are_read_right() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
    for good in [
        "MIT",
        "MIT OR GPL-3.0-only",
        "GPL-3.0-only/MIT",
        "(MIT OR GPL-2.0) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(met(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "(MIT OR X) AND X", "", "(MIT", "MIT X"] {
        assert!(!met(bad, &allowed), "{bad}");
    }
}

#[test]
fn licences_are_those_of_deny_toml() {
    let deny = deny();
    let allowed = list(&deny, "licenses", "allow");
    // Of this platform: the manifests of others need not be on this machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let exceptions = deny["licenses"]["exceptions"].as_array().unwrap();
    let excepted = |package: &Value| {
        exceptions.iter().any(|exception| {
            let allowed: Vec<&str> =
                exception["allow"].as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect();
            exception["crate"].as_str() == package["name"].as_str()
                && met(package["license"].as_str().unwrap_or_default(), &allowed)
        })
    };
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !met(package["license"].as_str().unwrap_or_default(), &allowed))
        .filter(|package| !excepted(package))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not allowed by deny.toml:\n{}", refused.join("\n"));
}

/// Every package of all lock files, for all platforms and features, is ours or from an allowed registry.
#[test]
fn sources_are_those_of_deny_toml() {
    let deny = deny();
    let registries = list(&deny, "sources", "allow-registry");
    for lock in ["Cargo.lock", "tests/fuzz/Cargo.lock", "runtime/python/Cargo.lock"] {
        let lock: toml::Table = std::fs::read_to_string(root().join(lock)).unwrap().parse().unwrap();
        let packages = lock["package"].as_array().unwrap();
        assert!(packages.len() > 100);
        for package in packages {
            let name = package["name"].as_str().unwrap();
            match package.get("source").and_then(toml::Value::as_str) {
                None => {
                    let ours = ["hyc", "xtask"].contains(&name) || name.starts_with("hyc-");
                    assert!(ours, "{name} has no source");
                }
                Some(source) => {
                    let registry = source.strip_prefix("registry+").unwrap_or(source);
                    assert!(registries.contains(&registry), "{name} comes from {source}");
                }
            }
        }
    }
}

#[test]
fn the_licences_texts_are_there() {
    for (file, words) in
        [("LICENSE-APACHE", "Version 2.0, January 2004"), ("LICENSE-MIT", "Permission is hereby granted")]
    {
        assert!(std::fs::read_to_string(root().join(file)).unwrap().contains(words), "{file}");
    }
}
