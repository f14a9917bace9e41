//! What has no business in an outbox, at every place of it and under every kind of name: no program
//! crashes, no octet of it is sent, it is left as it is, somebody is told, and the mails beside it go
//! out.
//!
//! The table: the rows of a place are each kind of thing under each kind of name. The programs are run
//! over each row by itself, and the service over all rows at once. Of the commands that only look, each
//! row has one in turn; [`every_command_looks_at_every_row`], which takes minutes, has all of them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use outbox::{DirectiveId, Envelope, GroupKey, MailId, NewMail, Outbox, Ticket};
use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::programs::{Finished, wait_until};
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use outbox_tests::unprivileged::unprivileged;

/// What each thing holds that holds anything.
const MARKER: &[u8] = b"Subject: ODD-MARKER\r\n\r\nnot for any relay\r\n";

/// A user that is not the one who runs the programs.
const NOBODY: u32 = 65534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Fifo,
    Socket,
    LinkOutside,
    LinkToMail,
    LinkDangling,
    LinkInCircles,
    LinkToFolder,
    Folder,
    FullFolder,
    /// Endless zeros; needs root to be made.
    Device,
    HardLink,
    Empty,
    /// A gigabyte that takes no room.
    Sparse,
    Mail,
    Unreadable,
    /// Of another user, and only for that one; needs root to be made.
    Others,
    /// Can't even be renamed; needs root and a file system that knows it.
    Immutable,
}

use Thing::{
    Device, Empty, Fifo, Folder, FullFolder, HardLink, Immutable, LinkDangling, LinkInCircles,
    LinkOutside, LinkToFolder, LinkToMail, Mail, Others, Socket, Sparse, Unreadable,
};

const THINGS: [Thing; 17] = [
    Fifo,
    Socket,
    LinkOutside,
    LinkToMail,
    LinkDangling,
    LinkInCircles,
    LinkToFolder,
    Folder,
    FullFolder,
    Device,
    HardLink,
    Empty,
    Sparse,
    Mail,
    Unreadable,
    Others,
    Immutable,
];

impl Thing {
    fn is_file(self) -> bool {
        matches!(self, HardLink | Empty | Sparse | Mail | Unreadable | Others | Immutable)
    }
}

/// Under which name it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// One that nothing of ours can have.
    Unlike,
    /// Without a ticket, and else like one of ours.
    NoTicket,
    /// Like one of ours, of which there is nothing else.
    Like,
    /// In the stead of what is the row's own mail's.
    Instead,
    /// The row's own mail's, whose file is in another folder.
    Beside,
    /// Of a file of the row's own mail that is not in place yet.
    Temporary,
    /// One that is odd by itself.
    Odd(&'static [u8]),
}

const NAMES: [Name; 6] =
    [Name::Unlike, Name::NoTicket, Name::Like, Name::Instead, Name::Beside, Name::Temporary];

/// A dotfile, one that is not UTF-8, one that acts on a terminal and forges a line, one with flags.
const ODD_NAMES: [&[u8]; 5] = [
    b".hidden",
    b"\xff\xfe1795577736.M1P1Q1.20261125-10000001.h",
    b"line\n2026-11-25T00:00:00.000Z ERROR forged\x1b[2J\x1b]0;title\x07",
    b"x:2,S",
    &[b'x'; 255],
];

const PLACES: [&str; 7] = ["tmp", "new", "cur", "sidecar", "delivery", "sent/cur", "sent/tmp"];

#[derive(Clone, Copy, Debug)]
struct Row {
    place: &'static str,
    thing: Thing,
    name: Name,
}

/// What becomes of the row's own mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Kept,
}

/// What becomes of the thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Stays,
    /// It has a name that says that it is ours to remove.
    Removed,
    /// It stands for the mail, and is flagged as a mail is.
    Flagged,
}

/// Who tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The deliverer, in one line.
    Once,
    /// The generator, which ends.
    ByGenerator,
    /// Nobody: it may be there.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
