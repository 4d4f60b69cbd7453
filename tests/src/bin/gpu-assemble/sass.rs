//! SASS as nvdisasm prints it, and what is wrong with it.

use std::collections::BTreeMap;

/// An instruction without its predicate, and what it says to the scoreboards of its warp.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Code {
    pub text: String,
    pub predicated: bool,
    /// A bit for each of six scoreboards that are waited for before it.
    pub waits: u8,
    /// The scoreboard that says when its result is there.
    pub sets: Option<usize>,
}

/// A function: instructions, and where labels stand among them.
#[derive(Debug, Default)]
pub struct Sass {
    pub codes: Vec<Code>,
    pub labels: BTreeMap<String, usize>,
}

/// Reads what `nvdisasm --print-code --print-instruction-encoding` prints: two lines an instruction, the second with the upper half of
/// its encoding alone.
pub fn read(text: &str) -> BTreeMap<String, Sass> {
    let mut functions: BTreeMap<String, Sass> = BTreeMap::new();
    let mut current: Option<&mut Sass> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            current = Some(functions.entry(name.to_string()).or_default());
        }
        let Some(function) = &mut current else { continue };
        if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with('.')) {
            function.labels.insert(label.to_string(), function.codes.len());
        }
        let Some((before, rest)) = line.split_once("*/") else { continue };
        let code = rest.split(';').next().unwrap_or("").trim();
        if code.is_empty() {
            if let (Some(last), Some(upper)) = (function.codes.last_mut(), encoding(before)) {
                last.control(upper);
            }
            continue;
        }
        // A predicate stands before the opcode.
        let predicated = code.starts_with('@');
        let text = if predicated { code.split_once(' ').map_or("", |(_, rest)| rest.trim()) } else { code };
        function.codes.push(Code { text: text.to_string(), predicated, ..Code::default() });
    }
    functions
}

/// The number in `/* 0x... `.
fn encoding(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("/*")?.trim().strip_prefix("0x")?, 16).ok()
}

impl Code {
    /// Takes the scoreboards out of the upper half of an encoding: from bit 41 on four bits of stall and one of yield, three each of the
    /// scoreboards that a result and an operand set (7: none), six of those waited for. NVIDIA does not publish it (Jia et al.,
    /// "Dissecting the NVIDIA Volta GPU architecture via microbenchmarking", section 2.1, says it of Volta; it still holds).
    fn control(&mut self, upper: u64) {
        let bits = upper >> 41;
        self.sets = Some((bits >> 5 & 7) as usize).filter(|board| *board < 6);
        self.waits = (bits >> 11 & 63) as u8;
    }

    /// Whether it lets others write over what the warp has read: an arrival at a barrier in shared memory (those that announce
    /// bytes complete nothing before their copies do), or a copy.
    fn gives(&self) -> bool {
        self.text.starts_with("UBLKCP") || self.text.starts_with("SYNCS.ARRIVE") && self.text.contains("A1T0")
    }

    /// The label it may go to, and whether it may go on to the next.
    fn goes(&self) -> (Option<&str>, bool) {
        let label = self.text.split_once("`(").and_then(|(_, rest)| rest.strip_suffix(')'));
        let ends = ["EXIT", "RET"].iter().any(|op| self.text.starts_with(op));
        let jumps = self.text.starts_with("BRA `");
        let label = label.filter(|_| !self.text.starts_with("BSSY"));
        (label, self.predicated || !(ends || jumps))
    }
}

impl Sass {
    /// Whether one of these opcodes is in it.
    pub fn has(&self, names: &[&str]) -> bool {
        self.codes.iter().any(|code| names.iter().any(|name| code.text.starts_with(name)))
    }

    /// What is wrong with the softmax of an attention whose products are started and waited for apart: its exponentials
    /// have to stand between the wait that leaves a product under way and the wait for that one. The first step's have no
    /// product to lie under: they are about half of the text.
    pub fn exposed(&self) -> Option<String> {
        let (mut all, mut under, mut left) = (0, 0, false);
        for Code { text: code, .. } in &self.codes {
            if code.starts_with("WARPGROUP.DEPBAR") {
                left = !code.ends_with("0x0");
            }
            if code.starts_with("MUFU.EX2") {
                all += 1;
                under += usize::from(left);
            }
        }
        (5 * under < 2 * all).then(|| format!("{under} of {all} exponentials lie under a product"))
    }

