//! The text form in its styles, and what is said of text that is not in it.

use std::path::Path;

use hyc_ir::text::{self, Style};
use hyc_ir::{Graph, verify};

const HEADER: &str = "graph \"t\" {
  layers = 2, hidden = 16, vocab = 32, max_context = 256, max_batch = 2, chunk = 16, max_outputs = 2, target = cpu
}
";
/// Two layers, the second of which reads the first one's cache.
const BODY: &str = "@embed = weight() : weight<32 x 16 x f32>
%x = embed(table=@embed) : tensor<tokens x 16 x f32>
@L0.w = weight() layer 0 : weight<16 x 16 x f32>
@L0.v = weight() layer 0 : weight<16 x 16 x bf16>
%a = linear(x=%x, weight=@L0.w) layer 0 : tensor<tokens x 16 x f32>
%b = linear(x=%a, weight=@L0.v) layer 0 : tensor<tokens x 16 x f32>
%c = cache() {owner = 0} layer 0 : cache<1 x 16+16 x f32, page 8, growing, map pages>
%kv = append(cache=%c, k=%a, v=%b) layer 0 : cache<1 x 16+16 x f32, page 8, growing, map pages>
%o = attention(q=%b, cache=%kv) {heads = 1} layer 0 : tensor<tokens x 16 x f32>
@L1.w = weight() layer 1 : weight<16 x 16 x f32>
%q = linear(x=%o, weight=@L1.w) layer 1 : tensor<tokens x 16 x f32>
%y = attention(q=%q, cache=%kv) {heads = 1} layer 1 : tensor<tokens x 16 x f32>
%last = gather_rows(x=%y) : tensor<outputs x 16 x f32>
%logits = linear(x=%last, weight=@embed) : tensor<outputs x 32 x f32>
output(logits=%logits)
";

fn parse(text: &str) -> Graph {
    text::parse(text).unwrap_or_else(|errors| panic!("{}\n{text}", errors[0]))
}

fn graph() -> Graph {
    let graph = parse(&format!("{HEADER}{BODY}"));
    assert_eq!(verify::verify(&graph), Ok(()));
    graph
}

fn weights(graph: &Graph) -> Vec<String> {
    let ops = graph.ops().filter(|id| graph.op(*id).op.name() == "weight");
    ops.map(|id| format!("{} {:?}", graph.name(graph.op(id).results[0]), graph.op(id).layer)).collect()
}

/// One fault, where it stands.
fn fault(text: &str) -> (usize, usize, String) {
    let errors = text::parse(text).expect_err("a fault");
    assert_eq!(errors.len(), 1, "{errors:?}");
    let help = errors[0].help.clone().map(|help| format!("; {help}")).unwrap_or_default();
    (errors[0].line, errors[0].column, errors[0].message.clone() + &help)
}

#[test]
fn weights_are_told_by_pattern() {
    let text = text::print_as(&graph(), &Style::default());
    let list = "weights \"embed\" : weight<32 x 16 x f32>
weights \"L{i}.w\" layer 0-1 : weight<16 x 16 x f32>
weights \"L{i}.v\" layer 0 : weight<16 x 16 x bf16>
%x = embed(table=@embed) : tensor<tokens x 16 x f32>
%a = linear(x=%x, weight=@L0.w) layer 0";
    assert!(text.contains(list) && !text.contains("weight()"), "{text}");
    assert_eq!(weights(&parse(&text)), weights(&graph()));
    assert_eq!(text::print_as(&parse(&text), &Style::default()), text);
}

/// A weight whose first reader would change its place among the others says what it stands before.
#[test]
fn weights_keep_their_order() {
    let swapped = BODY
        .replace("@L0.w = weight() layer 0 : weight<16 x 16 x f32>\n", "")
        .replace("%a = linear", "@L0.w = weight() layer 0 : weight<16 x 16 x f32>\n%a = linear");
    for body in [
        swapped.clone(),
        BODY.replace("x=%a, weight=@L0.v", "x=%a, weight=@L1.w")
            .replace("x=%o, weight=@L1.w", "x=%o, weight=@L0.v"),
        BODY.replace("@L1.w = weight() layer 1", "@L1.w = weight() layer 1 chain 0"),
        BODY.replace("@L1.w = weight()", "@L1.w = weight(%x)"),
        BODY.replace("output(logits", "@unread = weight() : weight<4 x f32>\noutput(logits"),
        BODY.replace("@embed = weight", "@L1.w = weight() layer 1 : weight<16 x 16 x f32>\n@embed = weight"),
    ] {
        let graph = parse(&format!("{HEADER}{body}"));
        let text = text::print_as(&graph, &Style::default());
        assert_eq!(weights(&parse(&text)), weights(&graph), "{text}");
    }
    let text = text::print_as(&parse(&format!("{HEADER}{swapped}")), &Style::default());
    let line = "weights \"L{i}.v\" layer 0 before \"L{i}.w\" : weight<16 x 16 x bf16>\n";
    assert!(text.contains(line) && !text.contains("weight()"), "{text}");
}

