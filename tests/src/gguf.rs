//! GGUF files, written by hand.

/// A file of one tensor `t` of `[rows, cols]`, of a type of that number.
pub fn one_tensor(kind: u32, [rows, cols]: [u64; 2], bytes: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let text = |file: &mut Vec<u8>, text: &str| {
        file.extend((text.len() as u64).to_le_bytes());
        file.extend(text.as_bytes());
    };
    file.extend(b"GGUF\x03\0\0\0");
    file.extend(1u64.to_le_bytes());
    file.extend(1u64.to_le_bytes());
    text(&mut file, "general.architecture");
    file.extend(8u32.to_le_bytes());
    text(&mut file, "llama");
    text(&mut file, "t");
    file.extend(2u32.to_le_bytes());
    file.extend(cols.to_le_bytes());
    file.extend(rows.to_le_bytes());
    file.extend(kind.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(bytes);
    file
}
