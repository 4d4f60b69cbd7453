//! Weights made up at load, to measure the speed of a model whose weights nobody has.
//!
//! One block of normal noise serves all weights: each begins at a place of its own in it and takes what follows,
//! over and over. So a model of any size costs the time of copying it and little memory. What matters of the
//! values is that activations keep their size: a matrix has variance 1 / input features, norm weights are 1,
//! sinks are small.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyc_plan::pack::{Half, Packer, Panel, pack};
use hyc_plan::{Codec, Format, Layout, PANEL, SPAN, STRIP, TILE, Weight};

use crate::error::Result;

/// Most elements of the block: 64 MiB of f32, far more than any cache that could make copies look fast.
const MOST: u64 = 16 << 20;
/// Most numbers of records that are packed: to find four-bit codes takes its time.
const MOST_PACKED: u64 = 4 << 20;
/// Deviation of sinks: beside logits of about 1 they take a small share.
const SINK: f32 = 0.1;

/// The noise as bytes, by the codec, by the record that it is packed in, and by the bits of its deviation.
type Scaled = HashMap<(Codec, Option<Record>, u32), Arc<Vec<u8>>>;

/// The noise of a seed.
pub struct RandomWeights {
    seed: u64,
    /// Standard normal.
    noise: Vec<f32>,
    scaled: Mutex<Scaled>,
}

/// What a weight's elements are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Values {
    Ones,
    /// Normal, of this deviation.
    Normal(f32),
}

fn values(weight: &Weight) -> Values {
    let of = |in_features: u64| Values::Normal(1.0 / (in_features as f32).sqrt());
    match weight.format.layout {
        Layout::Vector { .. } if weight.name.contains("sink") => Values::Normal(SINK),
        Layout::Vector { .. } => Values::Ones,
        Layout::Rows { cols, .. } => of(cols),
        Layout::Panels { in_features, .. }
        | Layout::Tiles { in_features, .. }
        | Layout::Strips { in_features, .. } => of(in_features),
    }
}

/// Numbers that stand together with what they share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Record {
    /// Of [`Layout::Strips`].
    Strip,
    /// Of [`Layout::Panels`], with so many input features.
    Panel(u64),
}

impl Record {
    /// So many records one after the other.
    fn layout(self, records: u64) -> Layout {
        match self {
            Record::Strip => Layout::Strips { count: 1, out_features: STRIP * records, in_features: SPAN },
            Record::Panel(in_features) => {
                let out_features = PANEL * records;
                Layout::Panels { count: 1, out_features, in_features, group: out_features }
            }
        }
    }
}

/// What may stand anywhere in a weight, where there is such: a number that shares no scale, or a record. No zeros, which
/// kernels rely on, stand between them.
struct Unit {
    record: Option<Record>,
    bytes: u64,
    numbers: u64,
}

impl Unit {
    fn of(format: Format) -> Option<Unit> {
        let codec = format.codec;
        let padded = match format.layout {
            Layout::Vector { .. } | Layout::Rows { .. } => false,
            Layout::Panels { group, .. } => group % PANEL != 0,
            Layout::Tiles { out_features: out, in_features, .. } => {
                out % TILE != 0 || in_features % TILE != 0
            }
            Layout::Strips { out_features: out, in_features, .. } => {
                out % STRIP != 0 || in_features % SPAN != 0
            }
        };
        let unit = match (format.layout, codec.group()) {
            (Layout::Strips { .. }, _) => {
                let record = Some(Record::Strip);
                Unit { record, bytes: 2 * Half::of(codec).bytes(), numbers: STRIP * SPAN }
            }
            (_, None) => Unit { record: None, bytes: codec.code_bytes(1), numbers: 1 },
            (Layout::Panels { in_features, .. }, _) => {
                let (record, bytes) =
                    (Some(Record::Panel(in_features)), Panel::of(codec, in_features).bytes());
                Unit { record, bytes, numbers: PANEL * in_features }
            }
            (_, Some(_)) => return None,
        };
        (!padded).then_some(unit)
    }
}

