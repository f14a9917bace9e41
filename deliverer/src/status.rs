//! `status`: how the outbox and the service do, as a plugin for Icinga and Nagios.
//!
//! The first line is what a notification shows, with performance data behind `|`; the lines after it
//! say more. Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, and no others, whatever goes wrong:
//! Icinga knows only these.

#[cfg(any(test, fuzzing))]
pub(crate) mod oracles;

use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use outbox::Outbox;
use outbox_config::program::{CommonArgs, print, to_json};
use outbox_config::text::one_line;
use outbox_config::{Config, TooLittleRoom, duration_words};
use serde::Serialize;

use crate::cli::{StateName, StatusArgs};
use crate::counts::Counts;
use crate::health::{self, Health, Presence};
use crate::queue::{Listed, read};

/// For how long a service may not have looked at its outbox. It looks every half minute.
const UNHEARD_OF: Duration = Duration::from_secs(300);

/// Ends the program with UNKNOWN.
pub const UNKNOWN: u8 = 3;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Severity {
    Ok,
    Warning,
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        })
    }
}

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Problem {
    severity: Severity,
    /// What, in as few words as a notification has room for.
    what: String,
    /// What is behind it, or what to do.
    more: String,
}

/// What was found.
struct Found {
    counts: Counts,
    service: Presence,
    /// What the file system lacks for new mails.
    lack: Option<TooLittleRoom>,
    now: Timestamp,
}

/// Looks, prints and gives the plugin's exit code.
pub fn status(common: &CommonArgs, asked: &StatusArgs) -> ExitCode {
    let (text, code) = match look(common) {
        Ok(found) => {
            let problems = found.judge(asked);
            let worst = problems.iter().map(|problem| problem.severity).max();
            let worst = worst.unwrap_or(Severity::Ok);
            let text = if asked.json {
                found.as_json(worst, &problems)
            } else {
                found.as_plugin(worst, &problems, asked)
            };
            (text, worst as u8)
        }
        Err(error) => {
            (format!("OUTBOX UNKNOWN - {}\n", plugin_words(&format!("{error:#}"))), UNKNOWN)
        }
    };
    match print(&text) {
        Ok(()) => code.into(),
        Err(_) => UNKNOWN.into(),
    }
}

fn look(common: &CommonArgs) -> anyhow::Result<Found> {
    let config = Config::load(common.config.as_deref())?;
    let outbox = Outbox::open(&config.outbox.path)?;
    let mails = read(&outbox)?;
    let room = outbox.room()?;
    Ok(Found {
        counts: mails.iter().map(Listed::counted).collect(),
        service: health::read(&outbox)?,
        lack: config.outbox.room_for_mails(room.octets, room.files).err(),
        now: outbox::now(),
    })
}

impl Found {
    /// What is not as it should be, the worst first.
    fn judge(&self, asked: &StatusArgs) -> Vec<Problem> {
        let mut problems = Vec::new();
        match &self.service {
            Presence::Absent => problems.push(Problem {
                severity: Severity::Critical,
                what: "no deliverer runs".into(),
                more: "nothing is relayed until the service is started".into(),
            }),
            Presence::Silent => {}
            Presence::Running(health) => self.judge_health(health, asked, &mut problems),
        }
        if let Some(lack) = &self.lack {
            problems.push(Problem {
                severity: Severity::Warning,
                what: format!("disk low: {}", lack.short()),
                more: format!("no new mails are written: {lack}"),
            });
        }
        let oldest = self.counts.oldest_waiting(self.now).unwrap_or_default();
        if let Some(severity) = above(oldest, Some(asked.warn_age), Some(asked.crit_age)) {
            problems.push(Problem {
                severity,
                what: oldest_words(oldest),
                more: "`outbox-deliverer list` tells which, and what the relay said".into(),
            });
        }
        for (state, warn, crit) in asked.limits() {
            let count = self.counts.of(state);
            if let Some(severity) = above(count, warn, crit) {
                problems.push(Problem {
                    severity,
                    what: format!("{count} {state}"),
                    more: format!("`outbox-deliverer list --state {state}` tells which"),
                });
            }
        }
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        problems
    }

