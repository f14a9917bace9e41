//! Recorded runs keep the order of docs/outbox-format.md, and a breach of each rule would be found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use outbox_tests::programs;
use outbox_tests::site::Program;
use outbox_tests::trace::order::{Report, Rule, check};
use outbox_tests::trace::worlds::{self, ANEW, NEVER_SENT, REFUSED, World};
use outbox_tests::trace::{Event, Relay, Trace, What, flags_of, folder_of, mail_of};

#[test]
fn both_programs_keep_the_order_and_every_rule_is_looked_at() {
    let mut looked_at: BTreeMap<Rule, usize> = BTreeMap::new();
    let many = worlds::many(programs!());
    for trace in World::ALL.map(recorded).into_iter().chain([&many]) {
        let report = check(trace);
        assert_kept(&report);
        println!("{} events of {} processes", trace.events.len(), trace.processes.len());
        for (rule, times) in report.looked_at {
            *looked_at.entry(rule).or_default() += times;
        }
    }
    for rule in Rule::ALL {
        println!("{:5} {rule:?}", looked_at.get(&rule).copied().unwrap_or_default());
    }
    for rule in Rule::ALL {
        assert!(looked_at.contains_key(&rule), "{rule:?} was never looked at");
    }
}

#[test]
fn a_breach_of_each_rule_is_found_and_called_by_its_name() {
    let mut planted = BTreeSet::new();
    for (rule, world, plant) in PLANTED {
        let mut planting = Planting(recorded(*world).clone());
        plant(&mut planting);
        planting.0.sort();
        let violations = check(&planting.0).violations;
        assert!(!violations.is_empty(), "{rule:?} is broken, and nothing was found");
        for violation in &violations {
            assert_eq!(violation.rule, *rule, "{violation}");
            assert!(!violation.early.is_empty() && !violation.late.is_empty());
        }
        println!("{}", violations[0]);
        planted.insert(*rule);
    }
    assert!(planted.iter().eq(&Rule::ALL), "each rule is broken once");
}

