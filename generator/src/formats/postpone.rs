//! When a group has to wait.

use jiff::{SignedDuration, Timestamp};

use super::condition::aggregate;
use super::error::DecideError;
use super::plan::FormatName;
use crate::group::Group;

/// The reasons to wait that a format knows. One that holds is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Postpone {
    /// More may be on its way: the newest directive came less than this ago.
    pub(super) newest_directive_younger_than: Option<SignedDuration>,
    /// More may be on its way: the events were observed less than this ago.
    pub(super) observation_younger_than: Option<SignedDuration>,
    /// An equal group was notified less than the directives' interval ago.
    pub(super) within_notification_interval: bool,
}

/// How long a group has to wait, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// `None` for a time that no clock will reach.
    pub(super) until: Option<Timestamp>,
    pub(super) why: String,
}

impl Postpone {
    /// Says what the group has to wait for at `now`. At the very end of a wait it is due.
    pub(super) fn wait(
        &self,
        group: &Group,
        format: &FormatName,
        now: Timestamp,
    ) -> Result<Option<Wait>, DecideError> {
        let mut waits = Vec::new();
        if let Some(age) = self.newest_directive_younger_than {
            let why = format!("the newest directive is younger than {age:#}");
            waits.push((group.inserted_at.checked_add(age).ok(), why));
        }
        if let Some(age) = self.observation_younger_than {
            let why = format!("the observation is younger than {age:#}");
            waits.push((observation(group, format)?.checked_add(age).ok(), why));
        }
        if let (true, Some(last_sent)) = (self.within_notification_interval, group.last_sent) {
            let interval = group.notification_interval;
            let why = format!("the last notification was less than {interval:#} ago");
            waits.push((last_sent.checked_add(interval).ok(), why));
        }
        waits.retain(|(until, _)| until.is_none_or(|until| until > now));
        if waits.is_empty() {
            return Ok(None);
        }
        let (ends, reasons): (Vec<_>, Vec<_>) = waits.into_iter().unzip();
        let until = ends.into_iter().collect::<Option<Vec<_>>>();
        Ok(Some(Wait {
            until: until.and_then(|ends| ends.into_iter().max()),
            why: reasons.join(" and "),
        }))
    }
}