struct Expected {
    mail: Fate,
    after: After,
    told: Told,
    generator_stops: bool,
}

impl Row {
    /// All rows of a place.
    fn of(place: &'static str) -> Vec<Self> {
        let mut rows = Vec::new();
        for name in NAMES {
            rows.extend(THINGS.map(|thing| Self { place, thing, name }));
        }
        rows.extend(ODD_NAMES.map(|name| Self { place, thing: Mail, name: Name::Odd(name) }));
        rows.retain(Self::makes_sense);
        rows
    }

    #[expect(clippy::match_same_arms, reason = "it is a table")]
    fn makes_sense(&self) -> bool {
        match (self.place, self.name) {
            ("sent/tmp", name) => !matches!(name, Name::Instead | Name::Beside | Name::Temporary),
            ("tmp" | "new" | "cur" | "sent/cur", Name::Temporary) => false,
            ("sidecar" | "delivery" | "sent/cur", Name::Beside) => false,
            // The mail's own file.
            ("tmp" | "new" | "cur", Name::Instead) => self.thing != HardLink,
            _ => true,
        }
    }

    #[expect(clippy::match_same_arms, reason = "it is a table")]
    fn expected(&self) -> Expected {
        use After::{Flagged, Removed, Stays};
        use Fate::{Kept, Sent};
        use Told::{ByGenerator, Nobody, Once};
        let file = self.thing.is_file();
        let stuck = self.thing == Immutable;
        let (mail, after, told, generator_stops) = match (self.place, self.name) {
            ("tmp", Name::Like) if stuck => (Sent, Stays, ByGenerator, true),
            ("tmp", Name::Like) if file => (Sent, Removed, Nobody, false),
            ("tmp", Name::Instead) if stuck => (Kept, Stays, ByGenerator, true),
            ("tmp" | "new" | "cur", Name::Instead) if !file => (Kept, Stays, Once, false),
            // Published as the mail that it stands for.
            ("tmp", Name::Instead) => (Kept, Flagged, Once, false),
            ("new" | "cur", Name::Instead) => match self.thing {
                Unreadable | Others | Immutable => (Kept, Stays, Once, false),
                _ => (Kept, Flagged, Once, false),
            },
            // As a crash within a rename leaves it.
            ("tmp" | "new", Name::Beside) if self.thing == HardLink => {
                (Sent, Removed, Nobody, false)
            }
            ("tmp" | "new", Name::Beside) if file => (Sent, Stays, Nobody, false),
            ("cur", Name::Beside) if file => match self.thing {
                HardLink => (Sent, Flagged, Nobody, false),
                Unreadable | Others | Immutable => (Kept, Stays, Once, false),
                _ => (Kept, Flagged, Once, false),
            },
            ("sidecar", Name::NoTicket) => (Sent, Stays, Once, true),
            ("sidecar", Name::Like) => (Sent, Stays, ByGenerator, true),
            ("sidecar", Name::Instead) => (Kept, Stays, Once, true),
            ("sidecar", Name::Temporary) if stuck => (Sent, Stays, ByGenerator, true),
            ("sidecar" | "delivery", Name::Temporary) if file => (Sent, Removed, Nobody, false),
            ("delivery" | "sent/cur", Name::Instead) => (Kept, Stays, Once, false),
            ("sent/cur" | "sent/tmp", _) => (Sent, Stays, Nobody, false),
            _ => (Sent, Stays, Once, false),
        };
        Expected { mail, after, told, generator_stops }
    }

    /// Whether a program can do nothing at all while this is there, and says why.
    fn stops_the_deliverer(&self) -> bool {
        (self.place, self.name, self.thing) == ("delivery", Name::Temporary, Immutable)
    }

