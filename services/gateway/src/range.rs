//! Byte ranges of a value (RFC 9110, section 14). Pure.

use std::ops::Range;

/// What a `Range` header asks of a value of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The whole: no range, a unit that is not ours, or several ranges at once, which a server may answer in full.
    Whole,
    /// These bytes; never empty.
    Bytes(Range<usize>),
    /// Not to be had: it lies outside the value, or is broken.
    Unsatisfiable,
}

/// Reads a `Range` header.
pub fn part(header: Option<&str>, len: usize) -> Part {
    let Some(header) = header else { return Part::Whole };
    let Some((unit, ranges)) = header.split_once('=') else { return Part::Unsatisfiable };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Part::Unsatisfiable };
    let range = match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(suffix)) if first.is_empty() => len.saturating_sub(suffix)..len,
        (Some(first), None) if last.is_empty() => first..len,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(len),
        _ => return Part::Unsatisfiable,
    };
    if range.start < range.end { Part::Bytes(range) } else { Part::Unsatisfiable }
}

/// Digits only; a number too large for memory is as good as any other that lies past the end.
fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_examples() {
        let of = |header| part(Some(header), 10_000);
        assert_eq!(of("bytes=0-499"), Part::Bytes(0..500));
        assert_eq!(of("bytes=500-999"), Part::Bytes(500..1_000));
        assert_eq!(of("bytes=-500"), Part::Bytes(9_500..10_000));
        assert_eq!(of("bytes=9500-"), Part::Bytes(9_500..10_000));
        assert_eq!(of("bytes=0-0,-1"), Part::Whole);
    }

    #[test]
    fn edges() {
        let of = |header| part(Some(header), 10);
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(of("bytes=0-99"), Part::Bytes(0..10));
        assert_eq!(of("bytes=-99"), Part::Bytes(0..10));
        assert_eq!(of("bytes=9-99999999999999999999999"), Part::Bytes(9..10));
        assert_eq!(of("pages=1-2"), Part::Whole);
        for outside in ["bytes=10-", "bytes=-0", "bytes=5-4", "bytes=", "bytes=-", "bytes=a-b", "bytes=+1-2", "bytes"] {
            assert_eq!(of(outside), Part::Unsatisfiable, "{outside}");
        }
        assert_eq!(part(Some("bytes=0-"), 0), Part::Unsatisfiable, "an empty value has no bytes to give");
    }
}
