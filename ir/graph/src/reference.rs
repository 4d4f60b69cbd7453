//! `docs/ir.md`: the text form, its types, its ops and the verifier's rules, from what they say of themselves.

use std::fmt::Write;

use hyc_plan::Reach;

use crate::op::{Attr, AttrWords, Op, Words};
use crate::roles::{Gives, Over, Takes, Version};
use crate::types::TYPES;
use crate::verify::RULES;

const HEAD: &str = "\
# The text IR

Every dump of a graph is in this form, and every whole one is accepted in place of a model.toml: what
`hyc compile --emit graph`, `--print-ir-after` and `--dump-dir` write. This page is made from what the ops say of themselves
(`ir/graph/src/op.rs`, `described.rs`), the types (`types.rs`) and the verifier's rules (`verify/rule.rs`);
`cargo xtask bless ir` writes it anew.

## Grammar

```text
text     = { graph of a pass before } graph          of several graphs the last one counts
graph    = header { line }
header   = \"graph\" STRING \"{\" KEY \"=\" value { \",\" KEY \"=\" value } \"}\"
line     = op | weights
op       = [ VALUE { \",\" VALUE } \"=\" ] NAME \"(\" [ operand { \",\" operand } ] \")\" [ \"{\" attrs \"}\" ]
           [ \"layer\" INT ] [ \"chain\" INT ] [ \":\" type { \",\" type } ]
operand  = [ NAME \"=\" ] VALUE                         the operand's name need not be said
attrs    = NAME \"=\" value { \",\" NAME \"=\" value }
value    = INT | FLOAT | \"true\" | \"false\" | NAME
weights  = \"weights\" PATTERN [ \"layer\" layers [ \"before\" PATTERN ] | \"before\" PATTERN ] \":\" type
layers   = INT [ \"-\" INT ] { \",\" INT [ \"-\" INT ] }

STRING, PATTERN   in double quotes
VALUE             `@` for a weight and `%` for any other value, then letters, digits, `.`, `_`, `-`
```

One op a line, in execution order; a header may take several lines. `;` begins a comment, which ends with the line. A value
has one type for each result, in their order. `layer` is the layer that an op belongs to, `chain` the oracle and its readers,
numbered by `detect-chains`.

The header has `layers`, `hidden`, `vocab`, `max_context`, `max_batch`, `chunk`, `max_outputs` (integers) and `target` (`cpu`
or `sm_90a`); and `named`, an integer, where a tokenizer has fewer tokens than `vocab`: the others are never chosen. A dump of some layers says so, as in `graph \"NAME\" layers 12-13 {`, and is not accepted.

A line `weights \"model.layers.{i}.mlp.up_proj.weight\" layer 0-8 : weight<..>` stands for the `weight` ops of these layers:
each stands before the first op that reads it, in the order of that op's operands, or, behind `before`, before the weight of
that name. `--weights-in-ir` prints the ops themselves.
";

/// A graph of two layers: the second one reads what the first one selected.
pub const EXAMPLE: &str = include_str!("example.hyir");

/// The page.
pub fn markdown() -> String {
    let mut out = format!("{HEAD}\n## Example\n\n```text\n{EXAMPLE}```\n");
    out.push_str("\n## Types\n");
    for ty in TYPES {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n`{}`, as `{}`: {}\n", ty.syntax, ty.example, ty.meaning);
    }
    out.push_str("\n## Ops\n");
    Op::WORDS.iter().for_each(|words| op(&mut out, words));
    out.push_str(
        "\n## The verifier's rules\n\nIt runs on what comes in and after every pass that rewrites. Each program is the \
         shortest that breaks its rule,\nand breaks no other.\n",
    );
    let mut about = "";
    for rule in RULES {
        if rule.about != about {
            about = rule.about;
            let _ = write!(out, "\n### {about}\n");
        }
        let _ = write!(out, "\n`{}`: {}\n", rule.name, joined(rule.says));
        let _ = match rule.broken {
            Some(program) => write!(out, "\n```text\n{program}```\n"),
            None => out.write_str("\nNo text can break it, but a wrong description of an op.\n"),
        };
    }
    out
}

/// The lines of a comment as a sentence.
fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn op(out: &mut String, words: &Words) {
    let _ = write!(out, "\n### {}\n\n{}\n", words.name, joined(words.meaning));
    if !words.formula.lines.is_empty() {
        let _ = write!(out, "\n```text\n{}\n```\n", words.formula.lines.join("\n"));
        if words.formula.source != "hyc" {
            let _ = write!(out, "\n{}.\n", words.formula.source);
        }
    }
    let forms = forms(words);
    let takes = forms.iter().flat_map(|form| {
        form.op.roles().takes.iter().map(|role| (role.name, takes(role.kind))).collect::<Vec<_>>()
    });
    let has = |name: &'static str| move |op: &Op| op.roles().takes.position(name).is_some();
    let rows =
        distinct(takes).into_iter().map(|(name, what)| (name, what, condition(words, &forms, &has(name))));
    table(out, "operand", rows.collect());
    let gives = forms.iter().flat_map(|form| {
        form.op.roles().gives.iter().map(|role| (role.name, gives(role.kind))).collect::<Vec<_>>()
    });
    let has = |name: &'static str| move |op: &Op| op.roles().gives.position(name).is_some();
    let rows =
        distinct(gives).into_iter().map(|(name, what)| (name, what, condition(words, &forms, &has(name))));
    table(out, "result", rows.collect());
    for (i, attr) in words.attrs.iter().enumerate() {
        if i == 0 {
            out.push_str("\n| attribute | value | meaning |\n|---|---|---|\n");
        }
        let _ = writeln!(out, "| `{}` | {} | {} |", attr.name, attr.value, joined(attr.meaning));
    }
}

