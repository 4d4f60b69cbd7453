//! A launch that has waited in vain.

use hyc_plan::Hang;

/// What a launch that has waited in vain says of it, in words.
pub(super) fn told(hang: &Hang, names: &[String]) -> String {
    let name = |part: u32| {
        let step = hang.step.wrapping_add(part) as usize;
        names.get(step).cloned().unwrap_or_else(|| format!("step {step}"))
    };
    let awaited = match hang.awaited == hang.part {
        true => "the rest of it by another block".to_string(),
        false => format!("{} of which {} tasks are counted", name(hang.awaited), hang.count),
    };
    format!("a task of {} waited in vain for {awaited} (block {})", name(hang.part), hang.block)
}
