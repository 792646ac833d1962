//! The wire form of BYTES tensors: elements in row-major order, each a 4-byte little-endian length and that many bytes.

/// Largest element accepted, in bytes.
pub const ELEMENT_BYTES_MAX: u64 = 1 << 20;

/// Checks that `chunks`, read one after another, hold exactly `count` elements. Works over any split, so tensor bytes
/// need not be joined.
///
/// # Errors
/// A sentence saying what is wrong and with which numbers.
pub fn check<'a>(count: u64, chunks: impl Iterator<Item = &'a [u8]>) -> Result<(), String> {
    let mut seen: u64 = 0;
    let (mut header, mut header_len) = ([0u8; 4], 0usize);
    let mut body_left: u64 = 0;
    for mut chunk in chunks {
        while !chunk.is_empty() {
            if body_left > 0 {
                let take = usize::try_from(body_left).unwrap_or(usize::MAX).min(chunk.len());
                chunk = chunk.get(take..).unwrap_or_default();
                body_left = body_left.saturating_sub(take as u64);
                continue;
            }
            if let (Some(slot), Some(byte)) = (header.get_mut(header_len), chunk.first()) {
                *slot = *byte;
                header_len = header_len.saturating_add(1);
                chunk = chunk.get(1..).unwrap_or_default();
            }
            if header_len == 4 {
                header_len = 0;
                body_left = u64::from(u32::from_le_bytes(header));
                seen = seen.saturating_add(1);
                if body_left > ELEMENT_BYTES_MAX {
                    return Err(format!("element {seen} claims {body_left} bytes, the limit is {ELEMENT_BYTES_MAX}"));
                }
                if seen > count {
                    return Err(format!("expected {count} elements, found more"));
                }
            }
        }
    }
    if header_len > 0 {
        return Err(format!("ends inside the length of element {}", seen.saturating_add(1)));
    }
    if body_left > 0 {
        return Err(format!("ends {body_left} bytes before the end of element {seen}"));
    }
    if seen != count {
        return Err(format!("expected {count} elements, got {seen}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use proptest::prelude::*;

    fn encode(elements: &[Vec<u8>]) -> Vec<u8> {
        elements.iter().flat_map(|e| (e.len() as u32).to_le_bytes().into_iter().chain(e.iter().copied())).collect()
    }

    #[test]
    fn lying_lengths_are_refused() {
        let two = encode(&[b"ab".to_vec(), vec![]]);
        assert!(check(2, [two.as_slice()].into_iter()).is_ok());
        assert!(check(1, [two.as_slice()].into_iter()).unwrap_err().contains("found more"));
        assert!(check(3, [two.as_slice()].into_iter()).unwrap_err().contains("got 2"));
        assert!(check(1, [&u32::MAX.to_le_bytes()[..]].into_iter()).unwrap_err().contains("claims"));
        assert!(check(1, [&[2, 0, 0][..]].into_iter()).unwrap_err().contains("length"));
        assert!(check(1, [&[2, 0, 0, 0, 7][..]].into_iter()).unwrap_err().contains("1 bytes before"));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_verdict(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9), cut in 0usize..99, count in 0u64..9) {
            let whole = encode(&elements);
            let (a, b) = whole.split_at(cut.min(whole.len()));
            let split = check(count, [a, b].into_iter());
            prop_assert_eq!(&split, &check(count, [whole.as_slice()].into_iter()));
            prop_assert_eq!(split.is_ok(), count == elements.len() as u64);
        }
    }
}
