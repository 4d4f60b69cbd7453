//! What the fuzz targets share.

pub mod choices;

use hyc_ir::Graph;
use hyc_kernels::cpu::{CpuTarget, Level};
use hyc_kernels::{Generator, Nvidia};
use hyc_plan::{Backend, Gpu, NvidiaArch};

/// Runs the passes by the policy of either back end; a Plan that comes out must verify. Errors are fine.
pub fn compile(graph: &Graph) {
    let gpu = Nvidia::new(Gpu::of(NvidiaArch::Sm90a), Generator::of_anything());
    let backends: [&dyn Backend; 2] = [&CpuTarget { level: Level::V3 }, &gpu];
    for backend in backends {
        let mut graph = graph.clone();
        graph.header.target = backend.target().kind();
        let mut look = |report: &hyc_passes::PassReport<'_>| {
            report.decided.map(|decided| decided.text(report.graph, None));
            true
        };
        if let Ok(compiled) = hyc_passes::run(graph, backend, &mut look) {
            compiled.plan.verify().expect("the passes make valid plans");
            let text = serde_json::to_string(&compiled.plan).expect("a plan is JSON");
            let again = serde_json::from_str(&text).expect("a plan's JSON is a plan");
            assert!(compiled.plan == again, "the plan does not survive its JSON");
        }
    }
}

/// The parts of an artefact's file that a reader has to trust: the tensors' table and the Plan, as two lines
/// of JSON. [`file`] makes a file of them whose version, digests and hash are right, so that damage reaches
/// what is behind those checks.
pub mod artefact {
    use hyc_plan::artefact::{
        ALIGN, HASH_KEY, LEAF, NO_HASH, PLAN_KEY, ROOT_KEY, TREE, VERSION, VERSION_KEY, digest, hex,
    };
    use serde_json::{Map, Value, json};

    /// Most bytes of tensors.
    const MOST: u64 = 1 << 20;

    /// The two lines of an artefact.
    pub fn parts(file: &[u8]) -> Option<String> {
        let length = u64::from_le_bytes(file.get(..8)?.try_into().ok()?) as usize;
        let mut header: Map<String, Value> = serde_json::from_slice(file.get(8..8 + length)?).ok()?;
        let metadata = header.remove("__metadata__")?;
        let plan = metadata.get(PLAN_KEY)?.as_str()?;
        Some(format!("{}\n{plan}", Value::Object(header)))
    }

    /// A file of two lines.
    pub fn file(parts: &str) -> Option<Vec<u8>> {
        let (table, plan) = parts.split_once('\n')?;
        let mut header: Map<String, Value> = serde_json::from_str(table).ok()?;
        let place = |tensor: &Value| {
            let offsets = tensor.get("data_offsets")?.as_array()?;
            let (start, end) = (offsets.first()?.as_u64()?, offsets.get(1)?.as_u64()?);
            (start <= end && end <= MOST).then_some((start as usize, end as usize))
        };
        // The tree's place is wherever the rest ends.
        header.remove(TREE);
        let mut places: Vec<(usize, usize)> = header.values().filter_map(place).collect();
        places.sort_unstable();
        let bytes = places.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let mut data = vec![0u8; bytes];
        let leaves = places.iter().flat_map(|(start, end)| data[*start..*end].chunks(LEAF as usize));
        let tree: Vec<u8> = leaves.flat_map(digest).collect();
        let root = hex(&digest(&tree));
        let end = bytes + tree.len();
        header
            .insert(TREE.into(), json!({"dtype": "U8", "shape": [tree.len()], "data_offsets": [bytes, end]}));
        data.extend_from_slice(&tree);
        let mut text = |hash: &str| {
            let metadata = json!({
                VERSION_KEY: VERSION.to_string(), PLAN_KEY: plan, HASH_KEY: hash, ROOT_KEY: root,
            });
            header.insert("__metadata__".into(), metadata);
            let mut text = Value::Object(header.clone()).to_string();
            let end = (8 + text.len()).next_multiple_of(ALIGN as usize) - 8;
            text.push_str(&" ".repeat(end - text.len()));
            text
        };
        let hash = hex(&digest(text(NO_HASH).as_bytes()));
        let text = text(&hash);
        Some([&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &data].concat())
    }
}
