//! How often something may happen, as a person writes it in a configuration file.

use std::time::Duration;

use serde::Deserialize;

/// So many times in a second, minute, hour or day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// From one time to the next, if they are spread evenly.
    pub fn interval(self) -> Duration {
        self.per / self.count
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no rate: write a whole number, / and s, m, h or d, as in \"120/m\""
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = count.parse().ok().filter(|&count| digits && count > 0).ok_or_else(wrong)?;
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit_of_time() {
        let interval = |text: &str| Rate::try_from(text.to_owned()).map(Rate::interval);
        assert_eq!(interval("120/m"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("1/d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(interval("50/s"), Ok(Duration::from_millis(20)));
        for bad in ["", "120", "/m", "0/m", "-1/m", "+1/m", "1.5/m", "120/min", "120 / m", "1/w"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