    fn judge_health(&self, health: &Health, asked: &StatusArgs, problems: &mut Vec<Problem>) {
        let works = health.relays.iter().any(|relay| relay.trouble.is_none());
        for relay in &health.relays {
            let Some(trouble) = &relay.trouble else { continue };
            // While another one takes the mails, nothing is late.
            let long = !works && trouble.duration(self.now) > asked.crit_age;
            let paused = relay.paused_until.filter(|until| *until > self.now);
            let paused = paused.map(|until| format!("; tried again at {until:.0}"));
            problems.push(Problem {
                severity: if long { Severity::Critical } else { Severity::Warning },
                what: relay.words(self.now),
                more: format!("{}{}", trouble.words, paused.unwrap_or_default()),
            });
        }
        if let Some(trouble) = &health.database {
            let lasts = duration_words(trouble.duration(self.now));
            problems.push(Problem {
                severity: Severity::Warning,
                what: format!("database away for {lasts}"),
                more: trouble.words.clone(),
            });
        }
        let unheard = self.now.duration_since(health.looked_at);
        let unheard = Duration::try_from(unheard).unwrap_or_default();
        if unheard > UNHEARD_OF {
            problems.push(Problem {
                severity: Severity::Warning,
                what: format!("the deliverer has not looked for {}", duration_words(unheard)),
                more: format!("process {} hangs, or cannot write into the outbox", health.pid),
            });
        }
    }

    /// What Icinga reads, and a person too.
    fn as_plugin(&self, worst: Severity, problems: &[Problem], asked: &StatusArgs) -> String {
        let mut words: Vec<String> = problems.iter().map(|problem| problem.what.clone()).collect();
        // A number is not told twice.
        let told = |state: StateName| words.contains(&format!("{} {state}", self.counts.of(state)));
        let rest: Vec<String> = self
            .counts
            .by_state()
            .filter(|(state, count)| *count > 0 && !told(*state))
            .map(|(state, count)| format!("{count} {state}"))
            .collect();
        if !rest.is_empty() {
            words.push(rest.join(", "));
        } else if self.counts == Counts::default() {
            words.push(self.counts.to_string());
        }
        let oldest = self.counts.oldest_waiting(self.now);
        words.extend(oldest.map(oldest_words).filter(|oldest| !words.contains(oldest)));
        if let Presence::Running(health) = &self.service {
            let well = health.relays.iter().filter(|relay| relay.trouble.is_none());
            words.extend(well.map(|relay| relay.words(self.now)));
        }
        let mut text = format!(
            "OUTBOX {worst} - {} |{}\n",
            plugin_words(&words.join("; ")),
            self.perfdata(asked)
        );
        for Problem { severity, what, more } in problems {
            let _ = writeln!(text, "{severity}: {}", plugin_words(&format!("{what}: {more}")));
        }
        if let Presence::Running(health) = &self.service {
            let Health { program, pid, started_at, .. } = health;
            let line = format!("outbox-deliverer {program}, process {pid}, since {started_at:.0}");
            let _ = writeln!(text, "{}", plugin_words(&line));
        }
        text
    }

    /// ` label=value[unit];warn;crit;min` for each number.
    fn perfdata(&self, asked: &StatusArgs) -> String {
        let mut text = String::new();
        let limit = |limit: Option<usize>| limit.map(|limit| limit.to_string()).unwrap_or_default();
        for (state, count) in self.counts.by_state() {
            let (warn, crit) = asked
                .limits()
                .into_iter()
                .find(|(limited, ..)| *limited == state)
                .map_or((None, None), |(_, warn, crit)| (warn, crit));
            let _ = write!(text, " {state}={count};{};{};0", limit(warn), limit(crit));
        }
        let oldest = self.counts.oldest_waiting(self.now).unwrap_or_default().as_secs();
        let (warn, crit) = (asked.warn_age.as_secs(), asked.crit_age.as_secs());
        let _ = write!(text, " oldest={oldest}s;{warn};{crit};0");
        text
    }

