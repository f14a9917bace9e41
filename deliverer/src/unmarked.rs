//! Relayed mails that the database does not know of yet, and how it does with them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use outbox::{MailFile, MailId, Sidecar};
use outbox_config::DatabaseSettings;
use tracing::{error, warn};

use crate::marker::Marker;
use crate::marks::Mark;

/// How long the marker may say nothing while it has marks in hand: longer than its connection and
/// its statements can take unless the server is frozen.
pub const OVERDUE: Duration = Duration::from_secs(180);

/// How long at most before a marker that says nothing is left alone for another one. Each keeps a thread
/// and a connection until its server ends that.
const LONGEST_OVERDUE: Duration = Duration::from_secs(3600);

/// The mails in the marker's hands.
pub struct Unmarked {
    marker: Marker,
    /// With each file's last known place.
    mails: HashMap<MailId, (Mark, Option<MailFile>)>,
    /// Whether the database refused marks when it was last heard of.
    refused: bool,
    /// Whether it was told that relaying waits for it.
    waited_for: bool,
    /// When the marker last spoke, or had nothing to do.
    heard: Instant,
    /// How long it may say nothing.
    overdue: Duration,
}

impl Unmarked {
    /// None so far.
    pub fn new(marker: Marker) -> Self {
        Self {
            marker,
            mails: HashMap::new(),
            refused: false,
            waited_for: false,
            heard: Instant::now(),
            overdue: OVERDUE,
        }
    }

    /// Has a relayed mail marked. Its record says already, durably, that it was accepted.
    pub fn hand_over(
        &mut self,
        sidecar: Sidecar,
        accepted_at: Option<Timestamp>,
        file: Option<MailFile>,
    ) {
        let mark = Mark {
            id: sidecar.id,
            ticket: sidecar.ticket,
            sent_at: accepted_at.unwrap_or(sidecar.created_at),
            directive_ids: sidecar.directive_ids,
        };
        self.mails.insert(mark.id.clone(), (mark.clone(), file));
        self.marker.mark(mark);
    }

    /// The database knows of these. Gives them with their files.
    pub fn marked(&mut self, ids: Vec<MailId>) -> Vec<(MailId, Option<MailFile>)> {
        self.refused = false;
        self.spoke();
        ids.into_iter()
            .filter_map(|id| self.mails.remove(&id).map(|(_, file)| (id, file)))
            .collect()
    }

    /// The database takes no marks now.
    pub fn not_marked(&mut self) {
        self.refused = true;
        self.spoke();
    }

    fn spoke(&mut self) {
        self.heard = Instant::now();
        self.overdue = OVERDUE;
    }

    /// Notices that the marker is stuck: a frozen server can keep it waiting for ever. Then another one
    /// begins anew. Gives what is wrong with the database, if that was noticed now.
    pub fn listen(&mut self) -> Option<&'static str> {
        if self.mails.is_empty() {
            self.spoke();
        }
        if self.heard.elapsed() <= self.overdue {
            return None;
        }
        // Told once, and not each time.
        if self.overdue == OVERDUE {
            let unmarked = self.mails.len();
            error!(unmarked, "the database neither takes marks nor refuses them: it seems frozen");
        }
        self.heard = Instant::now();
        self.overdue = (self.overdue * 2).min(LONGEST_OVERDUE);
        self.marker.start_anew();
        for (mark, _) in self.mails.values() {
            self.marker.mark(mark.clone());
        }
        Some("it neither takes marks nor refuses them")
    }

    /// Tells once that relaying waits for the database. While that takes marks, they are only under way.
    pub fn is_waited_for(&mut self, waited_for: bool) {
        let waited_for = waited_for && self.refused;
        if !std::mem::replace(&mut self.waited_for, waited_for) && waited_for {
            let unmarked = self.mails.len();
            warn!(
                unmarked,
                "relaying waits until the database takes marks (delivery.unmarked_limit)"
            );
        }
    }

    /// Has the marker use these settings from now on.
    pub fn connect_anew(&mut self, settings: DatabaseSettings) {
        self.marker.connect_anew(settings);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.mails.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.mails.is_empty()
    }

    /// Whether this one is among them.
    pub fn contains(&self, id: &MailId) -> bool {
        self.mails.contains_key(id)
    }
}
