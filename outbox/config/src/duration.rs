//! Durations as a person writes them in a configuration file.

use std::time::Duration;

/// Reads `90s`, `15m`, `2h` or `5d`: a whole number and one unit. Fails in words that say
/// the form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("{text:?} is no duration: write a whole number and s, m, h or d, as in \"15m\"");
    let (number, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    // A century is enough for everyone, and keeps sums with the present time in range.
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .filter(|&total| total <= 100 * 366 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text:?} is too long a duration"))
}

/// A duration in the largest unit that gives a number: `45s`, `12m`, `3h`, `9d`.
pub fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..100 => format!("{seconds}s"),
        100..6_000 => format!("{}m", seconds / 60),
        6_000..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(from)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_told_in_the_unit_that_fits() {
        let told = [0, 99, 240, 5_999, 6_000, 172_799, 172_800]
            .map(|seconds| duration_words(Duration::from_secs(seconds)));
        assert_eq!(told, ["0s", "99s", "4m", "99m", "1h", "47h", "2d"]);
    }

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse_duration("4h"), Ok(Duration::from_secs(14_400)));
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(2_592_000)));
        for bad in [
            "",
            "s",
            "5",
            "5 m",
            "-5m",
            "1.5h",
            "5min",
            "5µ",
            "15M",
            "+5m",
            "1h30m",
            "٣m",
            "99999999999999999999s",
            "36601d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