    fn as_json(&self, worst: Severity, problems: &[Problem]) -> String {
        #[derive(Serialize)]
        struct Json<'a> {
            status: Severity,
            problems: &'a [Problem],
            mails: serde_json::Map<String, serde_json::Value>,
            oldest_waiting_seconds: Option<u64>,
            deliverer_runs: bool,
            service: Option<&'a Health>,
        }
        let mails = self.counts.by_state().map(|(state, count)| (state.to_string(), count.into()));
        let json = Json {
            status: worst,
            problems,
            mails: mails.collect(),
            oldest_waiting_seconds: self.counts.oldest_waiting(self.now).map(|age| age.as_secs()),
            deliverer_runs: self.service != Presence::Absent,
            service: match &self.service {
                Presence::Running(health) => Some(health),
                Presence::Absent | Presence::Silent => None,
            },
        };
        to_json(&json)
    }
}

/// A number above a limit is a problem, one that is just as high is none: so the plugins' guidelines
/// have it.
fn above<N: PartialOrd + Copy>(number: N, warn: Option<N>, crit: Option<N>) -> Option<Severity> {
    if crit.is_some_and(|crit| number > crit) {
        Some(Severity::Critical)
    } else {
        warn.filter(|warn| number > *warn).map(|_| Severity::Warning)
    }
}

fn oldest_words(age: Duration) -> String {
    format!("oldest {}", duration_words(age))
}