/// When the group's events were observed.
fn observation(group: &Group, format: &FormatName) -> Result<Timestamp, DecideError> {
    let value = aggregate(&group.key, "time.observation")
        .ok_or_else(|| DecideError::NoObservation { format: format.clone() })?;
    value.parse().map_err(|source| DecideError::Observation {
        format: format.clone(),
        value: value.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTES: fn(i64) -> SignedDuration = SignedDuration::from_mins;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn group() -> Group {
        Group {
            key: outbox::GroupKey {
                recipient_address: "abuse@as64496.example".into(),
                template_name: "generic".into(),
                notification_format: "text".into(),
                event_data_format: "csv_inline".into(),
                aggregate_identifier: [(
                    "time.observation".to_owned(),
                    Some("2026-11-20T06:00:00.5+00:00".to_owned()),
                )]
                .into(),
            },
            directive_ids: vec![],
            event_ids: vec![],
            inserted_at: at("2026-11-20T07:00:00Z"),
            notification_interval: SignedDuration::from_hours(24),
            last_sent: Some(at("2026-11-19T12:00:00Z")),
        }
    }

    fn wait_of(group: &Group, rule: Postpone, now: &str) -> Result<Option<Wait>, DecideError> {
        let format = FormatName { name: "test".into(), file: "10-test.toml".into() };
        rule.wait(group, &format, at(now))
    }

    fn until(rule: Postpone, now: &str) -> Option<Timestamp> {
        wait_of(&group(), rule, now).expect("a decision").map(|wait| wait.until.expect("an end"))
    }

    fn duration() -> impl Strategy<Value = SignedDuration> {
        let seconds = prop_oneof![0..100_000_i64, 0..=i64::MAX];
        seconds.prop_map(SignedDuration::from_secs)
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        let last = Timestamp::MAX.as_second();
        let seconds = prop_oneof![1_760_000_000..1_770_000_000_i64, -last / 10..=last];
        seconds.prop_map(|seconds| Timestamp::from_second(seconds).unwrap())
    }

    proptest! {
        /// Whatever the times, intervals and rules: a group that waits is due at the end of its wait and not an instant
        /// before, and one that is due stays so.
        #[test]
        fn a_wait_ends_when_it_says_so(
            (inserted_at, observed, last_sent, now) in (time(), time(), proptest::option::of(time()), time()),
            (interval, newest, observation) in
                (duration(), proptest::option::of(duration()), proptest::option::of(duration())),
            within in any::<bool>(),
        ) {
            let mut group = group();
            group.inserted_at = inserted_at;
            group.last_sent = last_sent;
            group.notification_interval = interval;
            let observed = [("time.observation".to_owned(), Some(observed.to_string()))];
            group.key.aggregate_identifier = observed.into();
            let rule = Postpone {
                newest_directive_younger_than: newest,
                observation_younger_than: observation,
                within_notification_interval: within,
            };
            let format = FormatName { name: "test".into(), file: "10-test.toml".into() };
            let wait = |now| rule.wait(&group, &format, now).unwrap();
            match wait(now) {
                None => prop_assert!(wait(Timestamp::MAX).is_none()),
                Some(Wait { until: None, .. }) => prop_assert!(wait(Timestamp::MAX).is_some()),
                Some(Wait { until: Some(until), why }) => {
                    prop_assert!(until > now && !why.is_empty());
                    prop_assert!(wait(until).is_none());
                    let before = until - SignedDuration::from_nanos(1);
                    prop_assert_eq!(wait(before).and_then(|wait| wait.until), Some(until));
                }
            }
            if let (Some(last), true) = (last_sent, within) {
                let passed = now.duration_since(last);
                prop_assert!(passed >= interval || wait(now).is_some(), "within the interval");
            }
        }
    }

    #[test]
    fn a_young_directive_waits_until_it_has_the_age() {
        let rule =
            Postpone { newest_directive_younger_than: Some(MINUTES(15)), ..Postpone::default() };
        let end = at("2026-11-20T07:15:00Z");
        assert_eq!(until(rule, "2026-11-20T07:14:59.999Z"), Some(end));
        assert_eq!(until(rule, "2026-11-20T07:15:00Z"), None);
    }

    #[test]
    fn a_young_observation_waits_until_it_has_the_age() {
        let rule = Postpone { observation_younger_than: Some(MINUTES(120)), ..Postpone::default() };
        let end = at("2026-11-20T08:00:00.5Z");
        assert_eq!(until(rule, "2026-11-20T08:00:00.4Z"), Some(end));
        assert_eq!(until(rule, "2026-11-20T08:00:00.5Z"), None);
    }

    #[test]
    fn an_observation_is_read_with_offset_or_z_and_with_or_without_a_fraction() {
        let rule = Postpone { observation_younger_than: Some(MINUTES(60)), ..Postpone::default() };
        for text in [
            "2026-11-20T06:00:00+00:00",
            "2026-11-20T06:00:00Z",
            "2026-11-20T06:00:00.000000+00:00",
            "2026-11-20T07:00:00+01:00",
        ] {
            let mut group = group();
            group.key.aggregate_identifier =
                [("time.observation".to_owned(), Some(text.to_owned()))].into();
            let wait = wait_of(&group, rule, "2026-11-20T06:30:00Z").expect("a decision");
            assert_eq!(wait.and_then(|w| w.until), Some(at("2026-11-20T07:00:00Z")), "{text}");
        }
    }

    #[test]
    fn an_observation_that_is_missing_or_no_time_is_an_error_that_names_rule_and_key() {
        let rule = Postpone { observation_younger_than: Some(MINUTES(60)), ..Postpone::default() };
        for value in [None, Some("yesterday"), Some("2026-11-20T06:00:00"), Some("")] {
            let mut group = group();
            group
                .key
                .aggregate_identifier
                .insert("time.observation".to_owned(), value.map(str::to_owned));
            let error = wait_of(&group, rule, "2026-11-20T06:30:00Z").expect_err("no time");
            let text = error.to_string();
            assert!(text.contains("\"test\" (10-test.toml)"), "{text}");
            assert!(text.contains("time.observation"), "{text}");
            assert!(text.contains("observation_younger_than"), "{text}");
            if let Some(value) = value {
                assert!(text.contains(&format!("{value:?}")), "{text}");
            }
        }
        // Nobody asks: no error.
        let mut group = group();
        group.key.aggregate_identifier.clear();
        assert!(wait_of(&group, Postpone::default(), "2026-11-20T06:30:00Z").is_ok());
    }

    #[test]
    fn a_group_waits_for_its_interval_and_no_longer() {
        let rule = Postpone { within_notification_interval: true, ..Postpone::default() };
        let end = at("2026-11-20T12:00:00Z");
        assert_eq!(until(rule, "2026-11-20T11:59:59Z"), Some(end));
        assert_eq!(until(rule, "2026-11-20T12:00:00Z"), None);

        let mut never_sent = group();
        never_sent.last_sent = None;
        assert_eq!(wait_of(&never_sent, rule, "2026-11-20T11:00:00Z").expect("a decision"), None);

        let mut no_interval = group();
        no_interval.notification_interval = SignedDuration::ZERO;
        assert_eq!(wait_of(&no_interval, rule, "2026-11-19T12:00:00Z").expect("a decision"), None);
    }

    #[test]
    fn the_interval_alone_does_not_postpone_where_no_rule_asks_for_it() {
        assert_eq!(until(Postpone::default(), "2026-11-20T11:00:00Z"), None);
    }

    #[test]
    fn with_several_reasons_the_last_to_end_counts_and_all_are_told() {
        let rule = Postpone {
            newest_directive_younger_than: Some(MINUTES(15)),
            observation_younger_than: Some(MINUTES(30)),
            within_notification_interval: true,
        };
        let wait = wait_of(&group(), rule, "2026-11-20T07:10:00Z").expect("a decision");
        let wait = wait.expect("a wait");
        assert_eq!(wait.until, Some(at("2026-11-20T12:00:00Z")));
        assert_eq!(
            wait.why,
            "the newest directive is younger than 15m and the last notification was less than 24h \
             ago"
        );
    }

    #[test]
    fn a_wait_beyond_all_time_has_no_end() {
        let rule = Postpone {
            newest_directive_younger_than: Some(SignedDuration::MAX),
            ..Postpone::default()
        };
        let wait = wait_of(&group(), rule, "2026-11-20T07:10:00Z").expect("a decision");
        assert_eq!(wait.expect("a wait").until, None);
    }
}
