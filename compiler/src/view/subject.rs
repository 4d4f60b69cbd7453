//! What a page is made of.

use std::collections::HashMap;

use hyc_ir::Graph;
use hyc_plan::Plan;

/// A model at its way from the input to the plan.
pub struct Subject {
    /// What it was read from: `description`, `dump`, `artefact`.
    pub source: &'static str,
    /// The graph at the input, and after each pass that rewrites; the last one is what was scheduled.
    pub stages: Vec<Stage>,
    /// The plan.
    pub plan: Plan,
    /// The kernels' code as text, by the kernels' names.
    pub code: HashMap<String, String>,
}

/// The graph behind one pass.
pub struct Stage {
    /// The pass; `input` for what was read.
    pub name: &'static str,
    /// Rewrites that the pass made.
    pub changes: usize,
    /// The graph after it.
    pub graph: Graph,
}

impl Subject {
    /// The graph that was scheduled. Panics where there is no stage: a subject has its input.
    pub fn graph(&self) -> &Graph {
        &self.stages[self.stages.len() - 1].graph
    }
}

/// Splits a disassembly, in which a line `NAME:` begins each kernel's, by kernels.
pub fn host_code(plan: &Plan, text: &str) -> HashMap<String, String> {
    let names: HashMap<String, &str> =
        plan.kernels.iter().map(|kernel| (format!("{}:", kernel.name), kernel.name.as_str())).collect();
    let mut code: HashMap<String, String> = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = names.get(line) {
            current = Some(*name);
        } else if let Some(name) = current {
            let body = code.entry(name.to_string()).or_default();
            body.push_str(line);
            body.push('\n');
        }
    }
    code
}

/// Splits PTX by kernels: a kernel's functions stand together.
pub fn gpu_code(plan: &Plan, text: &str) -> HashMap<String, String> {
    let functions = functions(text);
    let of = |kernel: &hyc_plan::Kernel| {
        let parts = kernel.launches().iter().filter_map(|launch| functions.get(launch.entry.as_str()));
        let text: String = parts.map(|part| format!("{ENTRY}{}\n\n", part.trim_end())).collect();
        (!text.is_empty()).then(|| (kernel.name.clone(), text))
    };
    plan.kernels.iter().filter_map(of).collect()
}

/// What begins a function of PTX.
const ENTRY: &str = ".visible .entry ";

/// The functions of PTX by their names, each without what begins it.
fn functions(text: &str) -> HashMap<&str, &str> {
    let parts = text.split(ENTRY).skip(1);
    parts.filter_map(|part| Some((part.split(['(', '\n']).next()?.trim(), part))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_apart() {
        let text = ".version 8.7\n.visible .entry add(\n)\n{ ret; }\n.visible .entry mul\n(\n)\n{ }\n";
        let found = functions(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found["add"], "add(\n)\n{ ret; }\n");
        assert!(found["mul"].ends_with("{ }\n"));
    }
}
