//! What a value of a report must be, and how a value of an event becomes one.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::event::{Cell, Value};

/// What a value of a report must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever the event has.
    Any,
    /// A text of at most so many characters.
    Text(usize),
    /// A whole number in this range.
    Integer(i64, i64),
    /// A number in this range.
    Number(i64, i64),
    /// True or false.
    Boolean,
    /// A time (RFC 3339).
    Time,
    /// A URI (RFC 3986).
    Uri,
    /// A domain name, in its ASCII form.
    Host,
    /// An IP address.
    Address,
    /// A country's two capital letters (ISO 3166-1).
    Country,
    /// One of these texts.
    OneOf(&'static [&'static str]),
    /// `namespace:value`.
    Tag,
    /// A list of at most so many values, all of this kind.
    Each(&'static Kind, usize),
}

impl Kind {
    /// Any text.
    pub const TEXT: Self = Self::Text(usize::MAX);
    /// The number of a port; 0 is none.
    pub const PORT: Self = Self::Integer(1, 65_535);
    /// The number of an autonomous system.
    pub const ASN: Self = Self::Integer(1, 4_294_967_295);
    /// Any whole number.
    pub const INTEGER: Self = Self::Integer(i64::MIN, i64::MAX);
    /// Any number.
    pub const NUMBER: Self = Self::Number(i64::MIN, i64::MAX);

    /// Makes of `value` one of this kind, if it says the same: a number of the text `"53"`, the
    /// A-label of a domain name, a list of one value.
    ///
    /// Fails with what is wrong with it.
    pub fn fit(self, value: Json) -> Result<Json, String> {
        let fitted = match (self, &value) {
            (Self::Any, _) | (Self::Boolean, Json::Bool(_)) => return Ok(value),
            (Self::Each(kind, most), Json::Array(values)) if values.len() <= most => {
                return values.iter().map(|value| kind.fit(value.clone())).collect();
            }
            (Self::Each(..), Json::Array(_) | Json::Object(_)) => None,
            (Self::Each(kind, _), _) => return Ok(Json::Array(vec![kind.fit(value)?])),
            (Self::Text(most), _) => {
                Some(text(&value)).filter(|text| text.chars().count() <= most).map(Json::String)
            }
            (Self::Integer(least, most), _) => {
                text(&value).parse().ok().filter(|n| (least..=most).contains(n)).map(i64::into)
            }
            (Self::Number(..), Json::String(text)) => {
                return match serde_json::from_str(text) {
                    Ok(number @ Json::Number(_)) => self.fit(number),
                    _ => Err(self.refuse(&value)),
                };
            }
            (Self::Number(least, most), Json::Number(number)) => {
                // Far beyond 2^53 the ends of the range need not be exact.
                #[allow(clippy::cast_precision_loss)]
                let range = least as f64..=most as f64;
                number.as_f64().filter(|n| range.contains(n)).map(|_| value.clone())
            }
            (Self::Boolean, Json::String(text)) => {
                text.to_ascii_lowercase().parse().ok().map(Json::Bool)
            }
            (Self::Time, Json::String(text)) => {
                text.parse().ok().and_then(rfc3339).map(Json::String)
            }
            (Self::Host, Json::String(text)) => {
                idna::domain_to_ascii_strict(text).ok().map(Json::String)
            }
            (Self::Uri, Json::String(text)) => is_uri(text).then(|| value.clone()),
            (Self::Address, Json::String(text)) => {
                text.parse::<IpAddr>().ok().map(|_| value.clone())
            }
            (Self::Country, Json::String(text)) => {
                let is_code = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
                is_code.then(|| value.clone())
            }
            (Self::OneOf(texts), Json::String(text)) => {
                texts.contains(&text.as_str()).then(|| value.clone())
            }
            (Self::Tag, Json::String(text)) => is_tag(text).then(|| value.clone()),
            _ => None,
        };
        fitted.ok_or_else(|| self.refuse(&value))
    }

