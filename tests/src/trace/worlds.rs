//! The runs that are recorded: small, and with everything that can become of a mail.

use serde_json::{Value, json};

use super::Trace;
use super::recorder::Recorder;
use crate::events::{self, Directive};
use crate::programs::Programs;
use crate::scripted_relay::{Act, At, ScriptedRelay};
use crate::site::{Builder, Program, Site};

/// A world in which both programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// As things mostly are.
    Usual,
    /// Without an archive.
    WithoutArchive,
    /// With `delivery.uncertain` `"hold"`.
    UncertainHold,
}

/// The recipient that the relay of every world refuses.
pub const REFUSED: &str = "refused@isp.example";

/// The recipient whose mail is taken back so that it is written anew.
pub const ANEW: &str = "anew@isp.example";

/// The recipient whose mail is taken back so that it is never sent.
pub const NEVER_SENT: &str = "never@isp.example";

impl World {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Usual, Self::WithoutArchive, Self::UncertainHold];

    /// An installation for it.
    pub fn site(self, programs: Programs, relay: u16) -> Builder {
        let copies =
            include_str!("../../../templates/formats/examples/01-constituency-copies.toml");
        let site = Site::new(programs)
            .relay(relay)
            .unsigned()
            .template("formats/01-constituency-copies.toml", copies);
        match self {
            Self::Usual => site,
            Self::WithoutArchive => site.set("delivery.archive_for", json!("0s")),
            Self::UncertainHold => site.set("delivery.uncertain", json!("hold")),
        }
    }

    /// What arrives, in portions.
    pub fn events(self) -> Vec<Vec<Value>> {
        let to = |name: &str| Directive::to(name).event();
        let copied = |name: &str, group: &str| {
            Directive::to(name).aggregate("recipient_group", group).event()
        };
        match self {
            Self::Usual => vec![
                vec![
                    to("plain@isp.example"),
                    copied("copied@isp.example", "Government"),
                    to("slow@isp.example,quick@isp.example"),
                    to(REFUSED),
                    to(ANEW),
                    to(NEVER_SENT),
                ],
                vec![copied("second@isp.example", "Energy")],
                vec![to("third@isp.example")],
            ],
            Self::WithoutArchive => {
                vec![vec![to("plain@isp.example"), copied("copied@isp.example", "Government")]]
            }
            Self::UncertainHold => vec![vec![
                to("plain@isp.example"),
                to("slow@isp.example,quick@isp.example"),
                to(REFUSED),
            ]],
        }
    }

    /// Whom mails go to in it, each of them once.
    pub fn recipients(self) -> Vec<&'static str> {
        match self {
            Self::Usual => vec![
                "plain@isp.example",
                "copied@isp.example",
                "internal-gov@cert.example",
                "slow@isp.example",
                "quick@isp.example",
                ANEW,
                NEVER_SENT,
                "second@isp.example",
                "internal-energy@cert.example",
                "third@isp.example",
            ],
            Self::WithoutArchive => {
                vec!["plain@isp.example", "copied@isp.example", "internal-gov@cert.example"]
            }
            Self::UncertainHold => {
                vec!["plain@isp.example", "slow@isp.example", "quick@isp.example"]
            }
        }
    }

    /// Runs both programs in it.
    pub fn record(self, programs: Programs) -> Trace {
        let relay = ScriptedRelay::start();
        let site = self.site(programs, relay.port()).build();
        relay.always(At::Rcpt, REFUSED, Act::Say("550 5.1.1 no such user"));
        for later in ["slow@isp.example", ANEW, NEVER_SENT] {
            relay.once(At::Rcpt, later, Act::Say("450 4.2.0 greylisted"));
        }
        let mut portions = self.events().into_iter();
        let mut insert = || site.insert(&portions.next().expect("there is one more"));
        let mut recorder = Recorder::new(&site, relay.port());
        insert();
        recorder.run(Program::Generator, &["run", "--all"]).expect(0);
        // One that is refused is an error.
        let refused = i32::from(self != Self::WithoutArchive);
        recorder.run(Program::Deliverer, &["run", "--once"]).expect(refused);
        if self != Self::WithoutArchive {
            recorder
                .run(Program::Deliverer, &["retry", &ticket(&site, "slow@isp.example")])
                .expect(0);
            recorder.run(Program::Deliverer, &["run", "--once"]).expect(0);
        }
        if self == Self::Usual {
            for (how, whom) in [("--regenerate", ANEW), ("--suppress", NEVER_SENT)] {
                let withdraw = ["withdraw", how, &ticket(&site, whom)];
                recorder.run(Program::Deliverer, &withdraw).expect(0);
            }
            insert();
            // What is renamed: the sidecars of the copy and of two mails, and then these three.
            for kill in [2, 4] {
                let all = ["run", "--all"];
                let killed = recorder.killed_before(Program::Generator, &all, "rename", kill);
                assert_eq!(killed.status.code(), None, "{killed}");
            }
            insert();
            let sidecars = site.outbox().join("sidecar");
            recorder
                .together(&format!(
                    "$DELIVERER run & d=$!
                     $GENERATOR run --all
                     while [ $(ls {} | wc -l) -gt 1 ]; do sleep 0.1; done
                     kill -TERM $d; wait $d",
                    sidecars.display()
                ))
                .expect(0);
        }
        let mut trace = recorder.trace();
        trace.uncertain_hold = self == Self::UncertainHold;
        trace
    }
}

/// Many mails, of which a run of the generator makes more than one batch.
pub fn many(programs: Programs) -> Trace {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs).relay(relay.port()).unsigned().build();
    site.insert(&events::groups(105));
    let mut recorder = Recorder::new(&site, relay.port());
    recorder.run(Program::Generator, &["run", "--all"]).expect(0);
    recorder.run(Program::Deliverer, &["run", "--once"]).expect(0);
    recorder.trace()
}

/// The ticket of the one mail in the outbox that goes to this recipient.
fn ticket(site: &Site, recipient: &str) -> String {
    let sidecars = site.sidecars();
    let to = |sidecar: &&Value| {
        sidecar["envelope"]["to"].as_array().is_some_and(|to| to.contains(&json!(recipient)))
    };
    let sidecar = sidecars.iter().find(to).expect("there is a mail to it");
    sidecar["ticket"].as_str().expect("a sidecar has a ticket").to_owned()
}
