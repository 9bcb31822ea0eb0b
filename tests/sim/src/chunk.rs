//! What clients write: each chunk has a number, from which its length and bytes follow, so that a file tells what was written
//! to it.

/// The bytes of a chunk: its number, its length, and bytes that follow from both.
pub(crate) fn bytes(chunk: u32) -> Vec<u8> {
    let length = 8 + chunk.wrapping_mul(2_654_435_761) % 3_000;
    let mut bytes = [chunk.to_le_bytes(), length.to_le_bytes()].concat();
    bytes.extend((8..length).map(|at| (chunk.wrapping_add(at) % 251) as u8));
    bytes
}

/// The chunks of a file; none if it holds anything else.
pub(crate) fn parse(mut file: &[u8]) -> Option<Vec<u32>> {
    let mut chunks = Vec::new();
    while !file.is_empty() {
        let chunk = u32::from_le_bytes(file.first_chunk().copied()?);
        file = file.strip_prefix(bytes(chunk).as_slice())?;
        chunks.push(chunk);
    }
    Some(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_its_chunks_and_a_damaged_one_none() {
        let mut file = [bytes(1), bytes(70), bytes(2)].concat();
        assert_eq!(parse(&file), Some(vec![1, 70, 2]));
        file.pop();
        assert_eq!(parse(&file), None);
        assert_eq!(parse(&[]), Some(Vec::new()));
    }
}
