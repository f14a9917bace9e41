//! Names and addresses with `*` as a wildcard.

use crate::address::Address;

/// A text in which each `*` stands for any run of characters, also none. There is no escape, and
/// upper and lower case differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether the whole of `text` is as the pattern says.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        // The leftmost place for each part leaves the most for those behind it.
        for part in parts {
            let Some((_, behind)) = rest.split_once(part) else {
                return false;
            };
            rest = behind;
        }
        rest.ends_with(last)
    }
}

/// Alternatives: what one of them matches is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patterns(pub(crate) Vec<Pattern>);

impl Patterns {
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }
}

/// A pattern for mail addresses: upper and lower case are one, and a domain may be written with
/// non-ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressPattern(Pattern);

impl AddressPattern {
    pub(crate) fn new(text: &str) -> Self {
        let ascii = text.rsplit_once('@').and_then(|(local, domain)| {
            Some(format!("{local}@{}", idna::domain_to_ascii(domain).ok()?))
        });
        Self(Pattern::new(&ascii.as_deref().unwrap_or(text).to_lowercase()))
    }

    pub(crate) fn matches(&self, address: &Address) -> bool {
        self.0.matches(&address.as_str().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).matches(text)
    }

    #[test]
    fn without_a_wildcard_only_the_same_text_matches() {
        assert!(matches("csv_Open-SNMP", "csv_Open-SNMP"));
        assert!(!matches("csv_Open-SNMP", "csv_Open-SNMP2"));
        assert!(!matches("csv_Open-SNMP", "csv_Open"));
        assert!(!matches("csv_Open-SNMP", "csv_open-snmp"));
        assert!(matches("", ""));
        assert!(!matches("", "x"));
    }

    #[test]
    fn a_wildcard_stands_for_any_run_of_characters_also_none() {
        assert!(matches("openchargen_*", "openchargen_provider"));
        assert!(matches("openchargen_*", "openchargen_"));
        assert!(!matches("openchargen_*", "openchargen"));
        assert!(matches("*_csv_inline", "malware-infection_csv_inline"));
        assert!(!matches("*_csv_inline", "malware-infection_csv_inline2"));
        assert!(matches("*", ""));
        assert!(matches("*", "ü"));
    }

    #[test]
    fn several_wildcards_find_their_parts_in_order_and_without_overlap() {
        assert!(matches("a*b*c", "abc"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "acb"));
        assert!(!matches("ab*ba", "aba"));
        assert!(!matches("*aa*a", "aa"));
        assert!(matches("*ab*ab", "abab"));
        assert!(matches("**", "x"));
        assert!(matches("*@*.example", "abuse@as64496.example"));
    }

    #[test]
    fn one_alternative_that_matches_is_enough() {
        let either = Patterns(vec![Pattern::new("text"), Pattern::new("de*")]);
        assert!(either.matches("demo"));
        assert!(either.matches("text"));
        assert!(!either.matches("xarf"));
    }
}
