//! Every op that reads a selection, reads a cache or appends to one, and each rule of provenance broken once for it.

use hyc_ir::roles::Takes;
use hyc_ir::verify::verify;
use hyc_ir::{Op, text};

const HEAD: &str = "graph \"t\" {
  layers = 3, hidden = 16, vocab = 32, max_context = 256, max_batch = 2, chunk = 16, max_outputs = 2, target = cpu
}
@embed = weight() : weight<32 x 16 x f32>
@sink = weight() : weight<1 x f32>
%x = embed(table=@embed) : tensor<tokens x 16 x f32>
";
const CACHE: &str = "cache<1 x 16+16 x f32, page 8, growing, map pages>";
const SELECTION: &str = "selection<1 x 2, block 8, map pages>";
const ROWS: &str = "tensor<tokens x 16 x f32>";
const TAIL: &str = "%last = gather_rows(x=%y) : tensor<outputs x 16 x f32>
%logits = linear(x=%last, weight=@embed) : tensor<outputs x 32 x f32>
output(logits=%logits)
";

/// A layer 1 that reads: `CACHE`, and `OWN` where the op has a window of its own, and `SEL`, are put in.
const READERS: [(&str, &str); 8] = [
    ("attention", "%y = attention(q=%x, cache=CACHE) {heads = 1} layer 1 : ROWS"),
    (
        "oracle_attention",
        "%y, %s = oracle_attention(q=%x, cache=CACHE) {heads = 1, blocks = 2} layer 1 : ROWS, SELECTION",
    ),
    ("window_attention", "%y = window_attention(q=%x, cache=CACHE) {heads = 1, window = 8} layer 1 : ROWS"),
    ("sparse_attention", "%y = sparse_attention(q=%x, cache=CACHE, sel=SEL) {heads = 1} layer 1 : ROWS"),
    (
        "hybrid_attention",
        "%y = hybrid_attention(q=%x, shared=CACHE, sel=SEL, sink_select=@sink, own=OWN, sink_window=@sink) \
         {heads = 1, window = 8, gate = none} layer 1 : ROWS",
    ),
    (
        "quantise_kv",
        "%c2 = cache() {owner = 1, ring = f32} layer 1 : CODES\n\
         %y2 = quantise_kv(cache=%c2, from=CACHE) layer 1 : CODES\n\
         %y = attention(q=%x, cache=%y2) {heads = 1} layer 1 : ROWS",
    ),
    (
        "page_lists",
        "%l = page_lists(cache=CACHE, sel=SEL) layer 0 : lists<1 x 2, block 8, tile 4, least 1, map pages>\n\
         %y = window_attention(q=%x, cache=%kv1) {heads = 1, window = 8} layer 1 : ROWS",
    ),
    (
        "kv_share",
        "%copy = kv_share(cache=CACHE) layer 1 : CACHETYPE\n\
         %y = window_attention(q=%x, cache=%copy) {heads = 1, window = 8} layer 1 : ROWS",
    ),
];

/// Layer 0's cache and its oracle, which a reader follows.
fn lines(reader: &str) -> Vec<String> {
    let layer = |n: u32| {
        format!(
            "%c{n} = cache() {{owner = {n}}} layer {n} : {CACHE}\n\
             %kv{n} = append(cache=%c{n}, k=%x, v=%x) layer {n} : {CACHE}\n"
        )
    };
    let oracle = format!(
        "%o, %sel = oracle_attention(q=%x, cache=%kv0) {{heads = 1, blocks = 2}} layer 0 : {ROWS}, {SELECTION}\n"
    );
    let reader = reader
        .replace("CACHETYPE", CACHE)
        .replace("CODES", &CACHE.replace("f32", "int8"))
        .replace("CACHE", "%kv0")
        .replace("OWN", "%kv1")
        .replace("SELECTION", SELECTION)
        .replace("SEL", "%sel")
        .replace("ROWS", ROWS);
    let whole = format!("{}{}{oracle}{reader}\n{TAIL}", layer(0), layer(1));
    whole.lines().map(str::to_string).collect()
}