/// One step of splitmix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Nearly a standard normal: the sum of four uniforms, scaled to variance 1.
fn normal(state: &mut u64) -> f32 {
    let z = mix(state);
    let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xffff).sum();
    (sum as f32 / 65535.0 - 2.0) * 3.0f32.sqrt()
}

impl RandomWeights {
    /// The noise of `seed` for a plan's weights.
    pub fn new(seed: u64, weights: &[Weight]) -> RandomWeights {
        let most = weights.iter().map(|weight| weight.format.layout.elements()).max().unwrap_or(1).min(MOST);
        let mut state = seed;
        RandomWeights {
            seed,
            noise: (0..most).map(|_| normal(&mut state)).collect(),
            scaled: Mutex::default(),
        }
    }

    /// Where a weight begins in the noise.
    fn start(&self, weight: &Weight) -> usize {
        let mut state = weight.name.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        (mix(&mut state) % self.noise.len() as u64) as usize
    }

    /// The noise of this deviation, as it is stored: numbers, or records.
    fn block(&self, codec: Codec, unit: &Unit, deviation: f32) -> Arc<Vec<u8>> {
        let mut scaled = self.scaled.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            if let Some(record) = unit.record {
                let layout =
                    record.layout(((self.noise.len() as u64).min(MOST_PACKED) / unit.numbers).max(1));
                let numbers =
                    (0..layout.elements() as usize).map(|i| self.noise[i % self.noise.len()] * deviation);
                return Arc::new(pack(Format { codec, layout }, &numbers.collect::<Vec<f32>>()));
            }
            let mut bytes = Vec::with_capacity(codec.code_bytes(self.noise.len() as u64) as usize);
            for piece in self.noise.chunks(1 << 16) {
                let piece: Vec<f32> = piece.iter().map(|x| x * deviation).collect();
                codec.encode(&piece, &mut bytes);
            }
            Arc::new(bytes)
        };
        scaled.entry((codec, unit.record, deviation.to_bits())).or_insert_with(make).clone()
    }

    /// The packed bytes of a weight in order, in pieces of at most `most` (at least 64 KiB).
    pub fn pieces(
        &self,
        weight: &Weight,
        most: usize,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let most = most.max(1 << 16);
        match values(weight) {
            Values::Ones => {
                let ones = vec![1.0; weight.format.layout.elements() as usize];
                let bytes = pack(weight.format, &ones);
                bytes.chunks(most).try_for_each(sink)
            }
            Values::Normal(deviation) => {
                let Some(unit) = Unit::of(weight.format) else {
                    return self
                        .packed(weight, deviation, &mut |bytes| bytes.chunks(most).try_for_each(&mut *sink));
                };
                let block = self.block(weight.format.codec, &unit, deviation);
                let start = self.start(weight) as u64 / unit.numbers * unit.bytes;
                let mut at = (start % block.len() as u64) as usize;
                let mut left = weight.bytes();
                while left > 0 {
                    let count = (most.min(block.len() - at) as u64).min(left) as usize;
                    sink(&block[at..at + count])?;
                    at = (at + count) % block.len();
                    left -= count as u64;
                }
                Ok(())
            }
        }
    }

    /// The same of a weight that is packed, some rows at a time.
    fn packed(
        &self,
        weight: &Weight,
        deviation: f32,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (start, len) = (self.start(weight), self.noise.len());
        let (layout, mut packer) = (weight.format.layout, Packer::new(weight.format));
        let mut packed = Vec::new();
        for (first, rows) in layout.bands() {
            let at = start + (first * layout.cols()) as usize;
            let numbers = at..at + (rows * layout.cols()) as usize;
            let data: Vec<f32> = numbers.map(|i| self.noise[i % len] * deviation).collect();
            packer.push(&data, &mut packed);
            sink(&packed)?;
            packed.clear();
        }
        packer.finish(&mut packed);
        sink(&packed)
    }
}

#[cfg(test)]
mod tests {
    use hyc_plan::pack::load_row;

