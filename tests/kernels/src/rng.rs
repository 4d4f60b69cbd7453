//! Random numbers that a seed repeats.

/// A small deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    /// A seed that no run had before.
    pub fn fresh_seed() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64)
    }

    /// The generator of a named case under a run's seed: a case alone has the numbers that it has among others.
    pub fn of(seed: u64, name: &str) -> Rng {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Rng(name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// About a standard normal: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        let x = self.bits();
        let sum: u64 = (0..4).map(|i| (x >> (16 * i)) & 0xffff).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }
}