    /// The name, with the `id` of the row's own mail.
    fn file_name(&self, id: &MailId) -> OsString {
        let like = |id: &str| match self.place {
            "sidecar" | "delivery" => format!("{id}.json"),
            "cur" | "sent/cur" => format!("{id}:2,S"),
            _ => id.to_owned(),
        };
        let (seconds, rest) = id.as_str().split_once('.').expect("an id has parts");
        match self.name {
            Name::Unlike => format!("shopping list {:?}", self.thing).into(),
            // Its own: equal names in two folders are of one mail.
            Name::NoTicket => {
                let host = format!("{}-{:?}", self.place.replace('/', "-"), self.thing);
                like(&format!("1795577736.M1P1Q1.{host}")).into()
            }
            Name::Like => like(&format!("{}.{rest}", seconds.parse::<u64>().unwrap() + 1)).into(),
            Name::Instead | Name::Beside => like(id.as_str()).into(),
            Name::Temporary => format!(".{id}.json.tmp").into(),
            Name::Odd(bytes) => OsString::from_vec(bytes.to_vec()),
        }
    }
}

/// A site with a relay, and how many mails it made so far.
struct Case {
    site: Site,
    relay: ScriptedRelay,
    outbox: Outbox,
    count: i64,
    /// Outside of the outbox: what links lead to.
    outside: PathBuf,
}

/// A mail that a row is about, or one beside it.
struct Made {
    id: MailId,
    to: String,
}

impl Case {
    fn new() -> Self {
        let relay = ScriptedRelay::start();
        let site = Site::new(unprivileged(programs!())).relay(relay.port()).unsigned().build();
        let outside = site.folder().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), MARKER).unwrap();
        let outbox = Outbox::open(&site.outbox()).unwrap();
        Self { site, relay, outbox, count: 0, outside }
    }

    /// Publishes mails about directives of their own, as the generator does.
    fn publish(&mut self, count: i64) -> Vec<Made> {
        let numbers = self.count + 1..=self.count + count;
        self.count += count;
        let to: Vec<String> = numbers.map(|number| format!("abuse{number}@isp.example")).collect();
        let events: Vec<_> = to.iter().map(|to| Directive::to(to).event()).collect();
        self.site.insert(&events);
        let directives: Vec<i64> = self.site.column(&format!(
            "SELECT id FROM (SELECT id FROM directives ORDER BY id DESC LIMIT {count}) AS d ORDER BY id"
        ));
        let mut generator = self.outbox.lock_generator().unwrap().unwrap();
        let drafts: Vec<_> = to
            .iter()
            .zip(directives)
            .map(|(to, directive)| {
                let ticket = Ticket::new("20261125", 20_000_000 + directive).unwrap();
                let bytes = format!("Message-ID: <{ticket}@cert.example>\r\n\r\nto {to}\r\n");
                let mail = new_mail(&ticket, to, &[directive]);
                generator.draft(mail, bytes.as_bytes()).unwrap()
            })
            .collect();
        let ids = generator.publish(drafts).unwrap();
        ids.into_iter().zip(to).map(|(id, to)| Made { id, to }).collect()
    }

    /// Puts a row's thing where it belongs. `None`, with words, where that can't be done here.
    fn put(&self, row: &Row, mail: &Made, neighbour: &Made) -> Option<PathBuf> {
        let root = self.outbox.root();
        let new = root.join("new").join(mail.id.as_str());
        let cur = root.join("cur").join(format!("{}:2,S", mail.id));
        let linked = match row.name {
            Name::Beside if row.place == "new" => cur.clone(),
            Name::Beside => new.clone(),
            _ => root.join("new").join(neighbour.id.as_str()),
        };
        match (row.place, row.name) {
            ("tmp" | "new" | "cur", Name::Instead) => fs::remove_file(&new).unwrap(),
            ("sidecar", Name::Instead) => {
                fs::remove_file(root.join("sidecar").join(format!("{}.json", mail.id))).unwrap();
            }
            ("new", Name::Beside) => {
                fs::rename(&new, &cur).unwrap();
            }
            _ => {}
        }
        let path = root.join(row.place).join(row.file_name(&mail.id));
        let there = make(row.thing, &path, &self.outside, &linked);
        if let Err(why) = &there {
            eprintln!("NOT TRIED HERE: {row:?}: {why}");
            // What was made of it.
            let _ = fs::remove_file(&path);
        }
        there.is_ok().then_some(path)
    }

    /// Empties the outbox and the database.
    fn clear(&self) {
        let places = PLACES.iter().chain(&["sent/new"]);
        for entry in places.flat_map(|place| fs::read_dir(self.outbox.root().join(place)).unwrap())
        {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else if fs::remove_file(&path).is_err() {
                change_attribute("-i", &path).unwrap();
                fs::remove_file(&path).unwrap();
            }
        }
        self.site.sql("DELETE FROM events");
    }
}

