//! Which mail is relayed next: those that are due, those in the relays' hands, and over which of them
//! relays broke.
//!
//! The oldest goes first. A mail over which a relay got into trouble goes behind all others, for it may
//! be the mail; but not for ever, since new ones may keep coming. What is remembered here only saves
//! work: a start that knows nothing of it does the same, a little later.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outbox::{DeliveryRecord, MailFile, MailId, Snapshot};

use crate::smtp::RelayTrouble;

/// With how many troubles of a relay in a row a mail takes the blame for them.
const BLAMED: u32 = 3;

/// How many other mails pass one over which a relay got into trouble, before it has its turn.
const PASSED: u32 = 20;

/// Over how many mails in a row a relay may break before those that wait are not tried, either.
const BREAKS: u32 = 10;

/// What is to be relayed, and what is being relayed.
#[derive(Default)]
pub struct Due {
    /// By how suspect a mail is, then by its id, which begins with the time.
    waiting: BTreeMap<(u32, MailId), (MailFile, Option<DeliveryRecord>)>,
    in_hand: HashMap<MailId, InHand>,
    /// How often in a row a relay got into trouble over a mail.
    suspects: HashMap<MailId, u32>,
    /// How many mails went since the last one of these.
    passed: u32,
    /// Over how many mails in a row relays broke, and none went through.
    breaks: u32,
}

/// A mail in a relay's hands.
pub struct InHand {
    /// Its file's last known place.
    pub known: MailFile,
    /// What is written down of it.
    pub record: DeliveryRecord,
    /// Whether the relay has heard of it.
    pub offered: Arc<AtomicBool>,
}

impl Due {
    /// Forgets what waits, for a look at the whole outbox finds it anew.
    pub fn begin_anew(&mut self, there: &Snapshot) {
        self.waiting.clear();
        self.suspects.retain(|id, _| there.entries.contains_key(id));
    }

    /// Lets nothing wait that would be relayed now.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// This mail is to be relayed.
    pub fn add(&mut self, id: MailId, file: MailFile, record: Option<DeliveryRecord>) {
        let suspect = self.suspects.get(&id).copied().unwrap_or(0);
        self.waiting.insert((suspect, id), (file, record));
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing waits and nothing is in a relay's hands.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_hand.is_empty()
    }

    /// How many are in the relays' hands.
    pub fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether this one is in a relay's hands.
    pub fn has_in_hand(&self, id: &MailId) -> bool {
        self.in_hand.contains_key(id)
    }

    /// Whether there is one to relay now.
    pub fn has_next(&self) -> bool {
        self.next().is_some()
    }

    /// The mail to relay next. Of those over which a relay got into trouble only one is in hand at a
    /// time: whatever is wrong with them must not keep all connections busy.
    fn next(&self) -> Option<(u32, MailId)> {
        let suspect_in_hand = self.in_hand.keys().any(|id| self.suspects.contains_key(id));
        let last = self.waiting.keys().next_back();
        let has_waited = last.filter(|(suspect, _)| *suspect > 0 && self.passed >= PASSED);
        let next =
            has_waited.filter(|_| !suspect_in_hand).or_else(|| self.waiting.keys().next())?;
        (next.0 == 0 || !suspect_in_hand).then(|| next.clone())
    }

    /// Takes out the one to relay now, with its record as it is before the attempt.
    pub fn take_next(&mut self) -> Option<(MailId, MailFile, DeliveryRecord)> {
        let next = self.next()?;
        let (known, record) = self.waiting.remove(&next)?;
        let (suspect, id) = next;
        self.passed = if suspect > 0 { 0 } else { self.passed + 1 };
        let mut record = record.unwrap_or_else(|| DeliveryRecord::new(id.clone()));
        if record.was_held() {
            record.reopen();
        }
        Some((id, known, record))
    }

    /// A relay has it now.
    pub fn hand_over(&mut self, id: MailId, mail: InHand) {
        self.in_hand.insert(id, mail);
    }

    /// It is in no relay's hands any more. `None` if it was let go before.
    pub fn take_back(&mut self, id: &MailId) -> Option<InHand> {
        self.in_hand.remove(id)
    }

    /// Whether a relay has heard of one of those in hand.
    pub fn any_offered(&self) -> bool {
        self.in_hand.values().any(|mail| mail.offered.load(Ordering::SeqCst))
    }

    /// Lets go of all that are in hand: no relay has heard of them, or will.
    pub fn let_go(&mut self) -> Vec<DeliveryRecord> {
        self.in_hand.drain().map(|(_, mail)| mail.record).collect()
    }

    /// Learns from an attempt. Whether the mail takes the blame for the relay's trouble; then that
    /// begins to count anew.
    pub fn learn(&mut self, id: &MailId, trouble: Option<&RelayTrouble>) -> bool {
        let Some(trouble) = trouble else {
            self.breaks = 0;
            self.suspects.remove(id);
            return false;
        };
        if !trouble.may_be_the_mails() {
            self.breaks = 0;
            return false;
        }
        self.breaks += 1;
        let count = self.suspects.entry(id.clone()).or_default();
        *count += 1;
        let blamed = *count >= BLAMED;
        if blamed {
            self.suspects.remove(id);
        }
        blamed
    }