/// Breaches: of which rule, in which world, and how.
#[expect(clippy::type_complexity, reason = "it is a table")]
const PLANTED: &[(Rule, World, fn(&mut Planting))] = &[
    (Rule::GeneratorHasItsLock, World::Usual, |trace| {
        trace.forget(|event| event.what == What::Locked("sidecar".into()));
    }),
    (Rule::ClaimsAreRead, World::Usual, |trace| {
        let claims = What::Opened(trace.sidecar(REFUSED));
        trace.forget_all_of(Program::Generator, |event| event.what == claims);
    }),
    (Rule::ClaimsAreRead, World::Usual, |trace| {
        trace.forget_all_of(Program::Generator, |event| {
            event.what == What::Listed("sidecar".into())
        });
    }),
    (Rule::TicketIsCommitted, World::Usual, |trace| {
        let draft = What::Created(format!("tmp/{}", trace.mail(PLAIN)));
        let draws = |event: &Event| match &event.what {
            What::Committed(transaction) => !transaction.drawn.is_empty(),
            _ => false,
        };
        trace.move_behind(draws, |event| event.what == draft);
    }),
    (Rule::SidecarsOctetsAreDurable, World::Usual, |trace| {
        let synced = What::Synced(format!("sidecar/.{}.json.tmp", trace.mail(PLAIN)));
        trace.forget(|event| event.what == synced);
    }),
    (Rule::MailsOctetsAreDurable, World::Usual, |trace| {
        let synced = What::Synced(format!("tmp/{}", trace.mail(PLAIN)));
        trace.forget(|event| event.what == synced);
    }),
    (Rule::DraftsNameIsDurable, World::Usual, |trace| {
        let sidecar = trace.sidecar(PLAIN);
        trace.move_behind(synced("tmp"), move |event| renamed_to(event, &sidecar));
    }),
    (Rule::CopiesAreCommitted, World::Usual, |trace| {
        let (copy, mail) = (trace.sidecar(COPY), trace.sidecar(COPIED));
        trace.move_behind(|event| renamed_to(event, &copy), |event| renamed_to(event, &mail));
    }),
    (Rule::CopiesAreCommitted, World::Usual, |trace| {
        let copy = trace.sidecar(COPY);
        let committed = trace.place(|event| renamed_to(event, &copy));
        let synced = trace.next(committed, synced("sidecar"));
        trace.0.events.remove(synced);
    }),
    (Rule::SidecarsNameIsDurable, World::Usual, |trace| {
        let new = format!("new/{}", trace.mail(PLAIN));
        let before = trace.place(|event| renamed_to(event, &trace.sidecar(PLAIN)));
        let synced = trace.next(before, synced("sidecar"));
        trace.put_behind(synced, |event| renamed_to(event, &new));
    }),
    (Rule::CopiesArePublished, World::Usual, |trace| {
        let (copy, mail) = (trace.mail(COPY), trace.mail(COPIED));
        let published =
            |mail: String| move |event: &Event| renamed_to(event, &format!("new/{mail}"));
        trace.move_behind(published(copy), published(mail));
    }),
    (Rule::CopiesArePublished, World::Usual, |trace| {
        trace.forget(synced("new"));
    }),
    (Rule::NewIsDurableBeforeTmp, World::Usual, |trace| {
        let plain = format!("new/{}", trace.mail(PLAIN));
        let published = trace.place(|event| renamed_to(event, &plain));
        let new = trace.next(published, synced("new"));
        let tmp = trace.next(new, synced("tmp"));
        trace.set(new, trace.0.events[tmp].to + 1);
    }),
    (Rule::PublishedIsDurable, World::Usual, |trace| {
        let ended = trace.place(|event| event.what == What::Ended);
        let new = trace.place(synced("new"));
        trace.set(ended, trace.0.events[new].from - 1);
    }),
    (Rule::AbandonedSidecarIsGone, World::Usual, |trace| {
        let removed = trace.place_of(
            Program::Generator,
            |event| matches!(&event.what, What::Removed(path) if folder_of(path) == "sidecar"),
        );
        let synced = trace.next(removed, synced("sidecar"));
        trace.0.events.remove(synced);
    }),
    (Rule::DelivererHasItsLock, World::Usual, |trace| {
        trace.forget(|event| event.what == What::Locked("delivery".into()));
    }),
    (Rule::RecordingWasTried, World::Usual, |trace| {
        trace.forget_all_of(Program::Deliverer, synced("delivery/.probe.json.tmp"));
    }),
    (Rule::MailIsPublished, World::Usual, |trace| {
        let new = format!("new/{}", trace.mail(PLAIN));
        trace.forget(|event| renamed_to(event, &new));
    }),
    (Rule::OctetsAreTheSame, World::Usual, |trace| {
        let at = trace.place(|event| matches!(event.what, What::Relay(_, Relay::HandedOver(_))));
        let What::Relay(_, Relay::HandedOver(octets)) = &mut trace.0.events[at].what else {
            unreachable!("it was looked for")
        };
        let last = octets.len() - 3;
        octets[last] ^= 1;
    }),
    (Rule::MailIsLocked, World::Usual, |trace| {
        let locked = What::Locked(trace.sidecar(PLAIN));
        trace.forget(|event| event.what == locked);
    }),
    (Rule::LockIsHeldUntilRecorded, World::Usual, |trace| {
        let unlocked = What::Unlocked(trace.sidecar(PLAIN));
        let record = What::Created(format!("delivery/.{}.json.tmp", trace.mail(PLAIN)));
        trace.move_before(|event| event.what == unlocked, |event| event.what == record);
    }),
    (Rule::OfferIsRecorded, World::UncertainHold, |trace| {
        let record = format!("delivery/{}.json", trace.mail(PLAIN));
        let offered = trace.place(|event| renamed_to(event, &record));
        let synced = trace.next(offered, synced("delivery"));
        trace.put_behind(synced, |event| matches!(event.what, What::Relay(_, Relay::Began)));
    }),
    (Rule::RelayHasAccepted, World::Usual, |trace| {
        let record = What::Created(format!("delivery/.{}.json.tmp", trace.mail(PLAIN)));
        trace.move_behind(
            |event| matches!(event.what, What::Relay(_, Relay::Answered(_))),
            |event| event.what == record,
        );
    }),
    (Rule::FlagIsDurable, World::Usual, |trace| {
        let flagged = trace.place(|event| flagged(event, 'F'));
        let synced = trace.next(flagged, synced("cur"));
        trace.0.events.remove(synced);
    }),
    (Rule::FlagIsDurable, World::Usual, |trace| {
        let flagged = trace.place(|event| flagged(event, 'F'));
        let synced = trace.next(flagged, synced("new"));
        trace.0.events.remove(synced);
    }),
    (Rule::FlagIsDurable, World::Usual, |trace| {
        let record = What::Created(format!("delivery/.{}.json.tmp", trace.mail(REFUSED)));
        trace.move_behind(|event| flagged(event, 'F'), |event| event.what == record);
    }),
    (Rule::NameIsNew, World::Usual, |trace| {
        let retried = trace.place(|event| flagged(event, 'r'));
        let What::Renamed(_, name) = trace.0.events[retried].what.clone() else {
            unreachable!("it was looked for")
        };
        let cleared = trace
            .next(retried, |event| matches!(&event.what, What::Renamed(from, _) if *from == name));
        trace.0.events[cleared].what = What::Renamed(name.clone(), name);
    }),
    (Rule::RecordsOctetsAreDurable, World::Usual, |trace| {
        let temporary = format!("delivery/.{}.json.tmp", trace.mail(PLAIN));
        trace.forget(synced(&temporary));
    }),
    (Rule::RecordIsDurable, World::Usual, |trace| {
        let record = format!("delivery/{}.json", trace.mail(PLAIN));
        let renamed = trace.place(|event| renamed_to(event, &record));
        let synced = trace.next(renamed, synced("delivery"));
        let before = trace.0.events[synced].from;
        let marking = trace.next(renamed, |event| matches!(event.what, What::Marking(_)));
        trace.set(marking, before);
    }),
    (Rule::CommittedBeforeArchived, World::Usual, |trace| {
        let mail = trace.mail(PLAIN);
        trace.move_before(|event| archived(event, &mail), |event| commits(event, &mail));
    }),
    (Rule::CommittedBeforeArchived, World::Usual, |trace| {
        let copy = trace.mail(COPY);
        let record = format!("delivery/{copy}.json");
        trace.move_before(|event| archived(event, &copy), |event| renamed_to(event, &record));
    }),
    (Rule::CommittedBeforeForgotten, World::Usual, |trace| {
        let (mail, sidecar) = (trace.mail(PLAIN), trace.sidecar(PLAIN));
        // As where somebody removed its file.
        trace.forget(|event| archived(event, &mail));
        trace.move_before(|event| removed(event, &sidecar), |event| commits(event, &mail));
    }),
    (Rule::ArchiveIsDurable, World::Usual, |trace| trace.forget_in_finish("sent/cur")),
    (Rule::ArchiveIsDurable, World::Usual, |trace| trace.forget_in_finish("new")),
    (Rule::ArchiveIsDurable, World::Usual, |trace| trace.forget_in_finish("cur")),
    (Rule::ArchiveIsDurable, World::WithoutArchive, |trace| {
        let mail = trace.mail(PLAIN);
        let archived = trace.place(|event| archived(event, &mail));
        let synced = trace.next(archived, synced("sent/cur"));
        trace.set(synced, trace.0.events[archived].to + 1);
    }),
    (Rule::SidecarIsGone, World::Usual, |trace| {
        let sidecar = trace.sidecar(PLAIN);
        let removed = trace.place(|event| removed(event, &sidecar));
        let synced = trace.next(removed, synced("sidecar"));
        trace.0.events.remove(synced);
    }),
    (Rule::WithdrawnIsDurable, World::Usual, |trace| {
        let flagged = trace.place(|event| flagged(event, 'T'));
        let synced = trace.next(flagged, synced("cur"));
        trace.0.events.remove(synced);
    }),
    (Rule::RecordIsReadUnderLock, World::Usual, |trace| {
        let (mail, locked) = (trace.mail(ANEW), What::Locked(trace.sidecar(ANEW)));
        let flagged = trace.place(|event| flagged(event, 'T'));
        let locked = trace.next(flagged, |event| event.what == locked);
        let record = What::Opened(format!("delivery/{mail}.json"));
        let read = trace.next(locked, |event| event.what == record);
        trace.0.events.remove(read);
    }),
    (Rule::LockIsHeldUntilForgotten, World::Usual, |trace| {
        let sidecar = trace.sidecar(ANEW);
        let gone = trace.place(|event| removed(event, &sidecar));
        let unlocked = trace.next(gone, |event| event.what == What::Unlocked(sidecar.clone()));
        trace.set(unlocked, trace.0.events[gone].from - 1);
    }),
    (Rule::FileIsGone, World::Usual, |trace| {
        let mail = trace.mail(ANEW);
        let gone = trace.place(|event| {
            matches!(&event.what, What::Removed(path)
                if folder_of(path) == "cur" && mail_of(path) == Some(&mail))
        });
        let synced = trace.next(gone, synced("cur"));
        trace.0.events.remove(synced);
    }),
    (Rule::FileIsGone, World::Usual, |trace| {
        let mail = trace.mail(NEVER_SENT);
        let gone = What::Removed(trace.sidecar(NEVER_SENT));
        let gone = trace.place(|event| event.what == gone);
        let file = trace.place(|event| {
            matches!(&event.what, What::Removed(path)
                if folder_of(path) == "cur" && mail_of(path) == Some(&mail))
        });
        let synced = trace.next(file, synced("new"));
        trace.set(synced, trace.0.events[gone].from - 1);
    }),
    (Rule::SuppressedBeforeForgotten, World::Usual, |trace| {
        let (mail, sidecar) = (trace.mail(NEVER_SENT), trace.sidecar(NEVER_SENT));
        trace.move_behind(|event| commits(event, &mail), |event| removed(event, &sidecar));
    }),
];

