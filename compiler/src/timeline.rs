//! One decode step of a GPU by the clocks of its blocks: as a Chrome trace, which chrome://tracing and Perfetto show, and as a table
//! of where the time went.
//!
//! A launch begins while the one before it still runs and waits for what that writes. So the time that a launch takes of a step is
//! that from the end of all before it to its own end; what it did before that was hidden.

use hyc_plan::{BlockTimes, Plan};
use hyc_runtime::LaunchTimes;
use serde_json::{Value, json};

use crate::report::table;

/// First and last of what blocks wrote down.
fn range(launch: &LaunchTimes, of: fn(&BlockTimes) -> u64) -> (u64, u64) {
    let all = || launch.blocks.iter().map(of).filter(|time| *time > 0);
    (all().min().unwrap_or(0), all().max().unwrap_or(0))
}

/// A launch on the clock of its step, in nanoseconds from the step's begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// The first block begins, and the last.
    begin: (u64, u64),
    /// The last block has its inputs.
    inputs: u64,
    /// The first block ends, and the last.
    end: (u64, u64),
    /// When all launches before it had ended.
    before: u64,
}

fn spans(launches: &[LaunchTimes]) -> Vec<Span> {
    let zero =
        launches.iter().map(|launch| range(launch, |b| b.begin).0).filter(|t| *t > 0).min().unwrap_or(0);
    let since = |(a, b): (u64, u64)| (a.saturating_sub(zero), b.saturating_sub(zero));
    let mut before = 0;
    let span = |launch: &LaunchTimes| {
        let begin = since(range(launch, |b| b.begin));
        let end = since(range(launch, |b| b.end));
        // One that never waits has its inputs when it begins.
        let inputs = since(range(launch, |b| b.inputs)).1.max(begin.0);
        let span = Span { begin, inputs, end, before };
        before = before.max(end.1);
        span
    };
    launches.iter().map(span).collect()
}

/// The trace: an event a launch, from its first block's begin to its last one's end, and below it the part that was not hidden.
pub fn trace(plan: &Plan, launches: &[LaunchTimes]) -> Value {
    let us = |ns: u64| ns as f64 / 1e3;
    let mut events = Vec::new();
    for (i, (launch, span)) in launches.iter().zip(spans(launches)).enumerate() {
        let step = &plan.steps[launch.step];
        let from = span.before.max(span.begin.0);
        let args = json!({
            "function": launch.function, "blocks": launch.blocks.len(), "step": launch.step, "layer": step.layer,
            "blocks begin": [us(span.begin.0), us(span.begin.1)], "inputs there": us(span.inputs),
            "blocks end": [us(span.end.0), us(span.end.1)],
        });
        // Launches overlap: three rows have them in turns, below the row of what each took.
        let event = |tid: usize, from: u64, to: u64| {
            json!({
                "name": step.name, "cat": launch.function, "ph": "X", "ts": us(from), "dur": us(to.saturating_sub(from)),
                "pid": 1, "tid": tid, "args": args,
            })
        };
        events.push(event(0, from, span.end.1.max(from)));
        events.push(event(1 + i % 3, span.begin.0, span.end.1));
    }
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}

/// What the launches of one function took, and the bytes that their steps must read.
struct Row {
    function: String,
    launches: u64,
    taken: u64,
    /// From the end of all before to the last block's inputs; from the first block's end to the last one's.
    waiting: u64,
    ending: u64,
    bytes: f64,
}

/// A line for each function: how long its launches were what the step waited for, most first. `bytes`: of each step.
pub fn summary(launches: &[LaunchTimes], bytes: &dyn Fn(usize) -> f64) -> String {
    let mut rows: Vec<Row> = Vec::new();
    for (launch, span) in launches.iter().zip(spans(launches)) {
        let at = rows.iter().position(|row| row.function == launch.function).unwrap_or_else(|| {
            let function = launch.function.clone();
            rows.push(Row { function, launches: 0, taken: 0, waiting: 0, ending: 0, bytes: 0.0 });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.launches += 1;
        row.taken += span.end.1.saturating_sub(span.before);
        row.waiting += span.inputs.saturating_sub(span.before);
        row.ending += span.end.1.saturating_sub(span.end.0.max(span.before));
        row.bytes += bytes(launch.step);
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.taken));
    let all: u64 = rows.iter().map(|row| row.taken).sum();
    let line = |row: &Row| {
        let us = |ns: u64| format!("{:.2}", ns as f64 / row.launches as f64 / 1e3);
        let rate = if row.taken > 0 { row.bytes / row.taken as f64 } else { 0.0 };
        vec![
            row.function.clone(),
            row.launches.to_string(),
            us(row.taken),
            us(row.waiting),
            us(row.ending),
            format!("{:.1} %", 100.0 * row.taken as f64 / all.max(1) as f64),
            format!("{rate:.0}"),
        ]
    };
    let header = ["function", "launches", "us each", "until inputs", "ending", "of all", "GB/s"];
    let note = format!(
        "{:.3} ms; us from the end of all before a launch to its own end, until its last block had its inputs, and from its \
         first block's end to its last one's\n",
        all as f64 / 1e6
    );
    table(&header, &rows.iter().map(line).collect::<Vec<_>>()) + &note
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(function: &str, blocks: &[(u64, u64, u64)]) -> LaunchTimes {
        let block = |(begin, inputs, end): &(u64, u64, u64)| BlockTimes {
            begin: *begin,
            inputs: *inputs,
            end: *end,
            multiprocessor: 0,
        };
        LaunchTimes { step: 0, function: function.to_string(), blocks: blocks.iter().map(block).collect() }
    }

    #[test]
    fn what_a_launch_takes_is_what_it_did_not_hide() {
        let launches = [
            launch("a", &[(1000, 1100, 3000), (1500, 1600, 2500)]),
            // It began while the first ran, and waited for it.
            launch("b", &[(2600, 3200, 4000)]),
            // It never waits, and ends before what is before it.
            launch("c", &[(2700, 0, 2900)]),
        ];
        let spans = spans(&launches);
        let expected = Span { begin: (1600, 1600), inputs: 2200, end: (3000, 3000), before: 2000 };
        assert_eq!(spans[1], expected);
        assert_eq!((spans[0].begin, spans[0].end, spans[0].before), ((0, 500), (1500, 2000), 0));
        assert_eq!((spans[2].inputs, spans[2].before), (1700, 3000));
        let text = summary(&launches, &|_| 2000.0);
        let of = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_string();
        assert!(of("a").contains("2.00") && of("b").contains("1.00") && of("c").contains("0.00"), "{text}");
        assert!(text.contains("0.003 ms"), "{text}");
    }
}