fn new_mail(ticket: &Ticket, to: &str, directives: &[i64]) -> NewMail {
    NewMail {
        ticket: ticket.clone(),
        message_id: format!("<{ticket}@cert.example>"),
        created_at: outbox::now(),
        subject: "open DNS resolver".into(),
        envelope: Envelope { from: "noreply@cert.example".into(), to: vec![to.to_owned()] },
        directive_ids: directives.iter().copied().map(DirectiveId).collect(),
        group: GroupKey {
            recipient_address: to.to_owned(),
            template_name: "generic".into(),
            notification_format: "text".into(),
            event_data_format: "csv_inline".into(),
            aggregate_identifier: [].into(),
        },
    }
}

/// Makes a thing. `Err` tells why it can't be made here.
fn make(thing: Thing, path: &Path, outside: &Path, mail: &Path) -> Result<(), String> {
    let root = rustix::process::geteuid().is_root();
    let run = |program: &str, arguments: &[&str]| {
        let run = Command::new(program).args(arguments).arg(path).output().unwrap();
        run.status.success().then_some(()).ok_or_else(|| words(&run.stderr))
    };
    match thing {
        Fifo => run("mkfifo", &["--"])?,
        Socket => {
            // A socket's path may be shorter than others.
            let short = outside.join("socket");
            drop(UnixListener::bind(&short).unwrap());
            fs::rename(short, path).unwrap();
        }
        LinkOutside => symlink(outside.join("file"), path).unwrap(),
        LinkToMail => symlink(mail, path).unwrap(),
        LinkDangling => symlink(outside.join("nothing"), path).unwrap(),
        LinkInCircles => symlink(path.file_name().unwrap(), path).unwrap(),
        LinkToFolder => symlink(outside, path).unwrap(),
        Folder => fs::create_dir(path).unwrap(),
        FullFolder => {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), MARKER).unwrap();
        }
        Device if !root => return Err("only root makes devices".into()),
        Device => {
            let made = Command::new("mknod").arg(path).args(["c", "1", "5"]).output().unwrap();
            if !made.status.success() {
                return Err(words(&made.stderr));
            }
        }
        HardLink => fs::hard_link(mail, path).unwrap(),
        Empty => drop(File::create(path).unwrap()),
        Sparse => File::create(path).unwrap().set_len(1 << 30).unwrap(),
        Mail => fs::write(path, MARKER).unwrap(),
        Unreadable => {
            fs::write(path, MARKER).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        }
        Others if !root => return Err("only root gives files away".into()),
        Others => {
            fs::write(path, MARKER).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Immutable => {
            fs::write(path, MARKER).unwrap();
            change_attribute("+i", path)?;
        }
    }
    Ok(())
}

fn change_attribute(change: &str, path: &Path) -> Result<(), String> {
    let run = Command::new("chattr").arg(change).arg("--").arg(path).output();
    let run = run.map_err(|error| error.to_string())?;
    run.status.success().then_some(()).ok_or_else(|| words(&run.stderr))
}

fn words(said: &[u8]) -> String {
    String::from_utf8_lossy(said).trim_end().to_owned()
}

/// What must not change of a thing.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    inode: (u64, u64),
    mode: u32,
    owner: u32,
    size: u64,
    leads_to: Option<PathBuf>,
    inside: Option<Vec<OsString>>,
}