/// Every graph of the tests, in every style that can be read back.
#[test]
fn every_style_goes_round() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/filetests");
    let mut count = 0;
    for folder in ["verify", "pipeline", "plan-kv", "schedule", "fuse-epilogues", "quantise-kv"] {
        for path in hyc_filetest::files(&root.join(folder), "hyir") {
            let graph = parse(&std::fs::read_to_string(&path).unwrap());
            for (weights, notes) in [(false, false), (false, true), (true, true)] {
                let style = Style { weights, notes, layers: None };
                let printed = text::print_as(&graph, &style);
                let again = parse(&printed);
                assert_eq!(self::weights(&again), self::weights(&graph), "{}", path.display());
                assert_eq!(text::print_as(&again, &style), printed, "{}", path.display());
                assert!(!weights || again == graph, "{}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 40);
}

#[test]
fn aliases_are_said() {
    let text = text::print_as(&graph(), &Style { notes: true, ..Style::default() });
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("  ; ")).collect();
    assert!(
        lines.len() == 2
            && lines[0].starts_with("%c = cache()")
            && lines[0].ends_with("  ; read by layer 1 too")
            && lines[1].starts_with("%y = attention")
            && lines[1].ends_with("  ; %kv is the cache of layer 0"),
        "{lines:?}"
    );
}

#[test]
fn a_part_is_told_apart() {
    let style = Style { layers: Some("1".parse().unwrap()), ..Style::default() };
    let text = text::print_as(&graph(), &style);
    assert!(text.starts_with("graph \"t\" layers 1 {\n"), "{text}");
    let body = "}
weights \"L{i}.w\" layer 1 : weight<16 x 16 x f32>
; input %o : tensor<tokens x 16 x f32>, made by attention of layer 0
; input %kv : cache<1 x 16+16 x f32, page 8, growing, map pages>, made by append of layer 0
%q = linear(x=%o, weight=@L1.w) layer 1 : tensor<tokens x 16 x f32>
%y = attention(q=%q, cache=%kv) {heads = 1} layer 1 : tensor<tokens x 16 x f32>
";
    assert!(text.ends_with(body), "{text}");
    let (line, column, message) = fault(&text);
    assert_eq!((line, column), (1, 11));
    assert!(message.contains("its layer 1") && message.contains("without `--layers`"), "{message}");
}

#[test]
fn of_several_graphs_the_last_one_counts() {
    let text = format!("; after one: 1 changes\n{HEADER}nonsense\n\n; after two: 0 changes\n{HEADER}{BODY}");
    assert_eq!(parse(&text), graph());
    let (line, _, message) = fault(&format!("{HEADER}{BODY}{HEADER}nonsense\n"));
    assert!(line == 22 && message.contains("belongs here"), "{line}: {message}");
    let (line, column, _) = fault(&format!("{HEADER}{BODY}\n  graph {{"));
    assert_eq!((line, column), (20, 9));
}

#[test]
fn faults_stand_where_they_are() {
    let two = format!("{HEADER}weights \"a.{{i}}\" layer 0-1 : weight<4 x f32>\n");
    for (text, line, column, says) in [
        (HEADER.replace("hidden = 16", "hiden = 16"), 2, 15, "the header has no `hiden`"),
        (HEADER.replace("  layers", "; about\n\n   layers =, layers"), 4, 12, "a value belongs here"),
        (HEADER.replace("\"t\"", "\"\u{7}\""), 1, 7, "the name becomes a file's"),
        (format!("{HEADER}%x = embeed(@e) : tensor<tokens x 16 x f32>"), 4, 6, "did you mean `embed`?"),
        (format!("{HEADER}%x = embed(@e) : tenser<tokens x 16 x f32>"), 4, 18, "did you mean `tensor`?"),
        (format!("{HEADER}weights \"a.{{i}}\" : weight<4 x f32>"), 4, 9, "needs the layers"),
        (format!("{HEADER}weights \"a\" layer 0-1 : weight<4 x f32>"), 4, 9, "need an `{i}`"),
        (format!("{HEADER}weights \"a\u{1b}\" : weight<4 x f32>"), 4, 9, "a weight's name is of"),
        (format!("{HEADER}weights \"a.{{i}}\" layer 1-0 : weight<4 x f32>"), 4, 23, "1 stands before 0"),
        (
            format!("{HEADER}weights \"a.{{i}}\" layer 0-4294967295 : weight<4 x f32>"),
            4,
            17,
            "more than 100000",
        ),
        (format!("{HEADER}weights \"a\" : tensor<tokens x 4 x f32>"), 4, 15, "a weight has the type"),
        (format!("{two}weights \"b\" before \"c{{i}}\" : weight<4 x f32>"), 5, 13, "needs the layers"),
        (
            format!(
                "{two}weights \"b\" before \"d\" : weight<4 x f32>\nweights \"c\" before \"d\" : weight<4 x f32>"
            ),
            6,
            1,
            "both `b` and `c` stand before `d`",
        ),
        (format!("{two}weights \"a.1\" : weight<4 x f32>"), 5, 1, "in the list of line 4 too"),
        (format!("{two}@a.1 = weight() : weight<4 x f32>"), 5, 1, "in the list of weights of line 4 too"),
    ] {
        let (at, found, message) = fault(&text);
        assert!((at, found) == (line, column) && message.contains(says), "{at}:{found}: {message}\n{text}");
    }
}

/// How many tokens have names stands in the header, where they are fewer.
#[test]
fn a_header_says_what_has_a_name() {
    let named = HEADER.replace("vocab = 32", "vocab = 32, named = 31");
    let graph = parse(&format!("{named}{BODY}"));
    assert_eq!(graph.header.named, Some(31));
    let printed = text::print(&graph);
    assert!(printed.starts_with(&named) && parse(&printed).header == graph.header, "{printed}");
    let (_, _, message) = fault(&named.replace("named = 31", "named = many"));
    assert!(message.contains("the header needs `named = ` an integer"), "{message}");
}

/// What is written in a value that holds numbers is a number: values in values took the stack of whoever read them.
#[test]
fn values_are_not_nested() {
    let deep = format!("{HEADER}%x = rope(%x) {{scaling = {}", "a(".repeat(1 << 20));
    let (line, _, message) = fault(&deep);
    assert_eq!((line, message.as_str()), (4, "a number belongs here"));
}