fn table(out: &mut String, of: &str, rows: Vec<(&'static str, String, String)>) {
    for (i, (name, what, condition)) in rows.into_iter().enumerate() {
        if i == 0 {
            let _ = write!(out, "\n| {of} | what it is | where |\n|---|---|---|\n");
        }
        let condition = if condition.is_empty() { "always" } else { &condition };
        let _ = writeln!(out, "| `{name}` | {what} | {condition} |");
    }
}

fn distinct(all: impl Iterator<Item = (&'static str, String)>) -> Vec<(&'static str, String)> {
    let mut list: Vec<(&'static str, String)> = Vec::new();
    for (name, what) in all {
        if list.iter().all(|(known, _)| *known != name) {
            list.push((name, what));
        }
    }
    list
}

/// An op with one choice of its attributes.
struct Form {
    choice: Vec<Option<Attr>>,
    op: Op,
}

/// Every choice that operands may depend on, those with most operands first.
fn forms(words: &Words) -> Vec<Form> {
    let mut choices: Vec<Vec<Option<Attr>>> = vec![vec![]];
    for attr in words.attrs {
        let longer = |choice: &Vec<Option<Attr>>| {
            let values = (attr.choices)().into_iter();
            values.map(|value| choice.iter().cloned().chain([value]).collect()).collect::<Vec<_>>()
        };
        choices = choices.iter().flat_map(longer).collect();
    }
    let form = |choice: Vec<Option<Attr>>| {
        let named = words.attrs.iter().zip(&choice);
        let attrs: Vec<(String, Attr)> =
            named.filter_map(|(attr, value)| Some((attr.name.to_string(), value.clone()?))).collect();
        Op::from_attrs(words.name, &attrs).ok().map(|op| Form { choice, op })
    };
    let mut forms: Vec<Form> = choices.into_iter().filter_map(form).collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.op.roles().takes.len()));
    forms
}

/// For which attributes an op has an operand or a result; nothing where it always has.
fn condition(words: &Words, forms: &[Form], has: &dyn Fn(&Op) -> bool) -> String {
    let with =
        |i: usize, value: &Option<Attr>| forms.iter().any(|form| form.choice[i] == *value && has(&form.op));
    let one = |(i, attr): (usize, &AttrWords)| {
        let all = (attr.choices)();
        let some: Vec<&Option<Attr>> = all.iter().filter(|value| with(i, value)).collect();
        let told = |value: &&Option<Attr>| match value {
            Some(Attr::Word(word)) => Some(word.clone()),
            _ => None,
        };
        let told: Vec<String> = some.iter().filter_map(told).collect();
        match (some.len() < all.len(), told.is_empty()) {
            (false, _) => None,
            (true, true) => Some(format!("with `{}`", attr.name)),
            (true, false) => Some(format!("with `{} = {}`", attr.name, told.join("` or `"))),
        }
    };
    // An operand that depends on two attributes together in another way than by both has no words yet.
    let told = |form: &Form| form.choice.iter().enumerate().all(|(i, value)| with(i, value));
    debug_assert!(forms.iter().all(|form| has(&form.op) == told(form)), "{}", words.name);
    words.attrs.iter().enumerate().filter_map(one).collect::<Vec<_>>().join(" and ")
}

fn takes(kind: Takes) -> String {
    match kind {
        Takes::Tensor => "tensor of f32".to_string(),
        Takes::Experts => "tensor of i32: chosen experts".to_string(),
        Takes::Weight => "weight".to_string(),
        Takes::Scores => "tensor of scores".to_string(),
        Takes::Cache(Reach::Nothing) => "cache, of which nothing is read".to_string(),
        Takes::Cache(Reach::Context) => "cache, read from its first token on".to_string(),
        Takes::Cache(Reach::Window(_)) => "cache, of which the last `window` tokens are read".to_string(),
        Takes::Cache(Reach::Own) => "cache, of which each row's own token is read".to_string(),
        Takes::Cache(Reach::Selected(sel)) => format!("cache, of which the blocks in `{sel}` are read"),
        Takes::Append => "cache, the newest version, which is appended to".to_string(),
        Takes::Selection { over } => format!("selection of blocks of `{over}`"),
        Takes::PageLists { of } => format!("page lists of `{of}`"),
    }
}

fn gives(kind: Gives) -> String {
    let over = |over: Over| match over {
        Over::Cache(name) => format!("over `{name}`"),
        Over::Scores(name) => format!("over what `{name}` are of"),
        Over::EarlierStep => "of an earlier step".to_string(),
        Over::Open => "of an oracle that is not known yet".to_string(),
    };
    match kind {
        Gives::Tensor => "tensor of f32".to_string(),
        Gives::Experts => "tensor of i32: chosen experts".to_string(),
        Gives::Weight => "weight".to_string(),
        Gives::Scores(of) => format!("tensor of scores {}", over(of)),
        Gives::Cache(Version::State) => "cache as it was before this step".to_string(),
        Gives::Cache(Version::After(name)) => format!("`{name}` with this step's rows"),
        Gives::Cache(Version::CopyOf(name)) => format!("copy of `{name}`"),
        Gives::Cache(Version::Open) => "cache of an oracle that is not known yet".to_string(),
        Gives::PageLists(of) => format!("page lists of `{of}`"),
        Gives::Selection(of) => format!("selection of blocks {}", over(of)),
    }
}