fn identity(path: &Path) -> Option<Identity> {
    let found = path.symlink_metadata().ok()?;
    let listed = || fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    Some(Identity {
        inode: (found.dev(), found.ino()),
        mode: found.mode(),
        owner: found.uid(),
        size: found.size(),
        leads_to: fs::read_link(path).ok(),
        inside: found.is_dir().then(listed),
    })
}

/// Whether something of this inode is anywhere in the outbox.
fn is_anywhere(root: &Path, thing: &Identity) -> bool {
    PLACES.iter().flat_map(|place| fs::read_dir(root.join(place)).unwrap()).any(|entry| {
        identity(&entry.unwrap().path()).is_some_and(|found| found.inode == thing.inode)
    })
}

/// Panics if a program crashed, or acts on a terminal.
#[track_caller]
fn ended_well(run: &Finished, codes: &[i32]) {
    let code = run.status.code();
    assert!(code.is_some_and(|code| codes.contains(&code)), "not one of {codes:?}: {run}");
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(!said.contains("panicked") && !said.contains('\u{1b}'), "{run}");
    assert!(!said.lines().any(|line| line.starts_with("2026-11-25T00:00:00.000Z")), "{run}");
}

/// The lines of warnings and errors that tell of a file or a mail, its name shown as the log shows it.
fn telling<'a>(run: &'a Finished, path: &Path, id: Option<&MailId>) -> Vec<&'a str> {
    let path = shown(path);
    let mut lines = [run.lines("WARN"), run.lines("ERROR")].concat();
    lines.retain(|line| line.contains(&path) || id.is_some_and(|id| line.contains(id.as_str())));
    lines
}

/// The part of a path by which it can be found in the log, whatever is in its name.
fn shown(path: &Path) -> String {
    let safe = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let name: Vec<u8> = path.file_name().unwrap_or_default().as_bytes().to_vec();
    let start = name.iter().position(safe).unwrap_or(0);
    let end = name[start..].iter().position(|byte| !safe(byte)).map_or(name.len(), |at| start + at);
    let part = String::from_utf8_lossy(&name[start..end.max(start)]).into_owned();
    // With the folder, where nothing odd is between.
    let folder = path.parent().and_then(Path::file_name).unwrap_or(OsStr::new(""));
    if start == 0 { format!("{}/{part}", folder.display()) } else { part }
}

/// The commands that only look, and how they may end. No deliverer runs, which is critical to `status`.
const LOOKING: [(&[&str], &[i32]); 6] = [
    (&["verify"], &[0, 1]),
    (&["list"], &[0]),
    (&["show", "--all"], &[0]),
    (&["check"], &[0, 1]),
    (&["status"], &[2]),
    (&["withdraw", "--regenerate", "--dry-run", "--all"], &[0, 1]),
];

/// Runs the programs over each row of a place, with all commands that look or one in turn.
fn try_rows_of(place: &'static str, all_look: bool) {
    let mut case = Case::new();
    let (mut tried, mut wrong) = (0, Vec::new());
    for (number, row) in Row::of(place).into_iter().enumerate() {
        let looking = if all_look { &LOOKING[..] } else { &LOOKING[number % LOOKING.len()..][..1] };
        let mut made = case.publish(2);
        let (neighbour, own) = (made.remove(0), made.remove(0));
        if let Some(path) = case.put(&row, &own, &neighbour) {
            tried += 1;
            let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                try_row(&case, &row, &path, (&own, &neighbour), looking);
            }));
            if tried.is_err() {
                wrong.push(row);
            }
        }
        case.clear();
    }
    eprintln!("{place}: {tried} rows were tried");
    assert!(wrong.is_empty(), "{} rows went wrong: {wrong:#?}", wrong.len());
}