    fn refuse(self, value: &Json) -> String {
        let shown = outbox_config::text::fit(&value.to_string(), 100);
        format!("must be {self}, not {shown}")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any => f.write_str("any value"),
            Self::Text(usize::MAX) => f.write_str("a text"),
            Self::Text(most) => write!(f, "a text of at most {most} characters"),
            Self::INTEGER => f.write_str("a whole number"),
            Self::NUMBER => f.write_str("a number"),
            Self::Integer(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::Number(least, most) => write!(f, "a number from {least} to {most}"),
            Self::Boolean => f.write_str("true or false"),
            Self::Time => f.write_str("a time (RFC 3339)"),
            Self::Uri => f.write_str("a URI (RFC 3986)"),
            Self::Host => f.write_str("a domain name"),
            Self::Address => f.write_str("an IP address"),
            Self::Country => f.write_str("two capital letters (ISO 3166-1)"),
            Self::OneOf(texts) => write!(f, "one of {}", texts.join(", ")),
            Self::Tag => f.write_str(
                "a tag (namespace:value of lower-case letters, digits, `_`, `+` and `-`, a letter or \
                 digit first)",
            ),
            Self::Each(kind, usize::MAX) => write!(f, "a list, each of it {kind}"),
            Self::Each(kind, most) => write!(f, "a list of at most {most}, each of it {kind}"),
        }
    }
}

/// An event's value as JSON, `None` where it has none: NULL, and an empty text or list.
pub fn json(cell: Cell<'_>) -> Option<Json> {
    let json = match cell {
        Cell::Column(Value::Time(time)) => {
            rfc3339(*time).unwrap_or_else(|| time.to_string()).into()
        }
        Cell::Column(value) => value.to_json(),
        Cell::Json(json) => json.clone(),
        Cell::Given(text) => text.into(),
    };
    match &json {
        Json::Null => None,
        Json::String(text) if text.is_empty() => None,
        Json::Array(values) if values.is_empty() => None,
        _ => Some(json),
    }
}

/// A value as text; lists and objects as JSON.
pub fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time in UTC. RFC 3339 knows the years 0 to 9999.
fn rfc3339(time: Timestamp) -> Option<String> {
    let text = time.to_string();
    (!text.starts_with(['-', '+'])).then_some(text)
}

/// Whether a text is a URI as far as its characters say: a scheme, a colon, and after it nothing
/// that would have to be written with `%` (RFC 3986, 2 and 3.1).
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let literal = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=".contains(c);
    let escaped = |(at, _): (usize, &str)| {
        let digits = rest.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !rest.is_empty()
        && rest.chars().all(|c| c == '%' || literal(c))
        && rest.match_indices('%').all(escaped)
        // RFC 3986, 3.5: one fragment at most.
        && rest.matches('#').count() <= 1
        && brackets_are_right(rest)
}

/// Whether square brackets stand only around the address that is the host (RFC 3986, 3.2.2).
fn brackets_are_right(rest: &str) -> bool {
    const BRACKETS: [char; 2] = ['[', ']'];
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        None => !host.contains(BRACKETS),
        Some((address, port)) => {
            address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
        }
    };
    host_is_right && !user.contains(BRACKETS) && !path.contains(BRACKETS)
}

