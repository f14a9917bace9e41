//! Which groups a rule is for.

use std::collections::BTreeMap;

use outbox::GroupKey;

use crate::pattern::Patterns;

/// A rule is for the groups that `when` matches and `unless` does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) when: Criteria,
    pub(super) unless: Option<Criteria>,
}

impl Condition {
    pub(super) fn matches(&self, key: &GroupKey) -> bool {
        self.when.match_all(key) && !self.unless.as_ref().is_some_and(|c| c.match_all(key))
    }

    /// Whether it is plain that every group that `when`, but for `unless`, is for meets this condition.
    pub(super) fn takes_all_of(&self, when: &Criteria, unless: Option<&Criteria>) -> bool {
        let leaves_none = |left_alone: &Criteria| {
            when.apart(left_alone) || unless.is_some_and(|unless| left_alone.within(unless))
        };
        when.within(&self.when) && self.unless.as_ref().is_none_or(leaves_none)
    }

    /// Whether it is plain that no group meets it.
    pub(super) fn takes_none(&self) -> bool {
        self.unless.as_ref().is_some_and(|unless| self.when.within(unless))
    }
}

/// What a group must be like. Without any, every group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Criteria {
    pub(super) notification_format: Option<Patterns>,
    pub(super) event_data_format: Option<Patterns>,
    pub(super) template_name: Option<Patterns>,
    pub(super) recipient_address: Option<Patterns>,
    pub(super) aggregate: BTreeMap<String, Patterns>,
    pub(super) has_aggregate: Vec<String>,
}

impl Criteria {
    fn match_all(&self, key: &GroupKey) -> bool {
        let is = |wanted: &Option<Patterns>, text: &str| {
            wanted.as_ref().is_none_or(|patterns| patterns.matches(text))
        };
        is(&self.notification_format, &key.notification_format)
            && is(&self.event_data_format, &key.event_data_format)
            && is(&self.template_name, &key.template_name)
            && is(&self.recipient_address, &key.recipient_address)
            && self
                .aggregate
                .iter()
                .all(|(name, patterns)| aggregate(key, name).is_some_and(|v| patterns.matches(v)))
            && self.has_aggregate.iter().all(|name| aggregate(key, name).is_some())
    }

    /// What it asks of the texts that every group has.
    fn of_texts(&self) -> [&Option<Patterns>; 4] {
        [
            &self.notification_format,
            &self.event_data_format,
            &self.template_name,
            &self.recipient_address,
        ]
    }

    /// Whether it is plain that every group that meets these meets `other`, too.
    fn within(&self, other: &Self) -> bool {
        let texts = self.of_texts().into_iter().zip(other.of_texts()).all(|(own, other)| {
            let Some(other) = other else { return true };
            other.match_all() || own.as_ref().is_some_and(|own| own.within(other))
        });
        let has =
            |name: &String| self.has_aggregate.contains(name) || self.aggregate.contains_key(name);
        let aggregate = other.aggregate.iter().all(|(name, other)| {
            (other.match_all() && has(name))
                || self.aggregate.get(name).is_some_and(|own| own.within(other))
        });
        texts && aggregate && other.has_aggregate.iter().all(has)
    }

    /// Whether it is plain that no group meets these and `other`.
    fn apart(&self, other: &Self) -> bool {
        let texts = self.of_texts().into_iter().zip(other.of_texts()).any(|pair| match pair {
            (Some(own), Some(other)) => own.apart(other),
            _ => false,
        });
        let differs = |(name, own): (&String, &Patterns)| {
            other.aggregate.get(name).is_some_and(|other| own.apart(other))
        };
        texts || self.aggregate.iter().any(differs)
    }
}

/// The value of the aggregate identifier `name`. A null is no value: a text that was to show it
/// would have nothing to show.
pub(super) fn aggregate<'k>(key: &'k GroupKey, name: &str) -> Option<&'k str> {
    key.aggregate_identifier.get(name)?.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn patterns(text: &str) -> Patterns {
        Patterns(vec![Pattern::new(text)])
    }

    fn key() -> GroupKey {
        GroupKey {
            recipient_address: "abuse@as64496.example".into(),
            template_name: "openchargen_provider".into(),
            notification_format: "vulnerable-service".into(),
            event_data_format: "vulnerable-service_csv_inline".into(),
            aggregate_identifier: [
                ("source.asn".to_owned(), Some("64496".to_owned())),
                ("cidr".to_owned(), None),
            ]
            .into(),
        }
    }

    fn when(criteria: Criteria) -> bool {
        Condition { when: criteria, unless: None }.matches(&key())
    }

    #[test]
    fn no_criteria_match_every_group() {
        assert!(Condition::default().matches(&key()));
    }

    #[test]
    fn each_criterion_looks_at_its_own_part_of_the_group() {
        type Only = fn(Patterns) -> Criteria;
        let format: Only = |p| Criteria { notification_format: Some(p), ..Criteria::default() };
        let data: Only = |p| Criteria { event_data_format: Some(p), ..Criteria::default() };
        let template: Only = |p| Criteria { template_name: Some(p), ..Criteria::default() };
        let address: Only = |p| Criteria { recipient_address: Some(p), ..Criteria::default() };
        let own = [
            (format, "vulnerable-service"),
            (data, "*_csv_inline"),
            (template, "openchargen_*"),
            (address, "abuse@*"),
        ];
        for (criteria, text) in own {
            assert!(when(criteria(patterns(text))), "{text}");
            assert!(!when(criteria(patterns("another"))), "{text}");
        }
    }

    #[test]
    fn all_criteria_must_match() {
        let both = |asn: &str| Criteria {
            template_name: Some(patterns("openchargen_*")),
            aggregate: [("source.asn".to_owned(), patterns(asn))].into(),
            ..Criteria::default()
        };
        assert!(when(both("644*")));
        assert!(!when(both("645*")));
    }

    #[test]
    fn a_missing_or_null_aggregate_has_no_value_to_match() {
        for name in ["cidr", "source.ip"] {
            let any = [(name.to_owned(), patterns("*"))].into();
            assert!(!when(Criteria { aggregate: any, ..Criteria::default() }));
            let has = vec!["source.asn".to_owned(), name.to_owned()];
            assert!(!when(Criteria { has_aggregate: has, ..Criteria::default() }));
        }
        let has = vec!["source.asn".to_owned()];
        assert!(when(Criteria { has_aggregate: has, ..Criteria::default() }));
    }

    #[test]
    fn unless_takes_out_only_what_it_matches() {
        let leaving_alone = |format: &str| Condition {
            unless: Some(Criteria {
                notification_format: Some(patterns(format)),
                ..Criteria::default()
            }),
            ..Condition::default()
        };
        assert!(leaving_alone("xarf").matches(&key()));
        assert!(!leaving_alone("vulnerable-*").matches(&key()));
    }
}