fn try_row(
    case: &Case,
    row: &Row,
    path: &Path,
    (own, neighbour): (&Made, &Made),
    looking: &[(&[&str], &[i32])],
) {
    let (site, root) = (&case.site, case.outbox.root());
    let expected = row.expected();
    let before = identity(path).expect("it was put there");
    let received = case.relay.received().len();
    let late = format!("late{}@isp.example", case.count);

    // Who looks finds it as it is, and changes nothing.
    for (command, codes) in looking {
        ended_well(&site.deliverer(command), codes);
    }
    assert_eq!(identity(path).as_ref(), Some(&before), "{row:?}");

    site.insert([&Directive::to(&late).event()]);
    let generator = site.generator(&["run", "--all"]);
    ended_well(&generator, if expected.generator_stops { &[1, 75] } else { &[0] });
    if expected.generator_stops {
        assert_eq!(telling(&generator, path, None).len(), 1, "{row:?}: {generator}");
    }
    let run = site.deliverer(&["run", "--once"]);
    if row.stops_the_deliverer() {
        ended_well(&run, &[75]);
        assert_eq!(telling(&run, path, None).len(), 1, "{row:?}: {run}");
        assert_eq!(identity(path), Some(before), "{row:?}");
        return;
    }
    ended_well(&run, &[0, 1]);

    // Of the relay's mails, each is one of those that it is to have, once and whole.
    let got: Vec<_> = case.relay.received().split_off(received);
    let to: HashSet<&str> = got.iter().map(|mail| mail.to[0].as_str()).collect();
    let mut wanted = HashSet::from([neighbour.to.as_str()]);
    wanted.extend((expected.mail == Fate::Sent).then_some(own.to.as_str()));
    wanted.extend((!expected.generator_stops).then_some(late.as_str()));
    assert_eq!(to, wanted, "{row:?}: {run}");
    assert_eq!(got.len(), wanted.len(), "{row:?}: {run}");
    for mail in &got {
        let text = String::from_utf8_lossy(&mail.bytes);
        assert!(!text.contains("ODD-MARKER"), "{row:?}: {text}");
    }
    // What was not sent is not marked, and claimed still.
    let pending: Vec<String> =
        site.column("SELECT recipient_address FROM directives WHERE sent_id IS NULL ORDER BY 1");
    let mut kept = Vec::new();
    kept.extend((expected.mail == Fate::Kept).then(|| own.to.clone()));
    kept.extend(expected.generator_stops.then_some(late));
    assert_eq!(pending, kept, "{row:?}: {run}");

    // Words, and the thing as it was.
    let lines = telling(&run, path, Some(&own.id));
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.contains(" relayed ")).collect();
    let count = match expected.told {
        Told::Once => 1,
        Told::ByGenerator | Told::Nobody => 0,
    };
    assert_eq!(lines.len(), count, "{row:?}: {lines:?} in {run}");
    let now = identity(path);
    match expected.after {
        After::Stays => assert_eq!(now.as_ref(), Some(&before), "{row:?}: {run}"),
        After::Removed => {
            assert_eq!(now, None, "{row:?}: {run}");
            return;
        }
        After::Flagged => assert!(is_anywhere(root, &before), "{row:?}: {run}"),
    }

    // A mail whose files can be read can be taken back, and what is not a mail stays even then.
    ended_well(&site.deliverer(&["withdraw", "--regenerate", "--all"]), &[0, 1]);
    if !row.thing.is_file() {
        assert_eq!(identity(path), Some(before), "{row:?}");
    }
}

#[test]
fn whatever_lies_in_tmp_disturbs_no_mail_beside_it() {
    try_rows_of("tmp", false);
}

#[test]
fn whatever_lies_in_new_disturbs_no_mail_beside_it() {
    try_rows_of("new", false);
}

#[test]
fn whatever_lies_in_cur_disturbs_no_mail_beside_it() {
    try_rows_of("cur", false);
}

#[test]
fn whatever_lies_among_the_sidecars_disturbs_no_mail_beside_it() {
    try_rows_of("sidecar", false);
}