    use super::*;

    fn weight(name: &str, codec: Codec, layout: Layout) -> Weight {
        Weight { name: name.into(), shape: vec![], format: Format { codec, layout } }
    }

    fn bytes(random: &RandomWeights, weight: &Weight, most: usize) -> Vec<u8> {
        let mut all = Vec::new();
        random
            .pieces(weight, most, &mut |piece| {
                assert!(!piece.is_empty() && piece.len() <= most.max(1 << 16));
                all.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert_eq!(all.len() as u64, weight.bytes(), "{}", weight.name);
        all
    }

    #[test]
    fn padding_is_zero_and_elements_are_packed() {
        let panels =
            |out, in_features, group| Layout::Panels { count: 2, out_features: out, in_features, group };
        let tiles = |out, in_features| Layout::Tiles { count: 2, out_features: out, in_features };
        let list = [
            weight("a", Codec::F32, panels(40, 5, 20)),
            weight("b", Codec::Bf16, panels(7, 33, 7)),
            weight("c", Codec::Bf16, tiles(70, 64)),
            weight("d", Codec::Bf16, tiles(64, 100)),
        ];
        let random = RandomWeights::new(7, &list);
        for weight in &list {
            let (rows, in_features) = match weight.format.layout {
                Layout::Panels { count, out_features: out, in_features, .. }
                | Layout::Tiles { count, out_features: out, in_features } => (count * out, in_features),
                _ => unreachable!(),
            };
            let deviation = 1.0 / (in_features as f32).sqrt();
            let start = random.start(weight);
            let data: Vec<f32> = (0..(rows * in_features) as usize)
                .map(|i| random.noise[(start + i) % random.noise.len()] * deviation)
                .collect();
            assert_eq!(bytes(&random, weight, 1 << 20), pack(weight.format, &data));
        }
    }

    #[test]
    fn deviations_follow_the_width_and_pieces_make_no_difference() {
        let tiles =
            weight("wq", Codec::Bf16, Layout::Tiles { count: 1, out_features: 512, in_features: 256 });
        let head = weight(
            "head",
            Codec::F32,
            Layout::Panels { count: 1, out_features: 1024, in_features: 64, group: 1024 },
        );
        let norm = weight("attn_norm.weight", Codec::F32, Layout::Vector { len: 9 });
        let sink = weight("sink", Codec::F32, Layout::Vector { len: 4096 });
        let strips = Layout::Strips { count: 2, out_features: 512, in_features: 256 };
        let experts = weight("experts", Codec::Int4 { group: 64, zero: false }, strips);
        let panels = Layout::Panels { count: 2, out_features: 512, in_features: 256, group: 64 };
        let up = weight("up", Codec::Int4 { group: 100, zero: true }, panels);
        let list = [tiles, head, norm, sink, experts, up];
        let random = RandomWeights::new(1, &list);
        for (weight, deviation) in list.iter().zip([1.0 / 16.0, 1.0 / 8.0, 0.0, SINK, 1.0 / 16.0, 1.0 / 16.0])
        {
            let all = bytes(&random, weight, 1 << 30);
            assert_eq!(all, bytes(&random, weight, 1 << 16));
            assert_eq!(all, bytes(&RandomWeights::new(1, &list), weight, 1 << 18));
            let layout = weight.format.layout;
            let rows: u64 = layout.bands().map(|(_, rows)| rows).sum();
            let values: Vec<f64> = (0..rows)
                .flat_map(|row| load_row(weight.format, &all, row, layout.cols()))
                .map(f64::from)
                .collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((variance.sqrt() - f64::from(deviation)).abs() < 0.05 * f64::from(deviation) + 1e-9);
            assert_eq!(values.iter().all(|x| *x == 1.0), deviation == 0.0);
        }
        let (a, b) = (RandomWeights::new(1, &list), RandomWeights::new(2, &list));
        assert_ne!(bytes(&a, &list[0], 1 << 20), bytes(&b, &list[0], 1 << 20));
    }
}
