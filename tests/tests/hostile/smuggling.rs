//! Mails within mails: whatever some server takes for the end of a mail stands in none of ours, and
//! a mail with it that somebody else put into the outbox is held before the relay hears of it.

use std::fs;

use outbox::{DirectiveId, Envelope, GroupKey, NewMail, Outbox, Ticket};
use outbox_tests::events::{Directive, groups, recipient};
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use serde_json::json;

use super::corpus::{ENDS_OF_MAIL, SECOND_MAIL};
use super::judge_log;
use super::wire::{READINGS, Recorder, fault, understand};

/// Where buffers end: lines of 1000 octets, and what programs like to read and write at once.
const EDGES: [usize; 5] = [1000, 4096, 8192, 16384, 65536];

/// What each server on the way understands of all that was said through the recorder.
#[track_caller]
fn assert_understood(recorder: &Recorder, sent: &[Vec<u8>], recipients: &[String]) {
    let mut sent = sent.to_vec();
    sent.sort();
    for reading in READINGS {
        let (mut mails, mut to) = (Vec::new(), Vec::new());
        for said in recorder.heard() {
            let understood = understand(&said, reading);
            mails.extend(understood.mails);
            for command in understood.commands {
                if let Some(path) = command.strip_prefix("RCPT TO:<") {
                    to.push(path.split('>').next().unwrap().to_owned());
                } else {
                    let known = ["EHLO ", "MAIL FROM:<noreply@", "DATA", "QUIT"];
                    assert!(known.iter().any(|known| command.starts_with(known)), "{command:?}");
                }
            }
        }
        mails.sort();
        assert_eq!(mails.len(), sent.len(), "{reading:?}");
        assert!(mails == sent, "{reading:?}: a mail is another");
        let mut recipients = recipients.to_vec();
        recipients.sort();
        to.sort();
        assert_eq!(to, recipients, "{reading:?}");
    }
}

#[test]
fn an_end_of_mail_in_data_is_none_wherever_in_the_mail_it_stands() {
    let relay = ScriptedRelay::start();
    let recorder = Recorder::before(relay.port());
    let site = Site::new(programs!())
        .unsigned()
        .relay(recorder.port())
        .template("plain", "[${ticket_number}]\n\n${word}")
        .build();
    let mut events = Vec::new();
    for edge in EDGES {
        for (number, end) in ENDS_OF_MAIL.iter().enumerate() {
            let lead = "x".repeat(edge - 2 * number);
            let to = format!("e{edge}-{number}@isp.example");
            let text = format!("{lead}{end}{SECOND_MAIL}");
            let mut event = Directive::to(&to).format("text", "csv_inline").event();
            // What is as long as that is in no index.
            if edge <= 4096 {
                event =
                    Directive::to(&to).template("plain").aggregate("word", text.clone()).event();
            }
            event["destination.fqdn"] = json!(text);
            events.push(event);
        }
    }
    site.insert(&events);
    judge_log(&site.generator(&["run", "--all"]).expect(0));
    let files = site.listed("new");
    assert_eq!(files.len(), events.len());
    let mut sent = Vec::new();
    for path in files {
        let mail = fs::read(path).unwrap();
        let ticket = outbox_tests::mail::header(&mail, "X-Ticket").unwrap();
        assert_eq!(fault(&mail, &ticket, site.domain(), false), None);
        sent.push(mail);
    }
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    let to: Vec<String> = events
        .iter()
        .map(|event| &event["extra"]["certbund"]["source_directives"][0]["recipient_address"])
        .map(|to| to.as_str().unwrap().to_owned())
        .collect();
    assert_understood(&recorder, &sent, &to);
    assert_eq!(site.pending(), 0);
}

/// A mail that nobody of ours wrote, with what follows its `Subject`.
fn mail(rest: &str) -> Vec<u8> {
    format!("From: noreply@cert.example\r\nTo: abuse@isp.example\r\nSubject: a{rest}").into_bytes()
}

/// `rest` with filling before it, so that what stands at `at` of it begins this many octets into the
/// mail.
fn at_edge(edge: usize, shape: &str) -> Vec<u8> {
    let line = format!("{}\r\n", "x".repeat(98));
    let begin = mail("\r\n\r\n").len();
    let fill = edge - begin;
    let mut body = line.repeat(fill / 100);
    body.push_str(&"y".repeat(fill % 100));
    mail(&format!("\r\n\r\n{body}{shape}"))
}

/// Puts mails into the outbox of the site, each with its sidecar and a directive of its own, as a
/// generator that was taken over by somebody could: the `number`th to the `number`th of
/// [`recipient`].
fn put(site: &Site, mails: &[Vec<u8>]) -> Vec<Ticket> {
    site.insert(&groups(mails.len()));
    let directives = site.column::<i64>("SELECT id FROM directives ORDER BY id");
    let outbox = Outbox::open(&site.outbox()).unwrap();
    let mut generator = outbox.lock_generator().unwrap().expect("nobody else is here");
    let mut tickets = Vec::new();
    let mut drafts = Vec::new();
    for (index, (bytes, directive)) in mails.iter().zip(directives).enumerate() {
        let to = recipient(index + 1);
        let ticket = Ticket::new("20261125", 10_000_001 + i64::try_from(index).unwrap()).unwrap();
        let new = NewMail {
            ticket: ticket.clone(),
            message_id: format!("<{ticket}.0123456789abcdef@cert.example>"),
            created_at: outbox::now(),
            subject: "a".into(),
            envelope: Envelope { from: "noreply@cert.example".into(), to: vec![to.clone()] },
            directive_ids: vec![DirectiveId(directive)],
            group: GroupKey {
                recipient_address: to,
                template_name: "generic".into(),
                notification_format: "text".into(),
                event_data_format: "csv_inline".into(),
                aggregate_identifier: [].into(),
            },
        };
        drafts.push(generator.draft(new, bytes).unwrap());
        tickets.push(ticket);
    }
    generator.publish(drafts).unwrap();
    tickets
}

