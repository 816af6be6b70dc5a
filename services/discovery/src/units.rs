use std::time::Duration;

/// Reads a duration as Go writes it (`300ms`, `1m30s`, `1.5h`); none if it is not one, or negative.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_s = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_s;
        rest = next;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// A duration as Go writes it.
pub(crate) fn go_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos != 0 {
        let (unit, name) = match nanos {
            0..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            _ => (1_000_000, "ms"),
        };
        return format!("{}{name}", f64::from(nanos) / f64::from(unit));
    }
    let (hours, minutes) = (seconds / 3600, seconds % 3600 / 60);
    let rest = (seconds % 60) as f64 + f64::from(nanos) / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// The time of day in Greenwich, for people (RFC 3339). Nothing is decided by it.
pub(crate) fn now_rfc3339() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs())
}

fn rfc3339(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Days in the 400-year cycle that begins in March, so that the day of leap years comes last (Hinnant, "chrono-
    // compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day % 3600 / 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        let shown = |ms| go_duration(Duration::from_millis(ms));
        assert_eq!(
            ["10s", "1m0s", "1h0m0s", "1m30.5s", "300ms", "0s"],
            [10_000, 60_000, 3_600_000, 90_500, 300, 0].map(shown).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let known = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
        ];
        for (seconds, date) in known {
            assert_eq!(rfc3339(seconds), date);
        }
    }

    #[test]
    fn go_durations_are_read() {
        let ms = |text| parse_duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("300ms"), Some(300));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("1.5h"), Some(5_400_000));
        assert_eq!(ms("0"), Some(0));
        for bad in ["", "10", "s", "-1s", "1 s", "1x", "1.2.3s", "1s2", "9e99h"] {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }
}