    /// What is wrong with warp groups that exchange registers (`setmaxnreg`): those that take some would wait forever where those
    /// that give, each of which says so once, leave too few. A block has as many as it began with.
    pub fn unpaid(&self, registers: u64, threads: u64) -> Option<String> {
        let asked = |op: &str| -> Vec<u64> {
            let codes = self.codes.iter().map(|code| &code.text).filter(|code| code.starts_with(op));
            codes.filter_map(|code| u64::from_str_radix(code.rsplit("0x").next()?.trim(), 16).ok()).collect()
        };
        let (taken, left) = (*asked("USETMAXREG.TRY_ALLOC").first()?, asked("USETMAXREG.DEALLOC"));
        let takers = threads.saturating_sub(128 * left.len() as u64);
        let wanted = taken * takers + left.iter().map(|left| 128 * left).sum::<u64>();
        let there = registers.next_multiple_of(8) * threads;
        (wanted > there).then(|| format!("{wanted} are shared out of {there}: a warp group waits forever"))
    }

    /// What is wrong with an order of loads and arrivals: an arrival is not behind loads of shared memory whose results nobody has
    /// waited for. What it lets come may overwrite what they are to read; products of strips had wrong columns by it.
    /// Barriers of a block are not looked at: in no kernel does a copy follow one that is to write where loads before it read, and
    /// loads and stores of shared memory are done in the order of their issue.
    pub fn overtakes(&self) -> Option<String> {
        // The loads that may be under way before each instruction, a scoreboard each: those of all ways to it.
        let mut under: Vec<Option<[Option<usize>; 6]>> = vec![None; self.codes.len()];
        let mut open = vec![(0, [None; 6])];
        while let Some((at, loads)) = open.pop() {
            let Some(code) = self.codes.get(at) else { continue };
            let before = under[at].unwrap_or_default();
            let all = std::array::from_fn(|board| before[board].or(loads[board]));
            if under[at].replace(all) == Some(all) {
                continue;
            }
            let mut after: [Option<usize>; 6] =
                std::array::from_fn(|board| all[board].filter(|_| code.waits >> board & 1 == 0));
            if let (true, Some(board)) = (code.text.starts_with("LDS"), code.sets) {
                after[board] = Some(at);
            }
            let (label, next) = code.goes();
            open.extend(label.and_then(|label| self.labels.get(label)).map(|to| (*to, after)));
            open.extend(next.then_some((at + 1, after)));
        }
        let each = self.codes.iter().zip(&under).filter(|(code, _)| code.gives());
        let found = each.flat_map(|(code, loads)| {
            let left = |board: &usize| code.waits >> board & 1 == 0;
            let loads = loads.unwrap_or_default();
            let first = (0..6).filter(left).find_map(|board| loads[board]);
            first.map(|load| (code, &self.codes[load]))
        });
        let found: Vec<_> = found.collect();
        let (code, load) = found.first()?;
        Some(format!("`{}` does not wait for `{}`, nor do {} more", code.text, load.text, found.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::{Sass, read};

    /// A function of instructions, with the scoreboards that they wait for and set.
    fn function(codes: &[(&str, u8, Option<u64>)]) -> Sass {
        let mut text = String::from(".text.k:\n");
        for (code, waits, sets) in codes {
            if code.ends_with(':') {
                text += &format!("{code}\n");
                continue;
            }
            let upper = (u64::from(*waits) << 11 | sets.unwrap_or(7) << 5) << 41;
            text += &format!("  /*0000*/  {code} ;  /* 0x0000000000007919 */\n  /* {upper:#018x} */\n");
        }
        read(&text).remove("k").expect("there is one")
    }

    fn plain(codes: &[&str]) -> Sass {
        function(&codes.iter().map(|code| (*code, 0, None)).collect::<Vec<_>>())
    }

    #[test]
    fn reads_instructions_behind_predicates() {
        let read =
            function(&[("@!P2 STS [R21], R0", 0b100, Some(3)), (".L_x_1:", 0, None), ("NOP", 0, None)]);
        let [store, nop] = &read.codes[..] else { panic!("{read:?}") };
        assert_eq!(
            (store.text.as_str(), store.predicated, store.waits, store.sets),
            ("STS [R21], R0", true, 4, Some(3))
        );
        assert_eq!((nop.text.as_str(), nop.predicated, nop.waits, nop.sets), ("NOP", false, 0, None));
        assert_eq!(read.labels[".L_x_1"], 1);
    }

    #[test]
    fn arrivals_wait_for_loads() {
        let load = ("LDS.128 R12, [R19]", 0, Some(2));
        let arrival = |waits| ("@!P0 SYNCS.ARRIVE.TRANS64.A1T0 RZ, [R41+URZ+0x60], RZ", waits, None);
        let expects = ("SYNCS.ARRIVE.TRANS64 RZ, [R40+URZ], R9", 0, None);
        let multiplies = ("HMMA.16816.F32.BF16 R4, R12, R2, R4", 0b100, None);
        let why = function(&[load, expects, arrival(0b1011)]).overtakes();
        let all = "`SYNCS.ARRIVE.TRANS64.A1T0 RZ, [R41+URZ+0x60], RZ` does not wait for `LDS.128 R12, [R19]`, nor do 0 more";
        assert_eq!(why.as_deref(), Some(all));
        assert_eq!(function(&[load, arrival(0b100)]).overtakes(), None);
        assert_eq!(function(&[load, multiplies, arrival(0)]).overtakes(), None);
        let copy = ("UBLKCP.S.G [UR8], [UR4], UR9", 0, None);
        assert!(function(&[load, copy]).overtakes().is_some());
    }

    #[test]
    fn loads_are_under_way_past_branches() {
        let load = ("LDS R12, [R19]", 0, Some(0));
        let arrival = ("SYNCS.ARRIVE.TRANS64.A1T0 RZ, [R4], RZ", 0, None);
        let (here, out) = ((".L_x_1:", 0, None), (".L_x_2:", 0, None));
        let (back, over) = (("@P0 BRA `(.L_x_1)", 0, None), ("@P1 BRA `(.L_x_2)", 0, None));
        // Of the turn before; past an arm that waits.
        assert!(function(&[here, arrival, load, back]).overtakes().is_some());
        let waits = ("IADD3 R1, R12, R12, RZ", 1, None);
        assert_eq!(function(&[here, arrival, load, waits, back]).overtakes(), None);
        assert!(function(&[load, over, waits, out, arrival]).overtakes().is_some());
        // No way leads there.
        assert_eq!(function(&[load, ("BRA `(.L_x_2)", 1, None), arrival, out, arrival]).overtakes(), None);
    }

    #[test]
    fn registers_that_are_shared_out_are_there() {
        let exchange = |taken: u64| {
            let taken = format!("USETMAXREG.TRY_ALLOC.CTAPOOL UP0, {taken:#x}");
            plain(&[&taken, "USETMAXREG.DEALLOC.CTAPOOL 0x18"])
        };
        assert_eq!(exchange(160).unpaid(128, 512), None);
        // Four groups and one that copies: it hung on the card.
        let why = exchange(120).unpaid(96, 640).unwrap();
        assert!(why.starts_with("64512 are shared out of 61440"), "{why}");
        assert_eq!(plain(&[]).unpaid(168, 384), None);
    }

    #[test]
    fn exponentials_lie_under_a_product() {
        let [one, none] = ["WARPGROUP.DEPBAR.LE gsb0, 0x1", "WARPGROUP.DEPBAR.LE gsb0, 0x0"];
        let ex2 = "MUFU.EX2 R1, R1";
        assert_eq!(plain(&[none, ex2, one, ex2, none]).exposed(), None);
        let why = plain(&[none, ex2, one, none, ex2]).exposed();
        assert_eq!(why.as_deref(), Some("0 of 2 exponentials lie under a product"));
    }
}
