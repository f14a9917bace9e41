//! A dry run and `preview` show what would be written, and change nothing: neither a row nor a number
//! in the database, nor a file in the outbox.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use outbox_tests::events::{self, Directive};
use outbox_tests::programs::Finished;
use outbox_tests::site::Site;
use outbox_tests::terminal::Terminal;
use outbox_tests::{mail, programs};
use serde_json::{Value, json};

/// All that is in the database, and every file of the outbox with what is in it and when it changed.
fn everything(site: &Site) -> (Vec<String>, BTreeMap<PathBuf, String>) {
    let tables = ["directives", "sent", "ticket_day", "events"];
    let mut rows: Vec<String> = tables
        .iter()
        .flat_map(|table| site.column(&format!("SELECT t::text FROM {table} AS t ORDER BY 1")))
        .collect();
    rows.extend(
        site.column::<String>("SELECT concat(last_value, is_called) FROM intelmq_ticket_seq"),
    );
    let mut files = BTreeMap::new();
    walk(&site.outbox(), &mut files);
    (rows, files)
}

fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    let metadata = fs::metadata(folder).unwrap();
    files.insert(folder.to_owned(), format!("{:?}", metadata.modified().unwrap()));
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), files);
        } else {
            let changed = entry.metadata().unwrap().modified().unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            files.insert(entry.path(), format!("{changed:?} {}", mail::sha256(&bytes)));
        }
    }
}

/// A site with one mail in the outbox, and pending groups of every fate: due, with a copy, postponed, and
/// such that can't be written.
fn site() -> Site {
    let site = Site::new(programs!())
        .template(
            "formats/01-copy.toml",
            "[[copy]]\nwhen = { recipient_address = \"copied@*\" }\n\
             envelope_to = \"archive@cert.example\"\n",
        )
        .build();
    let again = Directive::to("again@isp.example")
        .template("malware-infection_provider")
        .format("malware-infection", "malware-infection_csv_inline")
        .interval(86400);
    site.insert(&[again.clone().event()]);
    site.generator(&["run", "--all"]).expect(0);
    site.insert(&[
        again.event(),
        Directive::to("copied@isp.example").event(),
        Directive::to("plain@isp.example").event(),
        Directive::to("robot@isp.example").format("xarf", "unheard-of").event(),
    ]);
    site
}

/// The mails of an mbox.
fn mbox(text: &str) -> Vec<String> {
    let text = format!("\n{text}");
    let mut mails = text.split("\nFrom ");
    assert_eq!(mails.next(), Some(""), "{text}");
    mails.map(|mail| mail.split_once('\n').unwrap().1.to_owned()).collect()
}

fn told(run: &Finished) {
    run.line("INFO", &["mails=2 copies=1 postponed=1 errors=1"]);
    run.line("ERROR", &["takes the group", "directives=5"]);
}

#[test]
fn a_dry_run_says_what_would_be_written_and_changes_nothing() {
    let site = site();
    let before = everything(&site);
    let run = site.generator(&["run", "--all", "--dry-run"]).expect(1);
    told(&run);
    run.line("INFO", &["dry run, nothing was written"]);
    let run = site.generator(&["-v", "run", "-a", "-n"]).expect(1);
    run.line("DEBUG", &["composed", "ticket=00000000-00000002"]);
    run.line("DEBUG", &["postponed: ", "again@isp.example"]);
    assert_eq!(everything(&site), before);
    // Neither is anybody kept from anything, nor does it wait for anybody.
    let _mailgen = site.hold("SELECT FROM directives WHERE sent_id IS NULL FOR UPDATE");
    site.generator(&["run", "--all", "--dry-run"]).expect(1);
}

