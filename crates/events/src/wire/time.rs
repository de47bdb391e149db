//! Event times as people write them.

use std::borrow::Cow;

/// Numbers below this are seconds (until the year 5138), others milliseconds (since 1973).
const SECONDS_BELOW: f64 = 1e11;

/// Reads unix seconds (with or without fraction), unix milliseconds or RFC 3339; milliseconds since 1970.
/// A date and time without an offset is taken as UTC.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if !bytes.is_empty() && bytes.len() <= 15 && bytes.iter().all(u8::is_ascii_digit) {
        // The common case in files, without a detour over floating point.
        let number: i64 = text.parse().ok()?;
        return Some(if (number as f64) < SECONDS_BELOW { number * 1000 } else { number });
    }
    if bytes.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'))
        && let Ok(number) = text.parse::<f64>()
    {
        return number_ms(number);
    }
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond).or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()?.as_millisecond())
    })
}

/// A JSON number of seconds or milliseconds; milliseconds since 1970.
pub fn number_ms(number: f64) -> Option<i64> {
    if !number.is_finite() || number.abs() > 1e15 {
        return None;
    }
    let ms = if number.abs() < SECONDS_BELOW { number * 1000.0 } else { number };
    Some(ms.round() as i64)
}

/// RFC 3339 in UTC, for people to read.
pub fn format_time_ms(time_ms: i64) -> Cow<'static, str> {
    jiff::Timestamp::from_millisecond(time_ms).map_or(Cow::Borrowed("out of range"), |t| Cow::Owned(t.to_string()))
}

/// Day (`2017-12-01`) and hour (`05`) of a time in UTC: the folders of delivered objects and of the lake.
pub fn day_and_hour(time_ms: i64) -> (String, String) {
    let time = jiff::Timestamp::from_millisecond(time_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let time = jiff::tz::TimeZone::UTC.to_datetime(time);
    (time.date().to_string(), format!("{:02}", time.hour()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, ms) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("1700000000123", Some(1_700_000_000_123)),
            ("1.7e9", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T23:13:20+01:00", Some(1_700_000_000_000)),
            ("2023-11-14 22:13:20", Some(1_700_000_000_000)),
            ("2023-11-14", Some(1_699_920_000_000)),
            ("", None),
            ("yesterday", None),
            ("NaN", None),
            ("1e300", None),
            ("-", None),
        ] {
            assert_eq!(parse_time_ms(text), ms, "{text:?}");
        }
        assert_eq!(number_ms(f64::INFINITY), None);
        assert_eq!(day_and_hour(1_700_000_000_000), ("2023-11-14".to_owned(), "22".to_owned()));
    }
}
