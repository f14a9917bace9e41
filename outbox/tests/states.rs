//! Each state that a crash or a person can leave an outbox in, built on disk, with the action
//! that the protocol asks for, and the whole folder afterwards.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use outbox::{
    DeliveryRecord, DeliveryState, DirectiveId, Envelope, Flags, GroupKey, MailFile, MailId,
    NewMail, Outbox, Place, RecipientOutcome, RecipientState, State, TakeBack, Withdrawal,
};
use tempfile::TempDir;

const MAIL: &[u8] = b"Subject: [20261125-10000001] open DNS resolver\r\n\r\nHello\r\n";

struct Case {
    folder: TempDir,
    outbox: Outbox,
}

fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let outbox = Outbox::create(&folder.path().join("outbox")).unwrap();
    Case { folder, outbox }
}

fn group() -> GroupKey {
    GroupKey {
        recipient_address: "abuse@as64496.example".into(),
        template_name: "generic".into(),
        notification_format: "text".into(),
        event_data_format: "csv_inline".into(),
        aggregate_identifier: [("source.asn".to_owned(), Some("64496".to_owned()))].into(),
    }
}

fn mail(number: i64, directives: &[i64]) -> NewMail {
    NewMail {
        ticket: outbox::Ticket::new("20261125", number).unwrap(),
        message_id: format!("<20261125-{number}.0@cert.example>"),
        created_at: "2026-11-25T00:00:00.123456Z".parse().unwrap(),
        subject: "open DNS resolver".into(),
        envelope: Envelope {
            from: "noreply@cert.example".into(),
            to: vec!["abuse@as64496.example".into(), "noc@as64496.example".into()],
        },
        directive_ids: directives.iter().copied().map(DirectiveId).collect(),
        group: group(),
    }
}

impl Case {
    /// Publishes one mail that claims directives 1 and 2.
    fn published(&self) -> MailId {
        let mut generator = self.outbox.lock_generator().unwrap().unwrap();
        let draft = generator.draft(mail(10_000_001, &[1, 2]), MAIL).unwrap();
        generator.publish(vec![draft]).unwrap().remove(0)
    }

    fn new_to(&self, id: &MailId, place: &str, flags: &str) {
        let root = self.outbox.root();
        let target = root.join(place).join(format!("{id}{flags}"));
        fs::rename(root.join("new").join(id.as_str()), target).unwrap();
    }

    fn state(&self, id: &MailId) -> State {
        let record = self.outbox.record(id).unwrap();
        self.outbox.scan().unwrap().entries[id].state(record.as_ref())
    }

    fn record(&self, id: &MailId, change: impl FnOnce(&mut DeliveryRecord)) {
        let mut record = DeliveryRecord::new(id.clone());
        change(&mut record);
        self.outbox.lock_deliverer().unwrap().unwrap().record(&[record]).unwrap();
    }

    /// Every file of the outbox, with the mail id as `ID`.
    fn files(&self, id: &MailId) -> Vec<String> {
        let mut files = Vec::new();
        walk(self.outbox.root(), self.outbox.root(), &mut files);
        files.sort();
        files.iter().map(|name| name.replace(id.as_str(), "ID")).collect()
    }

    fn recover_generator(&self) -> outbox::Recovered {
        self.outbox.lock_generator().unwrap().unwrap().recover().unwrap()
    }

