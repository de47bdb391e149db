//! Numbers as people read them.

use crate::ui::grouped;

/// A number that is not negative, with three significant digits, or whole and grouped from 100 on.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "∞".to_owned();
    }
    let size = value.abs();
    if size >= 99.95 || (size - size.round()).abs() < 1e-9 {
        return grouped(size.round() as u64);
    }
    let decimals = (2.0 - size.log10().floor()).clamp(0.0, 9.0) as usize;
    format!("{size:.decimals$}")
}

/// An amount of money, to the cent.
pub(crate) fn money(dollars: f64) -> String {
    if !dollars.is_finite() {
        return "∞".to_owned();
    }
    let cents = (dollars.abs() * 100.0).round() as u64;
    format!("{}{}.{:02}", if dollars < -0.005 { "-" } else { "" }, grouped(cents / 100), cents % 100)
}

/// A price as the file has it.
pub(crate) fn price(dollars: f64) -> String {
    if dollars >= 0.01 || dollars == 0.0 {
        let text = format!("{dollars:.5}");
        let text = text.trim_end_matches('0');
        let decimals = text.len() - text.find('.').map_or(text.len(), |dot| dot + 1);
        return if decimals < 2 { format!("{dollars:.2}") } else { text.to_owned() };
    }
    format!("{dollars:.10}").trim_end_matches('0').to_owned()
}

/// Bytes in the unit that suits them: a GB is 2^30.
pub(crate) fn bytes(bytes: f64) -> String {
    let (unit, name) = [(1_u64 << 50, "PB"), (1 << 40, "TB"), (1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")]
        .into_iter()
        .find(|(unit, _)| bytes >= *unit as f64)
        .unwrap_or((1, "bytes"));
    format!("{} {name}", number(bytes / unit as f64))
}

/// `1 shard`, `2 shards`.
pub(crate) fn count(count: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let found =
            [0.0, 0.000_567_8, 0.01234, 0.5, 1.0, 3.456, 12.345, 123.4, 99.97, 1_469_307.2, f64::INFINITY].map(number);
        let expected = ["0", "0.000568", "0.0123", "0.500", "1", "3.46", "12.3", "123", "100", "1,469,307", "∞"];
        assert_eq!(found, expected);
    }

    #[test]
    fn money_has_cents() {
        assert_eq!(
            [0.0, 0.005, 10.95, 1234.5, -3.25, -0.001].map(money),
            ["0.00", "0.01", "10.95", "1,234.50", "-3.25", "0.00"]
        );
    }

    #[test]
    fn prices_are_as_the_file_has_them() {
        let found = [0.015, 0.44, 3.0, 0.0, 0.000_013_333_4, 0.0004, 0.004_445, 1.0584].map(price);
        assert_eq!(found, ["0.015", "0.44", "3.00", "0.00", "0.0000133334", "0.0004", "0.004445", "1.0584"]);
    }

    #[test]
    fn units_suit_the_size() {
        assert_eq!([10.0, 1536.0, 3e9, 2e15].map(bytes), ["10 bytes", "1.50 KB", "2.79 GB", "1.78 PB"]);
        assert_eq!([count(1, "shard"), count(2000, "shard")], ["1 shard", "2,000 shards"]);
    }
}
