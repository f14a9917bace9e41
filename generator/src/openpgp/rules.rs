//! Who gets encrypted mails: what the configuration says of recipients and in general.

use outbox_config::{Encrypt, EncryptFor};

use crate::address::Address;
use crate::pattern::AddressPattern;

/// The configured rules.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    general: Encrypt,
    /// The strictest first.
    of_recipients: [(Encrypt, Vec<AddressPattern>); 3],
}

impl Rules {
    pub(super) fn new(general: Encrypt, of: &EncryptFor) -> Self {
        let patterns =
            |globs: &[String]| globs.iter().map(|glob| AddressPattern::new(glob)).collect();
        Self {
            general,
            of_recipients: [
                (Encrypt::Always, patterns(&of.always)),
                (Encrypt::IfKey, patterns(&of.if_key)),
                (Encrypt::Never, patterns(&of.never)),
            ],
        }
    }

    /// Whether any of them can have a mail encrypted.
    pub(super) fn may_encrypt(&self) -> bool {
        let mut rules = self.of_recipients.iter();
        self.general > Encrypt::Never
            || rules.any(|(rule, who)| *rule > Encrypt::Never && !who.is_empty())
    }

    /// What holds for one recipient: a rule for the address, else the format's, else the general.
    fn of(&self, format: Option<Encrypt>, address: &Address) -> Encrypt {
        let is_for = |who: &[AddressPattern]| who.iter().any(|pattern| pattern.matches(address));
        let own = self.of_recipients.iter().find(|(_, who)| is_for(who)).map(|(rule, _)| *rule);
        own.or(format).unwrap_or(self.general)
    }

    /// What holds for a mail to all of these. It is one mail, encrypted to all of them or to none:
    /// a single `always` has it encrypted; else a single `never` has it not.
    pub(super) fn of_mail(&self, format: Option<Encrypt>, to: &[Address]) -> Encrypt {
        let mut rules: Vec<_> = to.iter().map(|to| self.of(format, to)).collect();
        rules.sort_unstable();
        match (rules.first(), rules.last()) {
            (_, Some(Encrypt::Always)) => Encrypt::Always,
            (first, _) => first.copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_config::Encrypt::{Always, IfKey, Never};
    use outbox_config::OpenPgpSettings;

    use super::*;

    fn rules(json: &str) -> Rules {
        let settings: OpenPgpSettings = serde_json::from_str(json).unwrap();
        Rules::new(settings.encrypt, &settings.encrypt_for)
    }

    fn of(rules: &Rules, format: Option<Encrypt>, to: &[&str]) -> Encrypt {
        let to: Vec<_> = to.iter().map(|to| to.parse().unwrap()).collect();
        rules.of_mail(format, &to)
    }

    const RULES: &str = r#"{"always_sign": false, "encrypt": "if-key", "encrypt_for": {
        "always": ["*@Ministry.example", "*@*.bücher.example"], "if-key": ["i@*"],
        "never": ["n@*", "i@*", "*@ministry.example"]}}"#;

    #[test]
    fn the_recipients_rule_goes_before_the_formats_and_that_before_the_general_one() {
        let rules = rules(RULES);
        for (to, format, expected) in [
            ("x@isp.example", None, IfKey),
            ("x@isp.example", Some(Never), Never),
            ("x@isp.example", Some(Always), Always),
            ("n@isp.example", Some(Always), Never),
            ("N@ISP.example", None, Never),
            ("i@isp.example", Some(Never), IfKey),
            ("Abuse@MINISTRY.example", Some(Never), Always),
            ("n@ministry.example", Some(Never), Always),
            ("x@ministry.example.org", Some(Never), Never),
            ("x@a.xn--bcher-kva.example", Some(Never), Always),
        ] {
            assert_eq!(of(&rules, format, &[to]), expected, "{to} {format:?}");
        }
    }

    #[test]
    fn one_mail_to_several_is_encrypted_to_all_or_none() {
        let rules = rules(RULES);
        let (always, never, other) = ("a@ministry.example", "n@isp.example", "x@isp.example");
        assert_eq!(of(&rules, None, &[other, always]), Always);
        assert_eq!(of(&rules, None, &[never, always, other]), Always);
        assert_eq!(of(&rules, None, &[other, never]), Never);
        assert_eq!(of(&rules, None, &[other, other]), IfKey);
    }

    #[test]
    fn without_a_word_nothing_is_encrypted() {
        assert!(!rules(r#"{"always_sign": true}"#).may_encrypt());
        assert!(!rules(r#"{"always_sign": true, "encrypt_for": {"never": ["*"]}}"#).may_encrypt());
        assert!(rules(r#"{"always_sign": true, "encrypt_for": {"if-key": ["*"]}}"#).may_encrypt());
        assert!(rules(RULES).may_encrypt());
        assert_eq!(of(&rules(r#"{"always_sign": true}"#), None, &["a@isp.example"]), Never);
    }
}