/// Words on one line, and none that would begin the performance data.
fn plugin_words(text: &str) -> String {
    one_line(text).replace('|', "¦")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::health::Trouble;
    use StateName::{Deferred, Failed, Held, Queued, Withdrawn};

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn asked(arguments: &[&str]) -> StatusArgs {
        let command = ["outbox-deliverer", "status"].iter().chain(arguments);
        match Cli::try_parse_from(command).unwrap().command {
            Command::Status(asked) => asked,
            other @ Command::Task(_) => panic!("{other:?}"),
        }
    }

    fn health() -> Health {
        let mut health = Health::new(["mail.cert.example:587".to_owned()]);
        health.pid = 4711;
        health.started_at = at("2026-11-24T00:00:00Z");
        health.looked_at = at("2026-11-25T03:59:50Z");
        health
    }

    fn found(mails: &[(StateName, &str)], service: Presence) -> Found {
        let counts = mails.iter().map(|(state, time)| (*state, Some(at(time)))).collect();
        Found { counts, service, lack: None, now: at("2026-11-25T04:00:00Z") }
    }

    fn severities(found: &Found, arguments: &[&str]) -> Vec<(Severity, String)> {
        let problems = found.judge(&asked(arguments)).into_iter();
        problems.map(|problem| (problem.severity, problem.what)).collect()
    }

    #[test]
    fn all_is_well() {
        let mails = [
            (Queued, "2026-11-25T03:56:00Z"),
            (Deferred, "2026-11-25T03:58:00Z"),
            (Held, "2026-11-20T00:00:00Z"),
        ];
        let found = found(&mails, Presence::Running(health()));
        assert_eq!(found.judge(&asked(&[])), []);
        assert_eq!(
            found.as_plugin(Severity::Ok, &[], &asked(&["--crit-held", "100"])),
            "OUTBOX OK - 1 queued, 1 deferred, 1 held; oldest 4m; relay mail.cert.example:587 ok | \
             queued=1;;;0 deferred=1;;;0 held=1;;100;0 withdrawn=0;0;;0 accepted=0;;;0 \
             failed=0;0;;0 oldest=240s;3600;14400;0\n\
             outbox-deliverer 0.1.0, process 4711, since 2026-11-24T00:00:00Z\n"
        );
    }

    #[test]
    fn the_worst_problem_comes_first_and_numbers_are_told_once() {
        let mails = [
            (Queued, "2026-11-24T00:00:00Z"),
            (Failed, "2026-11-24T00:00:00Z"),
            (Withdrawn, "2026-11-24T00:00:00Z"),
        ];
        let found = found(&mails, Presence::Absent);
        let problems = found.judge(&asked(&[]));
        let text = found.as_plugin(Severity::Critical, &problems, &asked(&[]));
        assert_eq!(
            text.split(" |").next().unwrap(),
            "OUTBOX CRITICAL - no deliverer runs; oldest 28h; 1 failed; 1 withdrawn; 1 queued"
        );
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn ages_and_numbers_have_limits() {
        use Severity::{Critical, Warning};
        let well = || Presence::Running(health());
        let age = |minutes: i64, arguments: &[&str]| {
            let written = at("2026-11-25T04:00:00Z") - jiff::SignedDuration::from_mins(minutes);
            let found = found(&[(Deferred, &written.to_string())], well());
            found.judge(&asked(arguments)).first().map(|problem| problem.severity)
        };
        assert_eq!(
            [age(60, &[]), age(61, &[]), age(241, &[])],
            [None, Some(Warning), Some(Critical)]
        );
        assert_eq!(age(61, &["--warn-age", "2h"]), None);
        assert_eq!(age(61, &["--crit-age", "1h"]), Some(Critical));
        let held = found(&[(Held, "2026-11-25T00:00:00Z"); 3], well());
        assert_eq!(severities(&held, &["--warn-held", "3"]), []);
        assert_eq!(severities(&held, &["--warn-held", "2"]), [(Warning, "3 held".to_owned())]);
        assert_eq!(severities(&held, &["--crit-held", "2"]), [(Critical, "3 held".to_owned())]);
        let failed = found(&[(Failed, "2026-11-25T00:00:00Z")], well());
        assert_eq!(severities(&failed, &[]), [(Warning, "1 failed".to_owned())]);
        assert_eq!(severities(&failed, &["--warn-failed", "1"]), []);
    }

    #[test]
    fn a_service_that_is_not_well_is_a_problem() {
        use Severity::{Critical, Warning};
        let trouble = |since: &str| Some(Trouble { since: at(since), words: "no | \n".into() });
        let mut health = health();
        health.relays[0].trouble = trouble("2026-11-25T03:55:00Z");
        health.relays[0].paused_until = Some(at("2026-11-25T04:00:30Z"));
        health.database = trouble("2026-11-25T03:00:00Z");
        health.looked_at = at("2026-11-25T03:50:00Z");
        let mut found_now = found(&[], Presence::Running(health.clone()));
        let (free, floor) = (87 << 20, 100 << 20);
        found_now.lack = Some(TooLittleRoom::Octets { outbox: "/o".into(), free, asked: floor });
        let warnings = [
            "relay mail.cert.example:587 in trouble for 5m",
            "database away for 60m",
            "the deliverer has not looked for 10m",
            "disk low: 87 MiB free",
        ];
        assert_eq!(severities(&found_now, &[]), warnings.map(|what| (Warning, what.to_owned())));
        let problems = found_now.judge(&asked(&[]));
        let text = found_now.as_plugin(Warning, &problems, &asked(&[]));
        let line = "WARNING: relay mail.cert.example:587 in trouble for 5m: no ¦ \\n; tried again at \
                    2026-11-25T04:00:30Z";
        assert_eq!(text.lines().nth(1), Some(line), "{text}");
        let line =
            "WARNING: disk low: 87 MiB free: no new mails are written: the file system of /o has";
        assert!(text.contains(line), "{text}");
        assert_eq!(text.matches('|').count(), 1, "{text}");

        // For too long; but another one works.
        health.relays[0].trouble = trouble("2026-11-24T00:00:00Z");
        let worst = |health: &Health| {
            found(&[], Presence::Running(health.clone())).judge(&asked(&[]))[0].severity
        };
        assert_eq!(worst(&health), Critical);
        health.relays.push(Health::new(["mail2.cert.example:587".to_owned()]).relays.remove(0));
        assert_eq!(worst(&health), Warning);
    }

    #[test]
    fn the_json_has_all_of_it() {
        let found = found(&[(Queued, "2026-11-25T03:59:00Z")], Presence::Running(health()));
        let json: serde_json::Value =
            serde_json::from_str(&found.as_json(Severity::Ok, &[])).unwrap();
        assert_eq!(json["status"], "OK");
        assert_eq!(json["mails"]["queued"], 1);
        assert_eq!(json["oldest_waiting_seconds"], 60);
        assert_eq!(json["service"]["relays"][0]["name"], "mail.cert.example:587");
    }
}