const PLAIN: &str = "plain@isp.example";
const COPIED: &str = "copied@isp.example";
const COPY: &str = "internal-gov@cert.example";

/// A trace into which a breach is planted.
struct Planting(Trace);

impl Planting {
    /// The first mail that goes to this recipient.
    #[track_caller]
    fn mail(&self, recipient: &str) -> String {
        let mut sidecars = self.0.events.iter().filter_map(|event| match &event.what {
            What::Wrote(path, octets) if folder_of(path) == "sidecar" => {
                Some(serde_json::from_slice::<outbox::Sidecar>(octets).unwrap())
            }
            _ => None,
        });
        sidecars.find(|sidecar| sidecar.envelope.to == [recipient]).unwrap().id.to_string()
    }

    fn sidecar(&self, recipient: &str) -> String {
        format!("sidecar/{}.json", self.mail(recipient))
    }

    #[track_caller]
    fn place(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.0.events.iter().position(wanted).expect("it happened")
    }

    #[track_caller]
    fn place_of(&self, program: Program, wanted: impl Fn(&Event) -> bool) -> usize {
        self.place(|event| self.0.processes[event.process].program == program && wanted(event))
    }

    #[track_caller]
    fn next(&self, place: usize, wanted: impl Fn(&Event) -> bool) -> usize {
        let after = self.0.events[place].to;
        self.place(|event| event.from > after && wanted(event))
    }