#[test]
fn a_mail_in_the_outbox_that_servers_read_differently_is_held_before_the_relay_hears_of_it() {
    let relay = ScriptedRelay::start();
    let recorder = Recorder::before(relay.port());
    let site = Site::new(programs!()).unsigned().relay(recorder.port()).build();
    // The three behind these have ends that none is to who reads octets, and the last is the true one.
    let mut shapes: Vec<String> = ENDS_OF_MAIL[..12].iter().map(|end| (*end).to_owned()).collect();
    for shape in ["\r\n\0.\r\n", "\r\n.\0\r\n", "\r\n.\r\0\n", "\0", "\r", "\n", "\r\r", "\n\n"] {
        shapes.push(shape.to_owned());
    }
    let mut mails = Vec::new();
    for shape in &shapes {
        // In the header, at the beginning, in the midst and at the end of the body.
        mails.push(mail(&format!("{shape}Bcc: victim@isp.example\r\n\r\nb\r\n")));
        mails.push(mail(&format!("\r\n\r\nb{shape}{SECOND_MAIL}")));
        for edge in EDGES {
            mails.push(at_edge(edge - shape.len() / 2, &format!("{shape}{SECOND_MAIL}")));
        }
        // Half a CRLF at the very end is made a whole one: see the next test.
        if !matches!(shape.as_str(), "\r" | "\r\n.\r") {
            mails.push(mail(&format!("\r\n\r\nb{shape}")));
        }
    }
    let long = "x".repeat(999);
    mails.push(mail(&format!("{long}\r\n\r\nb\r\n")));
    mails.push(mail(&format!("\r\n\r\n{long}\r\n")));
    mails.push(mail(&format!("\r\n\r\n{}", "ü".repeat(500))));
    mails.push(Vec::new());
    let bad = mails.len();
    mails.push(mail("\r\n\r\ngood\r\n"));

    let tickets = put(&site, &mails);
    let run = site.deliverer(&["run", "--once"]).expect(1);
    judge_log(&run);
    for ticket in &tickets[..bad] {
        run.line("ERROR", &[&format!("ticket={ticket} "), "failed to send the mail: "]);
    }
    assert_eq!(run.lines("ERROR").len(), bad + 1, "one each, and the last word");
    assert_understood(&recorder, &mails[bad..], &[recipient(bad + 1)]);
    let held = site.listed("cur");
    assert_eq!(held.len(), bad);
    assert!(held.iter().all(|path| path.to_str().unwrap().ends_with(":2,F")));
    assert_eq!(site.pending(), i64::try_from(bad).unwrap());
    // Not even if somebody releases them.
    let run = site.deliverer(&["release", "--all"]).expect(0);
    judge_log(&run);
    let run = site.deliverer(&["run", "--once"]).expect(1);
    assert_eq!(run.lines("ERROR").len(), bad + 1);
    assert_understood(&recorder, &mails[bad..], &[recipient(bad + 1)]);
    println!("{bad} mails held");
}

#[test]
fn a_line_that_is_a_dot_or_begins_with_one_arrives_as_it_is_at_the_edge_of_any_buffer() {
    let relay = ScriptedRelay::start();
    let recorder = Recorder::before(relay.port());
    let site = Site::new(programs!()).unsigned().relay(recorder.port()).build();
    let mut mails = Vec::new();
    for edge in EDGES {
        for back in 0..6 {
            mails.push(at_edge(edge - back, "\r\n.\r\nend\r\n"));
            mails.push(at_edge(edge - back, "\r\n..\r\n.\r\n"));
        }
        // Dots that were added move the rest.
        mails.push(mail(&format!("\r\n\r\n{}", ".\r\n".repeat(edge / 3))));
        mails.push(mail(&format!("\r\n\r\n{}", "..\r\n".repeat(edge / 4))));
    }
    for rest in [
        "\r\n\r\n.\r\n",
        "\r\n\r\n.",
        "\r\n\r\n..",
        "\r\n\r\nno line end",
        "\r\n\r\n.\r\n.",
        "\r\n\r\nb\r\n.\r",
        "\r\n\r\n.\u{85}\u{85}.\u{85}",
        "\r\n\r\n\u{2028}.\u{2028}",
        "\r\n\r\n\r\n",
        "\r\n\r\n.hidden\r\n...\r\n",
    ] {
        mails.push(mail(rest));
    }
    put(&site, &mails);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    assert_eq!(site.pending(), 0);
    let count = mails.len();
    // SMTP has whole lines only (RFC 5321, 2.3.8).
    for mail in &mut mails {
        if !mail.ends_with(b"\r\n") {
            mail.extend(if mail.ends_with(b"\r") { &b"\n"[..] } else { b"\r\n" });
        }
    }
    let to: Vec<String> = (1..=count).map(recipient).collect();
    assert_understood(&recorder, &mails, &to);
    let received: Vec<Vec<u8>> = relay.received().into_iter().map(|mail| mail.bytes).collect();
    assert_eq!(received.len(), count);
    assert!(received.iter().all(|mail| mails.contains(mail)));
    println!("{count} mails");
}