#[test]
fn a_preview_is_an_mbox_of_the_mails_and_tells_of_each_group() {
    let site = site();
    let before = everything(&site);
    let run = site.generator(&["preview"]).expect(1);
    told(&run);
    let composed = run.line("INFO", &["composed", "recipient=plain@isp.example"]);
    assert!(composed.contains("90-fallback.toml"), "{composed}");
    run.line("INFO", &["composed", "to=archive@cert.example", "ticket=00000000-00000001"]);
    let postponed = run.line("INFO", &["postponed: ", "again@isp.example", "until="]);
    assert!(postponed.contains("20-malware-infection.toml"), "{postponed}");
    assert_eq!(everything(&site), before);

    // Python and GnuPG read them as any mail of ours.
    let mails = mbox(&run.stdout);
    assert_eq!(mails.len(), 3, "{run}");
    let folder = site.folder().join("read");
    fs::create_dir(&folder).unwrap();
    let files: Vec<PathBuf> = (0..mails.len()).map(|n| folder.join(n.to_string())).collect();
    for (mail, file) in mails.iter().zip(&files) {
        fs::write(file, mail.replace('\n', "\r\n")).unwrap();
    }
    for read in mail::read(&files, Some(site.gnupg().home())) {
        assert_eq!(read.signed_by.as_deref(), Some(site.gnupg().fingerprint()), "{}", read.gpg);
        assert!(read.header["x-ticket"].starts_with("00000000-0000000"));
        assert!(read.header["subject"].contains("#00000000-0000000"));
    }
    // With as many groups as asked for, the oldest first: the first of all is postponed.
    let run = site.generator(&["preview", "--limit", "2", "--plain"]).expect(0);
    run.line("INFO", &["mails=1 copies=1 postponed=1 errors=0"]);
    assert!(!run.stdout.contains("BEGIN PGP"), "{run}");
}

#[test]
fn a_preview_needs_no_relay_no_lock_and_no_outbox_and_without_signing_no_key() {
    let mut site = site();
    site.set("smtp", json!([{"host": "192.0.2.1"}]));
    let _mailgen = site.hold("SELECT FROM directives WHERE sent_id IS NULL FOR UPDATE");
    site.generator(&["preview"]).expect(1);
    site.set("openpgp", json!({"always_sign": true, "signing_key": "none"}));
    site.generator(&["preview"]).expect(78);
    site.generator(&["preview", "--plain"]).expect(1);
    site.set("outbox.path", json!(site.folder().join("not there")));
    let run = site.generator(&["preview", "--plain"]).expect(1);
    run.line("INFO", &["mails=3 copies=1 postponed=0"]);
}

#[test]
fn a_preview_fills_a_new_maildir_that_mutt_reads() {
    let site = site();
    let before = everything(&site);
    let folder = site.folder().join("look");
    let to = folder.display().to_string();
    let run = site.generator(&["preview", "--maildir", &to]).expect(1);
    told(&run);
    assert_eq!(run.stdout, "");
    assert_eq!(fs::read_dir(folder.join("new")).unwrap().count(), 3);
    assert_eq!(everything(&site), before);
    // For the owner's eyes only.
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&folder).unwrap());
    assert_eq!(mode & 0o777, 0o700);
    let home = site.folder().join("person");
    fs::create_dir_all(home.join("Mail")).unwrap();
    let mutt = Terminal::start(&home, &format!("mutt -n -F /dev/null -R -f {to}"));
    let screen = mutt.wait_for("-%-Mutt: ");
    assert!(screen.contains("Msgs:3") && screen.contains("#00000000-00000002"), "{screen}");
    mutt.keys(&["x"]);
    mutt.wait_for_end(0);

    // What is there already is left alone.
    for (folder, words) in [
        (folder.clone(), "there is something in it"),
        (site.outbox(), "it is the outbox"),
        (site.folder().to_owned(), "there is something in it"),
    ] {
        let folder = folder.display().to_string();
        let run = site.generator(&["preview", "--maildir", &folder]).expect(2);
        run.line("ERROR", &[words, &folder]);
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
    assert_eq!(everything(&site), before);
    // An empty one will do.
    let empty = site.folder().join("empty");
    for part in ["cur", "new", "tmp"] {
        fs::create_dir_all(empty.join(part)).unwrap();
    }
    site.generator(&["preview", "--maildir", &empty.display().to_string()]).expect(1);
    assert_eq!(fs::read_dir(empty.join("new")).unwrap().count(), 3);
}

