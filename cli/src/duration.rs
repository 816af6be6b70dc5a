//! Durations with their unit, as flags take them: `500ms`, `60s`, `5m`, `1h`.

use std::time::Duration;

/// Reads a duration; the unit must be there, so that nobody takes milliseconds for seconds.
///
/// # Errors
/// A sentence.
pub fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| wrong(text))?;
    let seconds = match &text[digits.len()..] {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3_600.0,
        _ => return Err(wrong(text)),
    };
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        return Err(format!("`{text}` is out of range; from 0 to 720h is possible"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn wrong(text: &str) -> String {
    format!("`{text}` is no duration with a unit; write one such as 500ms, 60s, 5m or 1h")
}

/// Thirty days.
const SECONDS_MAX: f64 = 30.0 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(parse("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3_600)));
        for wrong in ["", "60", "s", "60 s", "1d", "-1s", "infs", "NaNs", "1e9h", "ß"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
