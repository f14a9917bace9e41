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

    /// Whether every text that this pattern matches is matched by `other`, too.
    pub fn within(&self, other: &Self) -> bool {
        // A character that `other` does not name can only be where it has a wildcard. So it matches
        // every text of ours if it matches the one with that character for each of our wildcards.
        !other.0.contains('\0') && other.matches(&self.0.replace('*', "\0"))
    }

    /// Whether it is plain that no text matches both.
    fn apart(&self, other: &Self) -> bool {
        let literal = |pattern: &Self| !pattern.0.contains('*');
        (literal(self) && !other.matches(&self.0)) || (literal(other) && !self.matches(&other.0))
    }
}

/// Alternatives: what one of them matches is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patterns(pub(crate) Vec<Pattern>);

impl Patterns {
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether it is plain that every text that these match is matched by `other`, too.
    pub fn within(&self, other: &Self) -> bool {
        self.0.iter().all(|pattern| other.0.iter().any(|wider| pattern.within(wider)))
    }

    /// Whether it is plain that no text is matched by these and by `other`.
    pub fn apart(&self, other: &Self) -> bool {
        self.0.iter().all(|pattern| other.0.iter().all(|foreign| pattern.apart(foreign)))
    }

    /// Whether every text is matched.
    pub fn match_all(&self) -> bool {
        Self(vec![Pattern::new("*")]).within(self)
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
    fn a_pattern_is_within_another_if_all_that_it_matches_is() {
        let within = |narrow: &str, wide: &str| Pattern::new(narrow).within(&Pattern::new(wide));
        for (narrow, wide) in [
            ("a", "a"),
            ("abc", "a*"),
            ("a*", "*"),
            ("*", "**"),
            ("open*_csv_inline", "*_csv_*"),
            ("a*b*c", "a*c"),
            ("", "*"),
        ] {
            assert!(within(narrow, wide), "{narrow} {wide}");
        }
        for (narrow, wide) in [
            ("*", "a*"),
            ("a*", "a"),
            ("a*", "ab*"),
            ("*_csv_*", "*_csv_inline"),
            ("a*c", "a*b*c"),
            ("*", "\0"),
            ("*a", "*aa"),
        ] {
            assert!(!within(narrow, wide), "{narrow} {wide}");
        }
    }

    #[test]
    fn patterns_are_apart_only_where_that_is_plain() {
        let apart = |a: &[&str], b: &[&str]| {
            let patterns =
                |texts: &[&str]| Patterns(texts.iter().map(|text| Pattern::new(text)).collect());
            assert_eq!(patterns(a).apart(&patterns(b)), patterns(b).apart(&patterns(a)));
            patterns(a).apart(&patterns(b))
        };
        assert!(apart(&["xarf"], &["text", "csv*"]));
        assert!(!apart(&["xarf"], &["text", "x*"]));
        assert!(!apart(&["xarf", "text"], &["text"]));
        // They are, but it takes more to see it.
        assert!(!apart(&["a*"], &["b*"]));
    }

    #[test]
    fn one_alternative_that_matches_is_enough() {
        let either = Patterns(vec![Pattern::new("text"), Pattern::new("de*")]);
        assert!(either.matches("demo"));
        assert!(either.matches("text"));
        assert!(!either.matches("xarf"));
    }
}
