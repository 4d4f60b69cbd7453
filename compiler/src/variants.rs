//! What `hyc inspect MODEL kernels` says: of each kernel its variants, what is predicted and measured of them, and which
//! was chosen for which rows, and why.

use hyc_ir::text::Layers;
use hyc_kernels::table;
use hyc_plan::variant::why;
use hyc_plan::{Kernel, KernelSpec, NvidiaArch, Plan, Rows, Step, Target, Variant};
use serde_json::{Value, json};

use crate::report::table as columns;

/// Tokens of each sequence that times are predicted for where nothing was measured, if the model takes so many.
const CONTEXT: u64 = 8192;

/// A kernel with the steps that it runs.
struct Described<'p> {
    kernel: &'p Kernel,
    spec: KernelSpec,
    steps: usize,
    /// The layers of those steps.
    layers: Option<Layers>,
    /// A GPU's, whose times can be predicted.
    arch: Option<NvidiaArch>,
    context: u64,
}

fn described(plan: &Plan) -> Vec<Described<'_>> {
    let arch = match &plan.target {
        Target::Host { .. } => None,
        Target::Nvidia(gpu) => Some(gpu.arch),
    };
    let describe = |(index, kernel)| {
        let own: Vec<&Step> = plan.steps.iter().filter(|step| step.kernel.index() == index).collect();
        let kernel: &Kernel = kernel;
        let measured = kernel.variants.iter().map(|v| v.context).find(|context| *context > 0);
        let context = measured.unwrap_or(CONTEXT.min(plan.model.max_context));
        let layers = Layers::of(own.iter().filter_map(|step| step.layer));
        Some(Described { kernel, spec: plan.spec(own.first()?), steps: own.len(), layers, arch, context })
    };
    plan.kernels.iter().enumerate().filter_map(describe).collect()
}

impl Described<'_> {
    /// Numbers of rows that times are shown for: the ends of the ranges, and the fewest.
    fn counts(&self) -> Vec<u64> {
        let ends = self.kernel.chosen.iter().map(|chosen| chosen.rows.most);
        let mut counts: Vec<u64> = std::iter::once(1).chain(ends).collect();
        counts.dedup();
        counts
    }

    fn predicted_us(&self, variant: &Variant, rows: u64) -> Option<f64> {
        let arch = self.arch.filter(|_| variant.rows.contains(rows))?;
        Some(variant.predicted_ns(&self.spec, arch, rows, self.context) as f64 / 1e3)
    }

    fn text(&self) -> String {
        let Described { kernel, steps, .. } = self;
        let layers = self.layers.as_ref().map(|layers| format!(", {}", layers.named())).unwrap_or_default();
        let steps = format!("{steps} step{}{layers}", if *steps == 1 { "" } else { "s" });
        if let [only] = kernel.variants.as_slice() {
            return format!("{} ({steps}): {}\n", kernel.name, only.name);
        }
        let rows = match kernel.rows {
            Rows::Tokens => "tokens",
            Rows::Outputs => "rows of logits",
        };
        let mut out = format!("{} ({steps}), by {rows}\n", kernel.name);
        let chosen = kernel.chosen.iter().map(|chosen| {
            vec![chosen.rows.to_string(), chosen.variant.clone(), why(&kernel.variants, chosen)]
        });
        out.push_str(&columns(&["rows", "variant", "why"], &chosen.collect::<Vec<_>>()));
        let counts = self.counts();
        let head: Vec<String> = counts.iter().map(|count| format!("at {count}")).collect();
        let header: Vec<&str> =
            ["variant", "rows", "functions"].into_iter().chain(head.iter().map(String::as_str)).collect();
        let lines = kernel.variants.iter().map(|variant| {
            let cell = |rows: &u64| {
                let shown = |us: f64| format!("{us:.1}");
                let measured = variant.ns(*rows).map(|ns| format!(" / {}", shown(ns as f64 / 1e3)));
                self.predicted_us(variant, *rows).map_or("-".into(), shown) + &measured.unwrap_or_default()
            };
            let fixed = [variant.name.clone(), variant.rows.to_string(), variant.launches.to_string()];
            fixed.into_iter().chain(counts.iter().map(cell)).collect()
        });
        out.push_str(&columns(&header, &lines.collect::<Vec<_>>()));
        let measured = kernel.variants.iter().any(|variant| !variant.measured.is_empty());
        out.push_str(&format!(
            "us of a step of so many rows, at {} tokens of context: the least possible{}\n",
            self.context,
            if measured { " / measured" } else { "" }
        ));
        if kernel.variants.iter().any(|variant| variant.stale) {
            out.push_str("what was measured of other code under these names was not used\n");
        }
        out
    }

    fn json(&self) -> Value {
        let Described { kernel, steps, context, .. } = self;
        let variant = |variant: &Variant| {
            let predicted = self.counts().into_iter().filter_map(|rows| {
                let us = self.predicted_us(variant, rows)?;
                Some(json!({ "rows": rows, "us": us }))
            });
            json!({
                "name": variant.name, "rows": variant.rows, "usual": variant.usual, "functions": variant.launches,
                "code": variant.code, "stale": variant.stale, "measured": variant.measured,
                "predicted": predicted.collect::<Vec<_>>(),
            })
        };
        let chosen = kernel.chosen.iter().map(|chosen| {
            json!({ "rows": chosen.rows, "variant": chosen.variant, "why": why(&kernel.variants, chosen) })
        });
        json!({
            "name": kernel.name, "spec": table::key(&self.spec), "steps": steps,
            "layers": self.layers.iter().flat_map(Layers::iter).collect::<Vec<_>>(), "context": context, "by": kernel.rows,
            "chosen": chosen.collect::<Vec<_>>(), "variants": kernel.variants.iter().map(variant).collect::<Vec<_>>(),
        })
    }
}

/// For people: kernels with several variants first.
pub fn text(plan: &Plan) -> String {
    let (several, single): (Vec<_>, Vec<_>) =
        described(plan).into_iter().partition(|described| described.kernel.variants.len() > 1);
    let several = several.iter().map(|described| described.text() + "\n");
    several.chain(single.iter().map(Described::text)).collect()
}

/// For programs.
pub fn json(plan: &Plan) -> Value {
    json!({ "kernels": described(plan).iter().map(Described::json).collect::<Vec<_>>() })
}