#[test]
fn a_plain_preview_shows_what_would_be_encrypted() {
    let site = Site::new(programs!())
        .template(
            "formats/01-secret.toml",
            "[[format]]\nname = \"secret\"\nencrypt = \"always\"\ncolumns = [\"source.ip\"]\n\
             subject = \"S\"\nbody = \"${events_as_csv}\"\n",
        )
        .build();
    site.insert(&[Directive::to("a@isp.example").event()]);
    // Nobody has a key.
    site.generator(&["preview"]).expect(1).line("ERROR", &["no mail for a@isp.example"]);
    let run = site.generator(&["preview", "--plain"]).expect(0);
    assert!(run.stdout.contains("192.0.2.1") && !run.stdout.contains("PGP"), "{run}");
}

#[test]
fn what_a_preview_prints_can_not_act_on_a_terminal() {
    let site = Site::new(programs!()).unsigned().build();
    let hostile = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\r";
    let in_address = Directive::to(&format!("a{hostile}@isp.example")).event();
    let mut in_table: Value = Directive::to("b@isp.example").event();
    in_table["destination.fqdn"] = json!(hostile);
    site.insert(&[in_address, in_table]);
    let run = site.generator(&["preview"]).expect(1);
    run.line("ERROR", &["no mail for a\\u{1b}]0;x"]);
    assert!(run.stdout.contains("=1B]0;x=07"), "{run}");
    let acts = |c: char| c != '\n' && c != '\t' && (c.is_control() || c == '\u{202e}');
    assert!(!run.stdout.contains(acts) && !run.stderr.contains(acts), "{run:?}");
}

#[test]
fn json_can_not_act_on_a_terminal_either() {
    let site = Site::new(programs!()).unsigned().build();
    let recipient = "x\u{1b}[2J\u{9b}2J\u{7f}\u{202e}y@isp.example";
    site.insert(&[Directive::to(recipient).event()]);
    let run = site.generator(&["pending", "--json"]).expect(0);
    let acts = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!run.stdout.contains(acts), "{run:?}");
    let lines: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(lines[0]["recipient_address"], recipient);
}

#[test]
fn the_sample_events_are_previewed_as_they_are_written() {
    let site = Site::new(programs!()).unsigned().build();
    site.insert(&events::sample());
    let preview = site.generator(&["preview"]);
    let run = site.generator(&["run", "--all"]);
    let sum = |run: &Finished| {
        let line = run.lines("INFO").last().unwrap().to_string();
        line[line.find("mails=").unwrap()..].to_owned()
    };
    assert_eq!(sum(&preview), sum(&run));
    let mails = format!("mails={} ", mbox(&preview.stdout).len());
    assert!(sum(&run).starts_with(&mails), "{mails}: {run}");
    // But for ticket and date the mails are the same.
    let plain = |mail: &str| {
        let lines = mail.lines().filter(|line| {
            let varies = ["Date: ", "Message-ID: ", "X-Ticket: "];
            !varies.iter().any(|field| line.starts_with(field))
        });
        lines.map(without_tickets).collect::<Vec<_>>().join("\n").trim_end().to_owned()
    };
    let mut shown: Vec<String> = mbox(&preview.stdout).iter().map(|mail| plain(mail)).collect();
    let mut written: Vec<String> =
        (site.listed("new").iter()).map(|file| plain(&fs::read_to_string(file).unwrap())).collect();
    // A report has a number of its own.
    for mails in [&mut shown, &mut written] {
        mails.retain(|mail| !mail.to_lowercase().contains("xarf"));
    }
    shown.sort();
    written.sort();
    assert!(shown.len() > 30, "{}", shown.len());
    assert_eq!(shown, written);
}

/// Each run of digits and `-` that is a ticket's, and each boundary, taken out.
fn without_tickets(line: &str) -> String {
    let line = line.trim_end();
    if line.starts_with("--") || line.contains("boundary=") {
        return "boundary".to_owned();
    }
    let mut text = line.to_owned();
    while let Some(at) = (0..text.len()).find(|&at| is_ticket(text.get(at..at + 17))) {
        text.replace_range(at..at + 17, "TICKET");
    }
    text
}

fn is_ticket(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.parse::<outbox::Ticket>().is_ok())
}