    fn claimed(&self) -> Vec<i64> {
        let mut ids: Vec<i64> =
            self.outbox.claims().unwrap().directives.into_iter().map(|id| id.0).collect();
        ids.sort_unstable();
        ids
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn an_abandoned_draft_is_removed_and_claims_nothing() {
    let case = case();
    let id = case.published();
    fs::remove_file(case.outbox.sidecars().join(format!("{id}.json"))).unwrap();
    case.new_to(&id, "tmp", "");
    assert_eq!(case.state(&id), State::Draft);
    assert_eq!(case.claimed(), [0i64; 0]);

    let recovered = case.recover_generator();

    assert_eq!(recovered.removed, std::slice::from_ref(&id));
    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn a_temporary_sidecar_is_removed_and_claims_nothing() {
    let case = case();
    let id = case.published();
    let sidecars = case.outbox.sidecars();
    fs::rename(sidecars.join(format!("{id}.json")), sidecars.join(format!(".{id}.json.tmp")))
        .unwrap();
    case.new_to(&id, "tmp", "");
    assert_eq!(case.claimed(), [0i64; 0]);

    case.recover_generator();

    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn a_committed_mail_is_published_and_claims_its_directives_before_and_after() {
    let case = case();
    let id = case.published();
    case.new_to(&id, "tmp", "");
    assert_eq!(case.state(&id), State::Committed);
    assert_eq!(case.claimed(), [1, 2]);

    let recovered = case.recover_generator();

    assert_eq!(recovered.published, std::slice::from_ref(&id));
    assert_eq!(case.files(&id), ["new/ID", "sidecar/ID.json"]);
    assert_eq!(case.claimed(), [1, 2]);
    assert_eq!(case.recover_generator(), outbox::Recovered::default(), "nothing is left to do");
}

#[test]
fn a_copy_committed_without_its_mail_is_removed_and_one_with_it_is_published() {
    let case = case();
    let mut generator = case.outbox.lock_generator().unwrap().unwrap();
    // Of another part of the same group.
    let mut later = mail(10_000_002, &[]);
    later.created_at += jiff::SignedDuration::from_micros(1);
    let drafts = vec![
        generator.draft(mail(10_000_001, &[1]), MAIL).unwrap(),
        // Whatever its ticket is.
        generator.draft(mail(10_000_003, &[]), MAIL).unwrap(),
        generator.draft(later, MAIL).unwrap(),
    ];
    let ids = generator.publish(drafts).unwrap();
    drop(generator);
    for id in &ids {
        case.new_to(id, "tmp", "");
    }
    let lonely = ids.iter().find(|id| id.as_str().contains("10000002")).unwrap();

    let recovered = case.recover_generator();

    assert_eq!(recovered.removed, std::slice::from_ref(lonely));
    assert_eq!(recovered.published.len(), 2);
    assert_eq!(fs::read_dir(case.outbox.root().join("new")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(case.outbox.sidecars()).unwrap().count(), 2);
    assert_eq!(fs::read_dir(case.outbox.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn drafts_of_other_programs_in_tmp_are_left_alone() {
    let case = case();
    let foreign = case.outbox.root().join("tmp/1764028800.R123.mutt");
    fs::write(&foreign, b"draft").unwrap();
    assert_eq!(case.recover_generator(), outbox::Recovered::default());
    assert!(foreign.exists());
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let case = case();
    let mut generator = case.outbox.lock_generator().unwrap().unwrap();
    let draft = generator.draft(mail(10_000_001, &[1]), MAIL).unwrap();
    let id = draft.sidecar().id.clone();
    assert_eq!(case.files(&id), ["sidecar/.ID.json.tmp", "tmp/ID"]);
    drop(draft);
    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn a_published_mail_is_queued_in_new_and_in_cur() {
    let case = case();
    let id = case.published();
    assert_eq!(case.files(&id), ["new/ID", "sidecar/ID.json"]);
    assert_eq!(case.state(&id), State::Queued);
    case.new_to(&id, "cur", ":2,S");
    assert_eq!(case.state(&id), State::Queued, "a person who read it changed nothing");
    assert_eq!(case.claimed(), [1, 2]);
}

#[test]
fn a_deferred_mail_is_due_at_the_time_of_its_record() {
    let case = case();
    let id = case.published();
    let until: Timestamp = "2026-11-25T01:00:00Z".parse().unwrap();
    case.record(&id, |record| record.next_attempt_at = Some(until));
    assert_eq!(case.state(&id), State::Deferred { until });
    assert_eq!(case.files(&id), ["delivery/ID.json", "new/ID", "sidecar/ID.json"]);
}

#[test]
fn a_flagged_mail_is_held_and_queued_again_when_the_flag_goes() {
    let case = case();
    let id = case.published();
    let known = case.outbox.find(&id).unwrap().unwrap();
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();

    assert!(deliverer.hold(&id, &known).unwrap());
    drop(deliverer);
    case.record(&id, |record| record.state = DeliveryState::Rejected);

    assert_eq!(case.files(&id), ["cur/ID+1:2,F", "delivery/ID.json", "sidecar/ID.json"]);
    assert_eq!(case.state(&id), State::Held);
    let cur = case.outbox.maildir(Place::Cur);
    fs::rename(cur.join(format!("{id}+1:2,F")), cur.join(format!("{id}+1:2,S"))).unwrap();
    assert_eq!(case.state(&id), State::Queued, "who clears the flag wants it sent");
}

#[test]
fn holding_finds_a_mail_that_a_reader_moved_meanwhile() {
    let case = case();
    let id = case.published();
    let stale = case.outbox.find(&id).unwrap().unwrap();
    case.new_to(&id, "cur", ":2,S");
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    assert!(deliverer.hold(&id, &stale).unwrap());
    assert_eq!(case.files(&id), ["cur/ID+1:2,FS", "sidecar/ID.json"]);
    fs::remove_file(case.outbox.root().join(format!("cur/{id}+1:2,FS"))).unwrap();
    assert!(!deliverer.hold(&id, &stale).unwrap(), "there is no mail to hold");
}

#[test]
fn a_reader_that_knows_a_held_mail_by_its_former_name_can_not_release_it() {
    let case = case();
    let id = case.published();
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    // Held, released by a person, and held again.
    let mut names = vec![format!("new/{id}")];
    for number in 1..=2 {
        let known = case.outbox.find(&id).unwrap().unwrap();
        assert!(deliverer.hold(&id, &known).unwrap());
        let held = format!("cur/{id}+{number}:2,F");
        for former in &names {
            let (from, to) = (former.as_str(), format!("cur/{id}:2,S"));
            let root = case.outbox.root();
            fs::rename(root.join(from), root.join(to)).expect_err("there is no such file");
        }
        assert_eq!(case.state(&id), State::Held);
        let released = held.replace('F', "");
        fs::rename(case.outbox.root().join(&held), case.outbox.root().join(&released)).unwrap();
        names.extend([held, released]);
    }
}

#[test]
fn a_trashed_or_deleted_mail_is_withdrawn_and_stays_claimed() {
    let case = case();
    let id = case.published();
    case.new_to(&id, "cur", ":2,ST");
    assert_eq!(case.state(&id), State::Withdrawn);
    fs::remove_file(case.outbox.root().join(format!("cur/{id}:2,ST"))).unwrap();
    assert_eq!(case.state(&id), State::Withdrawn);
    assert_eq!(case.claimed(), [1, 2]);
    assert_eq!(case.recover_generator(), outbox::Recovered::default());
    assert_eq!(case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap(), 0);
    assert_eq!(case.files(&id), ["sidecar/ID.json"]);
}

impl Case {
    /// Published, deferred once, and then withdrawn by a person.
    fn withdrawn(&self) -> MailId {
        let id = self.published();
        self.record(&id, |record| record.attempts = 1);
        assert!(self.outbox.change_flags(&id, None, |flags| flags.with(Flags::TRASHED)).unwrap());
        id
    }

    fn take_back(&self, id: &MailId) -> Withdrawal<'_> {
        match self.outbox.take_back(id).unwrap() {
            TakeBack::Ready(withdrawal) => *withdrawal,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mail_that_is_taken_back_leaves_nothing_and_claims_nothing() {
    let case = case();
    let id = case.withdrawn();
    assert_eq!(case.files(&id), ["cur/ID+1:2,T", "delivery/ID.json", "sidecar/ID.json"]);

    let taken_back = case.take_back(&id).remove_mail().unwrap();
    assert_eq!(case.claimed(), [1, 2], "until the directives were seen to");
    taken_back.forget().unwrap();

    assert_eq!(case.files(&id), [""; 0]);
    assert_eq!(case.claimed(), [0i64; 0]);
    assert!(matches!(case.outbox.take_back(&id).unwrap(), TakeBack::Gone));
}

#[test]
fn each_step_of_an_interrupted_withdrawal_leaves_a_mail_that_is_withdrawn_and_can_be_gone_on_from()
{
    // Flagged, and its lock taken.
    let case = case();
    let id = case.withdrawn();
    drop(case.take_back(&id));
    assert_eq!((case.state(&id), case.claimed()), (State::Withdrawn, vec![1, 2]));

    // The file is gone; and perhaps the database knows already.
    drop(case.take_back(&id).remove_mail().unwrap());
    assert_eq!((case.state(&id), case.claimed()), (State::Withdrawn, vec![1, 2]));
    assert_eq!(case.files(&id), ["delivery/ID.json", "sidecar/ID.json"]);
    assert_eq!(case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap(), 0);
    assert_eq!(case.recover_generator(), outbox::Recovered::default());
    case.take_back(&id).remove_mail().unwrap().forget().unwrap();
    assert_eq!(case.files(&id), [""; 0]);

    // The sidecar is gone, the record is not.
    case.record(&id, |record| record.attempts = 1);
    assert_eq!((case.state(&id), case.claimed()), (State::Leftover, vec![]));
    assert!(matches!(case.outbox.take_back(&id).unwrap(), TakeBack::Gone));
    assert_eq!(case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap(), 1);
    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn a_mail_that_the_relay_has_or_may_be_taking_is_not_taken_back() {
    let case = case();
    let id = case.withdrawn();
    let lock = case.outbox.lock_mail(&id).unwrap().unwrap();
    assert!(matches!(case.outbox.take_back(&id).unwrap(), TakeBack::Busy));
    drop(lock);

    let withdrawal = case.take_back(&id);
    assert!(case.outbox.lock_mail(&id).unwrap().is_none(), "nobody relays it meanwhile");
    drop(withdrawal);

    case.record(&id, |record| record.state = DeliveryState::Accepted);
    assert!(matches!(case.outbox.take_back(&id).unwrap(), TakeBack::Accepted(_)));
    assert_eq!(case.files(&id), ["cur/ID+1:2,T", "delivery/ID.json", "sidecar/ID.json"]);
}

#[test]
fn a_mail_whose_record_or_sidecar_can_not_be_read_is_not_taken_back() {
    for folder in ["delivery", "sidecar"] {
        let case = case();
        let id = case.withdrawn();
        fs::write(case.outbox.root().join(folder).join(format!("{id}.json")), b"{").unwrap();
        assert!(case.outbox.take_back(&id).is_err(), "{folder}");
        assert_eq!(case.files(&id), ["cur/ID+1:2,T", "delivery/ID.json", "sidecar/ID.json"]);
    }
}

#[test]
fn a_mail_under_two_names_is_taken_back_under_both() {
    let case = case();
    let id = case.withdrawn();
    let root = case.outbox.root();
    fs::hard_link(root.join(format!("cur/{id}+1:2,T")), root.join(format!("new/{id}"))).unwrap();
    drop(case.take_back(&id).remove_mail().unwrap());
    assert_eq!(case.files(&id), ["delivery/ID.json", "sidecar/ID.json"]);
}

#[test]
fn flags_are_added_and_cleared_wherever_a_reader_moved_the_mail() {
    let case = case();
    let id = case.published();
    let stale = case.outbox.find(&id).unwrap();
    case.new_to(&id, "cur", ":2,S");
    let with = |flag| move |flags: &Flags| flags.with(flag);
    let stale = stale.as_ref();
    assert!(case.outbox.change_flags(&id, stale, with(Flags::HELD)).unwrap());
    assert!(case.outbox.change_flags(&id, stale, with(Flags::RETRY)).unwrap());
    assert_eq!(case.files(&id), ["cur/ID+2:2,FSr", "sidecar/ID.json"]);
    assert!(case.outbox.change_flags(&id, stale, |flags| flags.without(Flags::HELD)).unwrap());
    assert_eq!(case.files(&id), ["cur/ID+3:2,Sr", "sidecar/ID.json"]);
    fs::remove_file(case.outbox.root().join(format!("cur/{id}+3:2,Sr"))).unwrap();
    assert!(!case.outbox.change_flags(&id, stale, with(Flags::HELD)).unwrap());
}

#[test]
fn a_generator_at_work_is_noticed() {
    let case = case();
    assert!(!case.outbox.has_generator().unwrap());
    let generator = case.outbox.lock_generator().unwrap().unwrap();
    assert!(case.outbox.has_generator().unwrap());
    drop(generator);
    assert!(!case.outbox.has_generator().unwrap());
    assert!(case.outbox.lock_generator().unwrap().is_some(), "looking leaves no lock behind");
}

#[test]
fn an_archived_mail_is_found_by_its_ticket_and_its_header_read() {
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.finish(&[(id.clone(), None)], true).unwrap();
    fs::write(case.outbox.archive().join("cur/1.other:2,S"), b"x").unwrap();
    let ticket = id.ticket();

    let found = case.outbox.archived(|id| id.ticket() == ticket).unwrap();

    let path = case.outbox.archive().join(format!("cur/{id}:2,S"));
    assert_eq!(found, [(id, path.clone())].into());
    let header = case.outbox.header(&path).unwrap();
    assert_eq!(header, ["Subject: [20261125-10000001] open DNS resolver"]);
    let link = case.outbox.archive().join("cur/2.link:2,S");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    assert!(case.outbox.header(&link).is_err(), "a link is not followed");
}

#[test]
fn an_accepted_mail_is_archived_and_then_forgotten_whatever_its_flags() {
    for (place, flags) in [("new", ""), ("cur", ":2,S"), ("cur", ":2,F"), ("cur", ":2,ST")] {
        let case = case();
        let id = case.published();
        case.new_to(&id, place, flags);
        case.record(&id, |record| record.state = DeliveryState::Accepted);
        assert_eq!(case.state(&id), State::Accepted);

        let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
        deliverer.finish(&[(id.clone(), None)], true).unwrap();

        assert_eq!(case.files(&id), ["sent/cur/ID:2,S"]);
        assert_eq!(fs::read(case.outbox.root().join(format!("sent/cur/{id}:2,S"))).unwrap(), MAIL);
        assert_eq!(case.claimed(), [0i64; 0]);
    }
}

#[test]
fn an_accepted_mail_without_a_file_is_finished_all_the_same() {
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    fs::remove_file(case.outbox.root().join("new").join(id.as_str())).unwrap();
    assert_eq!(case.state(&id), State::Accepted);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.finish(&[(id.clone(), None)], true).unwrap();
    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn without_an_archive_an_accepted_mail_is_removed() {
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.finish(&[(id.clone(), None)], false).unwrap();
    assert_eq!(case.files(&id), [""; 0]);
}

#[test]
fn each_step_of_an_interrupted_finish_can_be_gone_on_from() {
    // Archived, but the sidecar is still there.
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let root = case.outbox.root().to_owned();
    fs::rename(root.join("new").join(id.as_str()), root.join(format!("sent/cur/{id}:2,S")))
        .unwrap();
    assert_eq!(case.state(&id), State::Accepted);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.finish(&[(id.clone(), None)], true).unwrap();
    assert_eq!(case.files(&id), ["sent/cur/ID:2,S"]);

    // The sidecar is gone, the record is not.
    drop(deliverer);
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    assert_eq!(case.state(&id), State::Leftover);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    assert_eq!(deliverer.recover().unwrap(), 1);
    assert_eq!(case.files(&id), ["sent/cur/ID:2,S"]);
}

#[test]
fn a_rename_of_which_a_crash_left_both_names_is_ended() {
    // Into the archive.
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let root = case.outbox.root().to_owned();
    let new = root.join("new").join(id.as_str());
    fs::hard_link(&new, root.join(format!("sent/cur/{id}:2,S"))).unwrap();
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.recover().unwrap();
    deliverer.finish(&[(id.clone(), None)], true).unwrap();
    assert_eq!(case.files(&id), ["sent/cur/ID:2,S"], "nothing foreign is left");

    // Into cur/, by whoever it was.
    for (old, new, left) in [
        ("new/ID", "cur/ID+1:2,F", "cur/ID+1:2,F"),
        ("new/ID", "cur/ID:2,S", "cur/ID:2,S"),
        ("new/ID:2,F", "cur/ID+1:2,S", "cur/ID+2:2,FS"),
    ] {
        let case = self::case();
        let id = case.published();
        let path = |name: &str| case.outbox.root().join(name.replace("ID", id.as_str()));
        fs::rename(path("new/ID"), path(old)).unwrap();
        fs::hard_link(path(old), path(new)).unwrap();
        case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap();
        assert_eq!(case.files(&id), [left, "sidecar/ID.json"]);
    }

    // From tmp/, which the generator made.
    let case = self::case();
    let id = case.published();
    let path = |name: &str| case.outbox.root().join(name.replace("ID", id.as_str()));
    fs::hard_link(path("new/ID"), path("tmp/ID")).unwrap();
    case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap();
    assert!(path("tmp/ID").exists());
    assert_eq!(case.recover_generator(), outbox::Recovered::default());
    assert_eq!(case.files(&id), ["new/ID", "sidecar/ID.json"]);
}

#[test]
fn a_record_that_was_not_in_place_yet_is_removed() {
    let case = case();
    let id = case.published();
    fs::write(case.outbox.records().join(format!(".{id}.json.tmp")), b"{").unwrap();
    case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap();
    assert_eq!(case.files(&id), ["new/ID", "sidecar/ID.json"]);
}

#[test]
fn a_copy_survives_a_recovery_that_is_interrupted_itself() {
    // A crash left mail and copy in tmp/; a second one comes between the two renames of the recovery.
    let case = case();
    let mut generator = case.outbox.lock_generator().unwrap().unwrap();
    let mail_draft = generator.draft(mail(10_000_001, &[1]), MAIL).unwrap();
    let copy_draft = generator.draft(mail(10_000_001, &[]), MAIL).unwrap();
    let (mail_id, copy_id) = (mail_draft.sidecar().id.clone(), copy_draft.sidecar().id.clone());
    generator.publish(vec![mail_draft, copy_draft]).unwrap();
    drop(generator);
    case.new_to(&mail_id, "tmp", "");
    case.new_to(&copy_id, "tmp", "");

    let recovered = case.recover_generator();

    assert_eq!(recovered.published, [copy_id, mail_id], "the copy first, so that it can't be left");
}

#[test]
fn a_record_beside_a_mail_without_a_sidecar_is_kept() {
    // The sidecar was unreadable and taken away to be mended: the relay has the mail already.
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let sidecar = case.outbox.sidecars().join(format!("{id}.json"));
    let aside = case.folder.path().join("aside");
    fs::rename(&sidecar, &aside).unwrap();
    assert_eq!(case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap(), 0);
    fs::rename(&aside, &sidecar).unwrap();
    assert_eq!(case.state(&id), State::Accepted, "it is not sent again");
}

#[test]
fn what_is_not_ours_among_the_records_and_sidecars_stops_nothing() {
    let case = case();
    let id = case.published();
    let root = case.outbox.root();
    for folder in ["delivery/old.json", "delivery/.x.json.tmp", "sidecar/.x.json.tmp"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    fs::write(root.join("delivery/notes.json"), b"{}").unwrap();
    case.recover_generator();
    assert_eq!(case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap(), 0);
    assert_eq!(case.files(&id), ["delivery/notes.json", "new/ID", "sidecar/ID.json"]);
}

#[test]
fn a_mail_under_two_names_is_held_if_either_says_so() {
    for first in ["cur/ID:2,FS", "cur/ID:2,S", "new/ID"] {
        for second in ["cur/ID:2,FS", "cur/ID:2,RF"] {
            let case = case();
            let id = case.published();
            let path = |name: &str| case.outbox.root().join(name.replace("ID", id.as_str()));
            fs::rename(path("new/ID"), path(first)).unwrap();
            fs::write(path(second), MAIL).unwrap();
            assert_eq!(case.state(&id), State::Held, "{first} {second}");
        }
    }
}

#[test]
fn a_lock_can_not_be_taken_away_from_under_its_holder() {
    let case = case();
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    let root = case.outbox.root();
    // The whole folder is replaced: who comes next locks the new one, so the old holder must notice.
    fs::rename(root, case.folder.path().join("moved")).unwrap();
    Outbox::create(root).unwrap();
    assert!(case.outbox.lock_deliverer().unwrap().is_some());
    let error = deliverer.try_recording().unwrap_err().to_string();
    assert!(error.contains("replaced"), "{error}");
}

#[test]
fn a_deliverer_is_seen_by_its_lock_and_not_by_what_it_left() {
    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Said {
        words: String,
    }
    let said = || Said { words: "all is well".into() };
    let case = case();
    let heard = || case.outbox.said::<Said>().unwrap();
    assert!(!case.outbox.deliverer_runs().unwrap());
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    assert!(case.outbox.deliverer_runs().unwrap());
    assert_eq!(heard(), None);
    deliverer.say(&said()).unwrap();
    assert_eq!(heard(), Some(said()));
    assert!(case.outbox.scan().unwrap().oddities.is_empty());
    let file = case.outbox.records().join(".service.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(case.outbox.said::<Said>().unwrap_err().to_string().contains("version 2"), "{text}");
    // Killed.
    drop(deliverer);
    assert!(file.exists());
    assert_eq!(heard(), None);
    // The next one has not said anything yet.
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    assert_eq!(heard(), None);
    deliverer.say(&said()).unwrap();
    deliverer.say_nothing().unwrap();
    assert_eq!(heard(), None);
}

#[test]
fn who_looks_for_a_deliverer_keeps_none_from_starting() {
    let case = case();
    let looking = std::fs::File::open(case.outbox.records()).unwrap();
    looking.try_lock_shared().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            looking.unlock().unwrap();
        });
        assert!(case.outbox.lock_deliverer().unwrap().is_some());
    });
    let _deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    let began = std::time::Instant::now();
    assert!(case.outbox.lock_deliverer().unwrap().is_none());
    assert!(began.elapsed() < std::time::Duration::from_millis(900), "told at once");
}

#[test]
fn a_foreign_mail_is_never_touched() {
    let case = case();
    let id = case.published();
    fs::remove_file(case.outbox.sidecars().join(format!("{id}.json"))).unwrap();
    fs::write(case.outbox.root().join("new/päckchen"), b"").unwrap();
    fs::write(case.outbox.root().join("sidecar/notes.txt"), b"").unwrap();
    assert_eq!(case.state(&id), State::Foreign);
    let odd = case.outbox.scan().unwrap().oddities;
    assert_eq!(odd.len(), 2, "{odd:?}");

    case.recover_generator();
    case.outbox.lock_deliverer().unwrap().unwrap().recover().unwrap();

    assert_eq!(case.files(&id), ["new/ID", "new/päckchen", "sidecar/notes.txt"]);
}

#[test]
fn a_mail_that_was_changed_is_told_from_an_intact_one() {
    let case = case();
    let id = case.published();
    let sidecar = case.outbox.sidecar(&id).unwrap().unwrap();
    let file = case.outbox.find(&id).unwrap().unwrap();
    let read = |file: &MailFile| case.outbox.read_mail(file, &sidecar).unwrap();
    assert_eq!(read(&file).unwrap(), MAIL);
    let path = case.outbox.mail_path(&file);

    let mut changed = MAIL.to_vec();
    changed[10] ^= 1;
    fs::write(&path, &changed).unwrap();
    assert!(read(&file).unwrap_err().contains("SHA-256"));
    fs::write(&path, b"short").unwrap();
    assert!(read(&file).unwrap_err().contains("5 octets instead of"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(read(&file).unwrap_err(), "it is not a regular file", "a link is not followed");
}

#[test]
fn a_sidecar_that_breaks_the_format_is_an_error_that_names_it_and_stops_the_claims() {
    let cases = [
        ("\"version\": 1", "\"version\": 2", "version 2"),
        ("\"version\": 1", "\"version\": 1, \"extra\": 1", "unknown field `extra`"),
        ("\"version\": 1", "\"version\": 1, \"size\": 1", "duplicate field"),
        ("\"mark_sent\": true", "\"mark_sent\": false", "marks directives sent"),
        ("20261125-10000001.0@", "20261125-10000001.0\\n@", "control character"),
        ("\"20261125-10000001\"", "\"20261125-1\"", "as a ticket"),
        ("{", "", "expected"),
    ];
    for (from, to, words) in cases {
        let case = case();
        let id = case.published();
        let path = case.outbox.sidecars().join(format!("{id}.json"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = case.outbox.claims().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_sidecar_of_another_mail_is_an_error() {
    let case = case();
    let id = case.published();
    let sidecars = case.outbox.sidecars();
    let other: MailId = "1.M1P1Q1.20261125-10000009.host".parse().unwrap();
    fs::copy(sidecars.join(format!("{id}.json")), sidecars.join(format!("{other}.json"))).unwrap();
    assert!(case.outbox.sidecar(&other).unwrap_err().to_string().contains(id.as_str()));
}

#[test]
fn the_claims_know_the_newest_mail_to_each_group() {
    let case = case();
    case.published();
    let claims = case.outbox.claims().unwrap();
    assert_eq!(claims.newest[&group()], "2026-11-25T00:00:00.123456Z".parse().unwrap());
}

#[test]
fn a_later_attempt_asks_only_for_recipients_that_are_open() {
    let case = case();
    let id = case.published();
    let outcome = |state, reply: &str| RecipientOutcome { state, reply: reply.into() };
    case.record(&id, |record| {
        record.recipients.insert(
            "abuse@as64496.example".into(),
            outcome(RecipientState::Accepted, "250 2.0.0 queued"),
        );
        record.recipients.insert(
            "noc@as64496.example".into(),
            outcome(RecipientState::Deferred, "450 4.2.0 greylisted"),
        );
    });
    let record = case.outbox.record(&id).unwrap().unwrap();
    let sidecar = case.outbox.sidecar(&id).unwrap().unwrap();
    assert_eq!(record.open_recipients(&sidecar.envelope.to), ["noc@as64496.example"]);
    assert!(record.any_accepted());
}

#[test]
fn a_released_mail_asks_again_for_all_who_lack_it() {
    let outcome = |state| RecipientOutcome { state, reply: "550 no".into() };
    let mut record = DeliveryRecord::new("1.M2P3Q4.20261125-10000001.h".parse().unwrap());
    record.state = DeliveryState::Rejected;
    record.attempts = 3;
    record.first_attempt_at = Some("2026-11-20T00:00:00Z".parse().unwrap());
    record.reason = Some("an old reason".into());
    record.recipients = [
        ("a@cert.example".to_owned(), outcome(RecipientState::Accepted)),
        ("b@cert.example".to_owned(), outcome(RecipientState::Rejected)),
        ("c@cert.example".to_owned(), outcome(RecipientState::Deferred)),
    ]
    .into();
    assert!(record.was_held());

    record.reopen();

    let all = ["a@cert.example", "b@cert.example", "c@cert.example"].map(str::to_owned);
    assert_eq!(record.open_recipients(&all), ["b@cert.example", "c@cert.example"]);
    assert_eq!((record.attempts, record.first_attempt_at), (3, None));
    assert!(!record.was_held() && record.reason.is_none());
}

#[test]
fn a_lock_holds_off_a_second_process_and_ends_with_the_first() {
    let case = case();
    let held = case.outbox.lock_generator().unwrap().unwrap();
    let second = Outbox::open(case.outbox.root()).unwrap();
    assert!(second.lock_generator().unwrap().is_none());
    assert!(second.lock_deliverer().unwrap().is_some(), "the other program has its own lock");
    drop(held);
    assert!(second.lock_generator().unwrap().is_some());
}

#[test]
fn the_folders_are_open_to_the_group_and_to_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let case = case();
    let id = case.published();
    let mode = |name: &str| {
        fs::metadata(case.outbox.root().join(name)).unwrap().permissions().mode() & 0o7777
    };
    for folder in ["", "tmp", "new", "cur", "sidecar", "delivery", "sent", "sent/cur"] {
        assert_eq!(mode(folder), 0o2770, "{folder}");
    }
    assert_eq!(mode(&format!("new/{id}")), 0o640);
    assert_eq!(mode(&format!("sidecar/{id}.json")), 0o640);
}

#[test]
fn what_is_no_outbox_is_refused_in_words_that_name_what_is_missing() {
    let case = case();
    fs::remove_dir(case.outbox.root().join("delivery")).unwrap();
    let error = Outbox::open(case.outbox.root()).unwrap_err().to_string();
    assert!(error.contains("delivery"), "{error}");
    assert!(Outbox::open(&case.folder.path().join("nowhere")).is_err());
    Outbox::create(case.outbox.root()).expect("making what is missing mends it");
}

#[test]
fn no_new_outbox_is_made_around_mails_whose_sidecars_are_lost() {
    for lost in ["sidecar", "delivery"] {
        let case = case();
        case.published();
        let aside = case.folder.path().join("aside");
        fs::rename(case.outbox.root().join(lost), &aside).unwrap();
        let error = Outbox::create(case.outbox.root()).unwrap_err().to_string();
        assert!(error.contains(lost) && error.contains("bring it back"), "{error}");
        assert!(!case.outbox.root().join(lost).exists());
        fs::rename(&aside, case.outbox.root().join(lost)).unwrap();
        Outbox::create(case.outbox.root()).unwrap();
    }
}

#[test]
fn the_archive_is_pruned_by_age() {
    use std::time::{Duration, SystemTime};
    let case = case();
    let id = case.published();
    case.record(&id, |record| record.state = DeliveryState::Accepted);
    let deliverer = case.outbox.lock_deliverer().unwrap().unwrap();
    deliverer.finish(&[(id.clone(), None)], true).unwrap();
    let day = Duration::from_secs(86_400);
    let in_two_days = SystemTime::now() + 2 * day;
    assert_eq!(deliverer.prune_archive(3 * day, None, in_two_days).unwrap().mails, 0);
    assert_eq!(deliverer.prune_archive(day, None, in_two_days).unwrap().mails, 1);
    assert_eq!(case.files(&id), [""; 0]);
}
