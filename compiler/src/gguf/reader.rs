//! The primitive forms, from a file that may end anywhere.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::Value;

/// Most bytes of a string.
const MOST_TEXT: u64 = 16 << 20;
/// Most lists in each other.
const MOST_DEPTH: u32 = 3;
/// Most values of lists in a file: a vocabulary of a quarter million tokens with all its merges is a million.
const MOST_VALUES: u64 = 1 << 23;
/// Bytes that are read at a time.
const CHUNK: u64 = 1 << 16;

/// Why a file cannot be read.
#[derive(Debug)]
pub enum Fault {
    /// The system does not give it.
    Read(std::io::Error),
    /// It ends too early.
    Short,
    /// It says what cannot be.
    Wrong(String),
    /// A tensor's type is not read: the tensor, and the type.
    Type(String, String),
}

/// A place in a file.
pub struct Reader<'f> {
    file: &'f File,
    size: u64,
    at: u64,
    /// What was read ahead: bytes from `begin` on.
    ahead: Vec<u8>,
    begin: u64,
    /// Values of lists that may still come.
    values: u64,
}

impl<'f> Reader<'f> {
    /// From the beginning of a file of `size` bytes.
    pub fn new(file: &'f File, size: u64) -> Reader<'f> {
        Reader { file, size, at: 0, ahead: Vec::new(), begin: 0, values: MOST_VALUES }
    }

    /// Bytes before this place.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next `count` bytes. Errors: there are not so many.
    fn bytes(&mut self, count: u64) -> Result<&[u8], Fault> {
        if count > self.size.saturating_sub(self.at) {
            return Err(Fault::Short);
        }
        let end = self.begin + self.ahead.len() as u64;
        if self.at < self.begin || self.at + count > end {
            self.begin = self.at;
            self.ahead.resize(count.max(CHUNK).min(self.size - self.at) as usize, 0);
            self.file.read_exact_at(&mut self.ahead, self.at).map_err(Fault::Read)?;
        }
        let from = (self.at - self.begin) as usize;
        self.at += count;
        Ok(&self.ahead[from..from + count as usize])
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string behind its length.
    pub fn text(&mut self) -> Result<String, Fault> {
        let length = self.u64()?;
        if length > MOST_TEXT {
            return Err(Fault::Wrong(format!("a string would have {length} bytes")));
        }
        let bytes = self.bytes(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| Fault::Wrong("a string is not UTF-8".to_string()))
    }

    /// A value of type `kind`, in `depth` lists.
    pub fn value(&mut self, kind: u32, depth: u32) -> Result<Value, Fault> {
        let signed = |x: i64| u64::try_from(x).map_or(Value::Negative(x), Value::Unsigned);
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Fault::Wrong(format!("a truth value is {other}"))),
            },
            8 => Value::Text(self.text()?),
            9 if depth < MOST_DEPTH => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // Each of them takes a byte at least.
                if count > self.size - self.at {
                    return Err(Fault::Short);
                }
                // And much more in memory than there.
                let left = self.values.checked_sub(count);
                self.values =
                    left.ok_or_else(|| Fault::Wrong(format!("a list would have {count} values")))?;
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::List(list)
            }
            10 => Value::Unsigned(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(Fault::Wrong(format!("a value is of type {other}, in {depth} lists"))),
        })
    }
}