fn broken(lines: &[String]) -> Vec<&'static str> {
    let source = format!("{HEAD}{}\n", lines.join("\n"));
    let graph = text::parse(&source).unwrap_or_else(|errors| panic!("{}\n{source}", errors[0]));
    verify(&graph).err().unwrap_or_default().iter().map(|violation| violation.rule).collect()
}

/// Changes the line that begins with `start`, or is of that op; some violation must then have this rule.
fn breaks(rule: &str, reader: &str, start: &str, change: impl Fn(&mut Vec<String>, usize)) {
    let mut lines = lines(reader);
    assert_eq!(broken(&lines), Vec::<&str>::new(), "{reader}");
    let at = lines.iter().position(|line| line.starts_with(start) || line.contains(&format!("= {start}(")));
    let at = at.unwrap_or_else(|| panic!("no {start} in {lines:?}"));
    change(&mut lines, at);
    assert!(broken(&lines).contains(&rule), "{reader}: {rule}: {:?}", broken(&lines));
}

fn replaced<'t>(from: &'t str, to: &'t str) -> impl Fn(&mut Vec<String>, usize) + 't {
    move |lines, at| {
        assert!(lines[at].contains(from), "{from} in {}", lines[at]);
        lines[at] = lines[at].replacen(from, to, 1);
    }
}

fn takes(name: &str) -> Vec<Takes> {
    let reader = READERS.iter().find(|(op, _)| *op == name).unwrap().1;
    let source = format!("{HEAD}{}\n", lines(reader).join("\n"));
    let graph = text::parse(&source).unwrap();
    // Behind layer 0's own oracle.
    let id = graph.ops().rfind(|id| graph.op(*id).op.name() == name).unwrap();
    graph.op(id).op.roles().takes.iter().map(|role| role.kind).collect()
}

#[test]
fn every_read_of_a_selection() {
    let mut count = 0;
    for (op, reader) in READERS {
        if !takes(op).iter().any(|kind| matches!(kind, Takes::Selection { .. })) {
            continue;
        }
        count += 1;
        breaks("selection-producer", reader, op, replaced("sel=%sel", "sel=%none"));
        breaks("selection-two-producers", reader, "%o, %sel", |lines, at| {
            let again = lines[at].replace("%o,", "%o2,");
            lines.insert(at + 1, again);
        });
        breaks("selection-dominance", reader, op, |lines, at| lines.swap(at - 1, at));
        breaks("selection-step", reader, op, |lines, at| {
            lines[at] = lines[at].replace("sel=%sel", "sel=%prior");
            lines.insert(at, format!("%prior = prior_selection() : {SELECTION}"));
        });
        let other = |from: &'static str, to: &'static str| {
            move |lines: &mut Vec<String>, at: usize| {
                lines[at] = lines[at].replace("sel=%sel", "sel=%open");
                if lines[at].contains(": lists<") {
                    lines[at] = lines[at].replace(from, to);
                }
                let selection = SELECTION.replace(from, to);
                lines.insert(at, format!("%open = chain_selection() : {selection}"));
            }
        };
        breaks("selection-map", reader, op, other("map pages", "map others"));
        breaks("selection-block", reader, op, other("block 8", "block 16"));
        breaks("selection-heads", reader, op, other("1 x 2", "2 x 2"));
        // A third layer's cache, which is neither the oracle's nor the reader's own.
        breaks("selection-cache", reader, op, |lines, at| {
            lines[at] = lines[at].replacen("=%kv0", "=%kv2", 1);
            lines.insert(at, format!("%kv2 = append(cache=%c2, k=%x, v=%x) layer 2 : {CACHE}"));
            lines.insert(at, format!("%c2 = cache() {{owner = 2}} layer 2 : {CACHE}"));
        });
    }
    assert_eq!(count, 3, "sparse and hybrid attention, page lists");
}