    /// Learns that a relay is in trouble with all mails alike.
    pub fn learn_of_no_session(&mut self) {
        self.breaks = 0;
    }

    /// Whether a relay broke over the last mails, and there are others that it may take.
    pub fn others_may_pass(&self) -> bool {
        (1..=BREAKS).contains(&self.breaks) && self.next().is_some_and(|(suspect, _)| suspect == 0)
    }
}

#[cfg(test)]
mod tests {
    use outbox::{Flags, Place};

    use super::*;
    use crate::smtp::{Cause, Phase, Reply};

    fn id(number: u32) -> MailId {
        format!("{}.M1P1Q1.20261125-10000001.host", 1_764_028_800 + number).parse().unwrap()
    }

    fn due(count: u32) -> Due {
        let mut due = Due::default();
        (1..=count).for_each(|number| add(&mut due, number));
        due
    }

    fn add(due: &mut Due, number: u32) {
        let file_name = id(number).to_string().into();
        due.add(
            id(number),
            MailFile { place: Place::New, file_name, flags: Flags::default() },
            None,
        );
    }

    /// Takes the next one in hand.
    fn begin(due: &mut Due) -> Option<MailId> {
        let (id, known, record) = due.take_next()?;
        due.hand_over(id.clone(), InHand { known, record, offered: Arc::default() });
        Some(id)
    }

    fn broke() -> RelayTrouble {
        let cause = Cause::Lost("closed by the relay".into());
        RelayTrouble { phase: Phase::Data, cause, stale: false }
    }

    /// A relay breaks over the mail, which waits again. Whether it is to blame.
    fn breaks_over(due: &mut Due, number: u32) -> bool {
        due.take_back(&id(number));
        let blamed = due.learn(&id(number), Some(&broke()));
        add(due, number);
        blamed
    }

    #[test]
    fn the_oldest_goes_first_and_one_that_broke_the_relay_last() {
        let mut due = due(3);
        assert_eq!(begin(&mut due), Some(id(1)));
        breaks_over(&mut due, 1);
        let order: Vec<_> = std::iter::from_fn(|| begin(&mut due)).collect();
        assert_eq!(order, [id(2), id(3), id(1)]);
    }

    #[test]
    fn of_those_that_broke_the_relay_one_is_in_hand_at_a_time() {
        let mut due = due(3);
        for number in [1, 2] {
            assert_eq!(begin(&mut due), Some(id(number)));
            breaks_over(&mut due, number);
        }
        assert_eq!(begin(&mut due), Some(id(3)));
        assert_eq!(begin(&mut due), Some(id(1)));
        assert_eq!(begin(&mut due), None, "2 waits for 1");
        due.take_back(&id(1));
        assert!(!due.learn(&id(1), None));
        assert_eq!(begin(&mut due), Some(id(2)));
    }

    #[test]
    fn one_that_broke_the_relay_has_its_turn_while_others_keep_coming() {
        let mut due = due(1);
        begin(&mut due);
        breaks_over(&mut due, 1);
        for number in 2..60 {
            add(&mut due, number);
        }
        let before = std::iter::from_fn(|| begin(&mut due)).take_while(|it| *it != id(1)).count();
        assert_eq!(before, PASSED as usize - 1);
    }

    #[test]
    fn a_mail_is_blamed_with_the_third_time_in_a_row_and_then_counts_anew() {
        let mut due = due(1);
        let mut again = |trouble: Option<RelayTrouble>| {
            begin(&mut due);
            due.take_back(&id(1));
            let blamed = due.learn(&id(1), trouble.as_ref());
            add(&mut due, 1);
            blamed
        };
        assert!(!again(Some(broke())) && !again(Some(broke())));
        assert!(!again(None), "a refusal, and not in a row any more");
        assert!(!again(Some(broke())) && !again(Some(broke())) && again(Some(broke())));
        assert!(!again(Some(broke())));
        let shuts_down = RelayTrouble::answered(Phase::Mail, Reply::of(421, "4.3.2 shutting down"));
        let cause = Cause::OutOfStep("it said 250 extra unasked".into());
        let talks_too_much = RelayTrouble { phase: Phase::Mail, cause, stale: false };
        for all_alike in [shuts_down, talks_too_much] {
            assert!((0..9).all(|_| !again(Some(all_alike.clone()))), "what every mail gets");
        }
    }

    #[test]
    fn others_may_pass_one_whose_last_reply_has_no_meaning() {
        let mut due = due(2);
        let first = begin(&mut due).unwrap();
        due.take_back(&first);
        due.learn(&first, Some(&RelayTrouble::answered(Phase::FinalDot, Reply::of(354, "go on"))));
        assert!(due.others_may_pass());
    }

    #[test]
    fn others_may_pass_until_each_has_had_its_turn() {
        let mut due = due(2);
        assert!(!due.others_may_pass(), "nothing broke");
        begin(&mut due);
        breaks_over(&mut due, 1);
        assert!(due.others_may_pass());
        begin(&mut due);
        breaks_over(&mut due, 2);
        assert!(!due.others_may_pass());
    }
}