fn is_tag(text: &str) -> bool {
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_+-".contains(c))
    };
    text.split_once(':').is_some_and(|(namespace, value)| word(namespace) && word(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn takes(kind: Kind, value: Json, becomes: &Json) {
        assert_eq!(kind.fit(value), Ok(becomes.clone()), "{kind}");
    }

    #[track_caller]
    fn refuses(kind: Kind, value: impl Into<Json>) {
        let value = value.into();
        let why = kind.fit(value.clone()).expect_err(&format!("{value} is not {kind}"));
        assert!(why.starts_with(&format!("must be {kind}, not ")), "{why}");
    }

    #[test]
    fn numbers_are_taken_from_texts_and_kept_in_their_range() {
        takes(Kind::PORT, json!(53), &json!(53));
        takes(Kind::PORT, json!("53"), &json!(53));
        for value in
            [json!(0), json!(65536), json!(-1), json!(5.5), json!("0"), json!("x"), json!([1])]
        {
            refuses(Kind::PORT, value);
        }
        takes(Kind::Number(0, 1), json!(0.85), &json!(0.85));
        takes(Kind::Number(0, 1), json!("1.0"), &serde_json::from_str("1.0").unwrap());
        for value in [json!(1.1), json!(-1), json!("nan"), json!("\"1\""), json!(true)] {
            refuses(Kind::Number(0, 1), value);
        }
        refuses(Kind::NUMBER, serde_json::from_str::<Json>("1e400").unwrap());
    }

    #[test]
    fn texts_are_counted_in_characters() {
        takes(Kind::Text(2), json!("äö"), &json!("äö"));
        refuses(Kind::Text(2), json!("äöü"));
        takes(Kind::TEXT, json!(4_200_000_000_i64), &json!("4200000000"));
        takes(Kind::TEXT, json!(true), &json!("true"));
        takes(Kind::TEXT, json!(["a", 1]), &json!("[\"a\",1]"));
    }

    #[test]
    fn times_are_those_of_rfc_3339() {
        for (text, time) in [
            ("2026-10-04T07:13:29Z", "2026-10-04T07:13:29Z"),
            ("2026-10-04 09:13:29.5+02:00", "2026-10-04T07:13:29.5Z"),
        ] {
            takes(Kind::Time, json!(text), &json!(time));
        }
        for value in
            [json!("2026-10-04"), json!("infinity"), json!(7), json!("-000001-01-01T00:00:00Z")]
        {
            refuses(Kind::Time, value);
        }
    }

    #[test]
    fn uris_hosts_and_addresses_are_what_they_should_be() {
        for uri in
            ["https://login.example/a?b=%20#c", "http://[2001:db8::1]:8080/", "mailto:a@b.example"]
        {
            takes(Kind::Uri, json!(uri), &json!(uri));
        }
        for text in [
            "login.example",
            "https:",
            "1http://a",
            "http://a b",
            "http://ä.example/",
            "http://a/\"x\"",
            "http://a/%zz",
            "http://a/%2",
            "http://a/?b[]=1",
            "http://[a]/",
            "http://[::1]x/",
            "http://[::1/",
            "http://a/#b#c",
            "http://a\r\nb",
            "",
        ] {
            refuses(Kind::Uri, json!(text));
        }
        takes(Kind::Host, json!("Bücher.example"), &json!("xn--bcher-kva.example"));
        for text in ["a b.example", "a..example", "under_score.example", "-a.example"] {
            refuses(Kind::Host, json!(text));
        }
        takes(Kind::Address, json!("2001:db8::1"), &json!("2001:db8::1"));
        refuses(Kind::Address, json!("192.0.2.0/24"));
        refuses(Kind::Address, json!("192.0.2.256"));
        takes(Kind::Country, json!("DE"), &json!("DE"));
        for text in ["de", "D", "DEU", "ÄÖ"] {
            refuses(Kind::Country, json!(text));
        }
    }

    #[test]
    fn tags_and_lists_are_checked_value_by_value() {
        const TAGS: Kind = Kind::Each(&Kind::Tag, 2);
        takes(TAGS, json!("malware:c++"), &json!(["malware:c++"]));
        takes(TAGS, json!(["a:b", "1:2_-"]), &json!(["a:b", "1:2_-"]));
        refuses(TAGS, json!(["a:b", "a:b", "a:b"]));
        refuses(TAGS, json!({"a": "b"}));
        for tag in ["a", ":b", "a:", "A:b", "a:b:c", "a:-b", "_a:b", "a:b c", "ä:b", "a:b\n"] {
            refuses(Kind::Tag, json!(tag));
        }
        takes(Kind::Boolean, json!("True"), &json!(true));
        refuses(Kind::Boolean, json!(1));
        takes(Kind::OneOf(&["tcp", "udp"]), json!("udp"), &json!("udp"));
        refuses(Kind::OneOf(&["tcp", "udp"]), json!("TCP"));
        refuses(Kind::OneOf(&["tcp"]), Json::String("x".repeat(1000)));
        takes(Kind::Any, json!({"a": [1]}), &json!({"a": [1]}));
    }
}
