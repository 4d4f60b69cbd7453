//! Panels of [`Layout::Panels`] in grouped codecs: see [`Panel`] for their order.

use crate::align::PANEL;
use crate::codec::Codec;
use crate::format::Format;
use crate::layout::Layout;
use crate::panel::Panel;
use crate::shared::Shared;

/// The output at a place of an input's codes, and the place of an output: rows and columns of four by four, exchanged.
pub fn exchanged(place: u64) -> u64 {
    4 * (place % 4) + place / 4
}

/// A code as it stands here, and back: symmetric ones of four bits in two's complement, so that they need no eight subtracted.
pub fn stored(codec: Codec, code: u8) -> u8 {
    if matches!(codec, Codec::Int4 { zero: false, .. }) { code ^ 8 } else { code }
}

/// The panel of a row, counted from the beginning, and which of its outputs that is.
pub fn of_row(layout: Layout, row: u64) -> (u64, u64) {
    let Layout::Panels { group, .. } = layout else { return (0, 0) };
    let panel = (row / group) * group.div_ceil(PANEL) + (row % group) / PANEL;
    (panel, row % group % PANEL)
}

/// The byte at which the group of a column begins, and which of its inputs that is.
fn group(format: Format, panel: u64, col: u64) -> (u64, u64) {
    let of = Panel::of(format.codec, format.layout.cols());
    let group = of.group();
    (panel * of.bytes() + col / group * of.group_bytes(group), col % group)
}

/// Where element (`row`, `col`) stands, in codes from the beginning.
pub fn index(format: Format, row: u64, col: u64) -> u64 {
    let (of, (panel, output)) = (Panel::of(format.codec, format.layout.cols()), of_row(format.layout, row));
    let (begin, input) = group(format, panel, col);
    let at = begin + of.shared_bytes() + input * of.input_bytes();
    at * 8 / format.codec.code_bits() + exchanged(output)
}

/// The byte at which what its group shares stands.
pub fn shared_at(format: Format, row: u64, col: u64) -> u64 {
    let (panel, output) = of_row(format.layout, row);
    group(format, panel, col).0 + output * format.codec.shared_bytes()
}

/// Appends the panel of a band of at most 16 rows, whose codes of a byte each stand row by row, with what their groups share;
/// outputs that are missing are zeros.
pub fn arrange(format: Format, codes: &[u8], shared: &[Shared], out: &mut Vec<u8>) {
    let (codec, cols) = (format.codec, format.layout.cols());
    let group = Panel::of(codec, cols).group();
    let (rows, groups) = (codes.len() as u64 / cols, cols.div_ceil(group));
    for (index, first) in (0..groups).zip((0..).step_by(group as usize)) {
        for output in 0..PANEL {
            let bytes = match shared.get((output * groups + index) as usize) {
                Some(shared) if output < rows => codec.shared_to_bytes(*shared),
                _ => [0; 4],
            };
            out.extend(&bytes[..codec.shared_bytes() as usize]);
        }
        for col in first..cols.min(first + group) {
            let code = |place: u64| {
                let code = codes.get((exchanged(place) * cols + col) as usize);
                code.map_or(0, |code| stored(codec, *code))
            };
            match codec {
                Codec::Int4 { .. } => {
                    out.extend((0..PANEL).step_by(2).map(|low| code(low) & 15 | code(low + 1) << 4));
                }
                _ => out.extend((0..PANEL).map(code)),
            }
        }
    }
}