#[test]
fn every_read_of_a_cache() {
    for (op, reader) in READERS {
        assert!(takes(op).iter().any(|kind| matches!(kind, Takes::Cache(_))), "{op}");
        let mut places = vec!["=%kv0"];
        places.extend(reader.contains("OWN").then_some("=%kv1"));
        for place in places {
            // Before the append, and from nowhere.
            let (bare, none) = (place.replace("kv", "c"), "=%none");
            let last = |lines: &mut Vec<String>, to: &str| {
                let at = lines.iter().rposition(|line| line.contains(place)).unwrap();
                lines[at] = lines[at].replacen(place, to, 1);
            };
            breaks("alias-before-append", reader, op, |lines, _| last(lines, &bare));
            breaks("ssa-producer", reader, op, |lines, _| last(lines, none));
        }
        // Of a ring, what a window of its size does not see.
        let ring = "ring(4, 3)";
        let mut lines = lines(reader);
        // A ring stores no codes.
        for line in lines.iter_mut().filter(|line| !line.contains("int8")) {
            *line = line.replace("growing", ring);
        }
        assert!(broken(&lines).contains(&"ring-window"), "{op}: {:?}", broken(&lines));
    }
}

#[test]
fn every_append() {
    for append in [
        "%kv = append(cache=%kv0, k=%x, v=%x) layer 0 : CACHETYPE",
        "%q, %kv = qkv_append(x=%x, wq=@w, wk=@w, wv=@w, cache=%kv0) \
         {heads = 1, kv_heads = 1, theta = 10000.0, dims = 16, own_kv = true} layer 0 : ROWS, CACHETYPE",
    ] {
        let line = append.replace("CACHETYPE", CACHE).replace("ROWS", ROWS);
        let mut lines = lines(READERS[0].1);
        lines.insert(0, "@w = weight() : weight<16 x 16 x f32>".to_string());
        let at = lines.iter().position(|line| line.starts_with("%o, %sel")).unwrap();
        lines.insert(at, line.clone());
        assert_eq!(broken(&lines), Vec::<&str>::new(), "{line}");
        // A version that is not the newest.
        lines[at] = line.replace("cache=%kv0", "cache=%c0");
        assert!(broken(&lines).contains(&"cache-version"), "{line}: {:?}", broken(&lines));
    }
}

/// No other op reads a selection or a cache, or appends.
#[test]
fn these_are_all() {
    let known: Vec<&str> = READERS.iter().map(|(op, _)| *op).chain(["append", "qkv_append"]).collect();
    let int = |key: &str| (key.to_string(), hyc_ir::Attr::Int(1));
    let float = |key: &str| (key.to_string(), hyc_ir::Attr::Float(1.0));
    let word = |key: &str, word: &str| (key.to_string(), hyc_ir::Attr::Word(word.to_string()));
    let all = [
        int("owner"),
        int("heads"),
        int("dims"),
        int("block"),
        int("kv_heads"),
        int("blocks"),
        int("window"),
        int("active"),
        float("eps"),
        float("theta"),
    ];
    for name in Op::NAMES {
        let modes = [word("mode", "head"), word("gate", "none"), word("epilogue", "store")];
        // Takes of the attributes those that the op has.
        let mut attrs: Vec<_> = all.iter().chain(&modes).cloned().collect();
        let op = loop {
            match Op::from_attrs(name, &attrs) {
                Ok(op) => break op,
                Err(message) => {
                    let unknown =
                        attrs.iter().position(|(key, _)| message.contains(&format!("attribute `{key}`")));
                    attrs.remove(unknown.unwrap_or_else(|| panic!("{name}: {message}")));
                }
            }
        };
        let touches = op
            .roles()
            .takes
            .iter()
            .any(|role| matches!(role.kind, Takes::Selection { .. } | Takes::Cache(_) | Takes::Append));
        // Without keys of its own a projection appends nothing.
        assert_eq!(touches, known.contains(name) && *name != "qkv_append", "{name}");
    }
}