    /// Has an event happen at another time.
    fn set(&mut self, place: usize, time: u64) {
        (self.0.events[place].from, self.0.events[place].to) = (time, time);
    }

    #[track_caller]
    fn put_behind(&mut self, place: usize, other: impl Fn(&Event) -> bool) {
        self.set(place, self.0.events[self.place(other)].to + 1);
    }

    #[track_caller]
    fn move_behind(&mut self, event: impl Fn(&Event) -> bool, other: impl Fn(&Event) -> bool) {
        self.put_behind(self.place(event), other);
    }

    /// Has an event happen before another is at its end.
    #[track_caller]
    fn move_before(&mut self, event: impl Fn(&Event) -> bool, other: impl Fn(&Event) -> bool) {
        let time = self.0.events[self.place(other)].to - 1;
        self.set(self.place(event), time);
    }

    #[track_caller]
    fn forget(&mut self, wanted: impl Fn(&Event) -> bool) {
        self.0.events.remove(self.place(wanted));
    }

    fn forget_all_of(&mut self, program: Program, wanted: impl Fn(&Event) -> bool) {
        let Trace { events, processes, .. } = &mut self.0;
        events.retain(|event| processes[event.process].program != program || !wanted(event));
    }

    /// Leaves out a folder's fsync from the finish of a mail.
    #[track_caller]
    fn forget_in_finish(&mut self, folder: &str) {
        let mail = self.mail(PLAIN);
        let archived = self.place(|event| archived(event, &mail));
        self.0.events.remove(self.next(archived, synced(folder)));
    }
}

fn synced(path: &str) -> impl Fn(&Event) -> bool {
    let synced = What::Synced(path.to_owned());
    move |event| event.what == synced
}

fn renamed_to(event: &Event, path: &str) -> bool {
    matches!(&event.what, What::Renamed(_, to) if to == path)
}

fn removed(event: &Event, path: &str) -> bool {
    matches!(&event.what, What::Removed(removed) if removed == path)
}

fn flagged(event: &Event, flag: char) -> bool {
    matches!(&event.what, What::Renamed(_, to) if flags_of(to).contains(flag))
}

fn archived(event: &Event, mail: &str) -> bool {
    matches!(&event.what, What::Renamed(_, to)
        if folder_of(to) == "sent/cur" && mail_of(to) == Some(mail))
}

fn commits(event: &Event, mail: &str) -> bool {
    let ticket = mail.split('.').nth(2).expect("a mail's name has a ticket");
    let What::Committed(transaction) = &event.what else { return false };
    transaction.sent.iter().any(|(sent, _)| sent == ticket)
}

/// A recorded world: once for all tests.
fn recorded(world: World) -> &'static Trace {
    static RECORDED: [OnceLock<Trace>; 3] = [const { OnceLock::new() }; 3];
    let number = World::ALL.iter().position(|other| *other == world).expect("it is one of all");
    RECORDED[number].get_or_init(|| world.record(programs!()))
}

#[track_caller]
fn assert_kept(report: &Report) {
    let words: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(words.is_empty(), "{}", words.join("\n"));
}
