//! Amounts of storage as a person writes and reads them.

use serde::Deserialize;

/// Reads `4096`, `500K`, `100M` or `2G`, the units also as in `256 KiB`: a whole number of octets, or
/// of 1024, 1024² or 1024³ of them. Fails in words that say the form.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size: write a whole number and K, M or G, as in \"500M\"");
    let units = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)];
    let with_unit = units.into_iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix("iB").unwrap_or(text).strip_suffix(unit)?;
        Some((number.strip_suffix(' ').unwrap_or(number), factor))
    });
    let (number, factor) = with_unit.unwrap_or((text, 1));
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = number.parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text:?} is too large a size"))
}

/// An amount of octets in the unit that fits: `812 octets`, `48 KiB`, `3.2 GiB`.
pub fn size_words(octets: u64) -> String {
    let tenths = |unit: u64| u128::from(octets) * 10 / u128::from(unit);
    let (unit, name) = match octets {
        0..1_024 => return format!("{octets} octets"),
        1_024..1_048_576 => (1 << 10, "KiB"),
        1_048_576..1_073_741_824 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    match tenths(unit) {
        tenths if tenths < 100 => format!("{}.{} {name}", tenths / 10, tenths % 10),
        tenths => format!("{} {name}", tenths / 10),
    }
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// For `#[serde(deserialize_with)]`, where the key may be missing.
pub(crate) fn deserialize_option<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<u64>, D::Error> {
    deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_and_perhaps_a_unit() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("500K"), Ok(512_000));
        assert_eq!(parse_size("100M"), Ok(104_857_600));
        assert_eq!(parse_size("2G"), Ok(2_147_483_648));
        assert_eq!(parse_size("256 KiB"), Ok(262_144));
        assert_eq!(parse_size("1GiB"), Ok(1_073_741_824));
        assert_eq!(parse_size("10 M"), Ok(10_485_760));
        for bad in
            ["", "M", "-1M", "+1M", "1.5G", "10MB", "10  M", " M", "10iB", "10m", "99999999999G"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_told_in_the_unit_that_fits() {
        let told = [812, 1_024, 49_152, 104_857_600, 3_435_973_837].map(size_words);
        assert_eq!(told, ["812 octets", "1.0 KiB", "48 KiB", "100 MiB", "3.2 GiB"]);
    }
}