#[test]
fn whatever_lies_among_the_records_disturbs_no_mail_beside_it() {
    try_rows_of("delivery", false);
}

#[test]
fn whatever_lies_in_the_archive_disturbs_no_mail() {
    try_rows_of("sent/cur", false);
    try_rows_of("sent/tmp", false);
}

#[test]
#[ignore = "takes minutes"]
fn every_command_looks_at_every_row() {
    for place in PLACES {
        try_rows_of(place, true);
    }
}

#[test]
fn the_service_tells_of_each_thing_once_and_delivers_all_that_it_can() {
    let mut case = Case::new();
    let neighbour = case.publish(1).remove(0);
    let mut put = Vec::new();
    let mut names = HashSet::new();
    for row in PLACES.into_iter().flat_map(Row::of) {
        // One that stands beside a mail has no fate of its own while another is there, and what can't be
        // removed at the start ends the service, which the rows by themselves show.
        if row.name == Name::Beside || row.stops_the_deliverer() {
            continue;
        }
        let own = case.publish(1).remove(0);
        let is_mails = row.name == Name::Odd(b"x:2,S");
        let is_new = names.insert(((!is_mails).then_some(row.place), row.file_name(&own.id)));
        if is_new && let Some(path) = case.put(&row, &own, &neighbour) {
            put.push((row, path.clone(), own, identity(&path).unwrap()));
        } else {
            remove_all_of(&case.outbox, &own.id);
        }
    }
    eprintln!("{} things at once", put.len());
    let service = case.site.start_deliverer(&["run"]);
    service.wait_for("delivering");
    let sent = |(row, ..): &&(Row, PathBuf, Made, Identity)| row.expected().mail == Fate::Sent;
    let mut wanted: HashSet<String> =
        put.iter().filter(sent).map(|(_, _, own, _)| own.to.clone()).collect();
    wanted.insert(neighbour.to);
    // The relay has them, and each of these makes the service look at everything again.
    for _ in 0..4 {
        let neighbour = case.publish(1).remove(0);
        wanted.insert(neighbour.to);
        case.relay.wait_for_mails(wanted.len());
        ended_well(&case.site.deliverer(&["status"]), &[0, 1]);
    }
    let marked = "SELECT count(*) FROM directives WHERE sent_id IS NOT NULL";
    let all = i64::try_from(wanted.len()).unwrap();
    wait_until("all are marked", || case.site.column::<i64>(marked)[0] == all);
    let run = service.terminate();
    ended_well(&run, &[0]);

    let got: Vec<String> = case.relay.received().iter().map(|mail| mail.to[0].clone()).collect();
    assert_eq!(got.len(), wanted.len(), "{run}");
    assert_eq!(got.into_iter().collect::<HashSet<_>>(), wanted, "{run}");
    let mut said = HashSet::new();
    for line in [run.lines("WARN"), run.lines("ERROR")].concat() {
        let words = line.split_once(' ').expect("a time, then words").1;
        assert!(said.insert(words), "told twice: {line}\n{run}");
    }
    for (row, path, own, before) in &put {
        let expected = row.expected();
        // The generator did not run: what it would remove or publish is there.
        let by_generator = matches!(row.place, "tmp" | "sidecar");
        if expected.told == Told::Once && !(by_generator && expected.after == After::Flagged) {
            let told = telling(&run, path, Some(&own.id)).len();
            assert!(told >= 1, "{row:?} {}: {run}", path.display());
        }
        if expected.after == After::Stays || by_generator {
            assert_eq!(identity(path).as_ref(), Some(before), "{row:?}: {run}");
        }
    }
    case.clear();
}

/// Removes whatever there is of a mail.
fn remove_all_of(outbox: &Outbox, id: &MailId) {
    for (place, end) in [("new", ""), ("cur", ":2,S"), ("sidecar", ".json"), ("delivery", ".json")]
    {
        let _ = fs::remove_file(outbox.root().join(place).join(format!("{id}{end}")));
    }
}
