//! `[sampling]`.

use hyc_plan::sampling::{RANGES, Sampling, SamplingDefaults};

use super::keys;
use super::reader::Section;

/// The temperature of a section that says none: the model's own distribution.
const TEMPERATURE: f32 = 1.0;

/// Reads the section; `None` where there is none: such a model is greedy. What is faulty keeps its default.
pub fn read(section: &Section) -> Option<SamplingDefaults> {
    if !section.present() {
        return None;
    }
    let number = |key: &str, default: f32| {
        let Some(range) = RANGES.iter().find(|range| range.key == key) else { return default };
        let example = keys::SAMPLING.key(key).map_or("", |key| key.example);
        section
            .number(key, &range.wanted(), &|x| range.holds(x), example)
            .map_or(default, |at| at.value as f32)
    };
    let d = Sampling::default();
    let sampling = Sampling {
        temperature: number("temperature", TEMPERATURE),
        top_k: number("top_k", d.top_k as f32) as u32,
        top_p: number("top_p", d.top_p),
        min_p: number("min_p", d.min_p),
        repeat_penalty: number("repeat_penalty", d.repeat_penalty),
        presence_penalty: number("presence_penalty", d.presence_penalty),
        frequency_penalty: number("frequency_penalty", d.frequency_penalty),
        penalty_window: number("penalty_window", d.penalty_window as f32) as u32,
    };
    Some(SamplingDefaults { sampling, seed: section.seed("seed", "7") })
}
