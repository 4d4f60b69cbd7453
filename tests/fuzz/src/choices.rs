//! Choices that bytes make.

/// Reads bytes from their beginning. Where they end they begin again, each with one more, so that few of them make large inputs.
pub struct Choices<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Choices<'b> {
    /// By these bytes; by none all choices are the first.
    pub fn by(bytes: &'b [u8]) -> Choices<'b> {
        Choices { bytes, at: 0 }
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some(round) = self.at.checked_div(self.bytes.len()) else { return 0 };
        let byte = self.bytes[self.at % self.bytes.len()];
        self.at += 1;
        byte.wrapping_add(round as u8)
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte()))
    }

    /// A number from 1 to `most`, at most 65536.
    pub fn count(&mut self, most: u64) -> u64 {
        let word = u64::from(u16::from_le_bytes([self.byte(), self.byte()]));
        1 + word % most
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::from(self.byte()) % list.len()]
    }
}
