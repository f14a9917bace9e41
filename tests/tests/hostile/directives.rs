//! Hostile directives: recipient, names of template and formats, aggregate identifier.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use outbox_tests::events::Directive;
use outbox_tests::programs;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;

use super::{Case, Check, Wanted, corpus, generate, judge_log, judge_mails, tell};

const FORMATS: &str = r#"
    [[format]]
    name = "subject"
    when = { notification_format = "subject" }
    columns = ["source.ip"]
    subject = "[${ticket_number}] ${word}."
    body = "x"

    [[format]]
    name = "subject alone"
    when = { notification_format = "subject alone" }
    columns = ["source.ip"]
    subject = "${word}"
    body = "x"

    [[format]]
    name = "in the text"
    when = { notification_format = "in the text" }
    columns = ["source.ip"]
    subject = "[${ticket_number}] text"
    body = "<${word}> ${number_of_events}"

    [substitutions]
    through = "<${word}>"

    [[format]]
    name = "in a substitution"
    when = { notification_format = "in a substitution" }
    columns = ["source.ip"]
    subject = "[${ticket_number}] text"
    body = "${through} ${number_of_events}"
"#;

/// Whether a subject can't have it: what ends a line for some reader, or turns the direction of what
/// stands around it. A tab is white space.
fn is_refused_in_subjects(c: char) -> bool {
    c.is_control() && c != '\t' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn directive(number: usize) -> (Directive, String) {
    let to = format!("c{number}@isp.example");
    (Directive::to(&to), to)
}

/// Each text in each field of a directive but the recipient's.
fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    let every_control = corpus::texts();
    let some: Vec<String> = corpus::some().into_iter().map(|hostile| hostile.text).collect();
    for corpus::Hostile { kind, text } in every_control {
        let mut add = |place, change: &dyn Fn(Directive) -> Directive, wanted: Wanted| {
            let (directive, to) = directive(cases.len());
            let wanted = match wanted {
                Wanted::Mail(check) => Wanted::Mail(Check { to: vec![to], ..check }),
                other => other,
            };
            cases.push(Case { kind, place, event: change(directive).event(), wanted });
        };
        let word = |format: &'static str| {
            let text = text.clone();
            move |directive: Directive| {
                directive.format(format, "csv").aggregate("word", text.clone())
            }
        };
        let refused = text.contains(is_refused_in_subjects);
        let among_some = some.contains(&text);
        for (format, shown) in
            [("subject", format!("[\0] {text}.")), ("subject alone", text.clone())]
        {
            if format == "subject alone" && !among_some {
                continue;
            }
            let wanted = if refused {
                Wanted::Error("failed to write the header Subject: ")
            } else {
                Wanted::Mail(Check { subject: Some(shown), ..Check::default() })
            };
            add(format, &word(format), wanted);
        }
        if !among_some {
            continue;
        }
        for format in ["in the text", "in a substitution"] {
            let shown = Some(format!("<{text}> 1"));
            let wanted = Wanted::Mail(Check { text: shown, ..Check::default() });
            add(format, &word(format), wanted);
        }
        let key = |directive: Directive| {
            directive.format("in the text", "csv").aggregate("word", "w").aggregate(&text, "w")
        };
        let shown = Some("<w> 1".to_owned());
        add("key", &key, Wanted::Mail(Check { text: shown, ..Check::default() }));
        let fits = text.chars().count() <= 100;
        let unless_too_long = |wanted: Wanted| if fits { wanted } else { Wanted::Rejected };
        add(
            "formats",
            &|directive| directive.format(&text, &text),
            unless_too_long(Wanted::Mail(Check::default())),
        );
        add(
            "template_name",
            &|directive| directive.template(&text),
            unless_too_long(Wanted::Error("the template ")),
        );
    }
    cases
}

#[test]
fn any_field_of_a_directive_makes_a_right_mail_or_an_error_and_no_line_of_a_log_is_forged() {
    let relay = ScriptedRelay::start();
    let site = Site::new(programs!())
        .unsigned()
        .relay(relay.port())
        .template("formats/05-hostile.toml", FORMATS)
        .build();
    let cases = fields();
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    assert_eq!(relay.received().len(), outcome.mails.len());
    let errors = i64::try_from(outcome.errors.len()).unwrap();
    assert_eq!(site.pending(), errors, "what is in error, and nothing else, stays pending");
    let done = site.column::<i64>("SELECT count(*) FROM events")[0];
    assert_eq!(done, i64::try_from(cases.len()).unwrap(), "no statement was one of theirs");
}

/// Recipients, and who gets the mail, or why nobody does.
const RECIPIENTS: [(&str, Result<&[&str], &str>); 51] = [
    ("a@isp.example\r\n", Ok(&["a@isp.example"])),
    ("\n a@isp.example \t", Ok(&["a@isp.example"])),
    ("a@isp.example,,b@isp.example,", Ok(&["a@isp.example", "b@isp.example"])),
    ("a@isp.example,\r\n b@isp.example", Ok(&["a@isp.example", "b@isp.example"])),
    ("user%other@isp.example", Ok(&["user%other@isp.example"])),
    ("isp!user@isp.example", Ok(&["isp!user@isp.example"])),
    ("-oQ/tmp@isp.example", Ok(&["-oQ/tmp@isp.example"])),
    ("--homedir=x@isp.example", Ok(&["--homedir=x@isp.example"])),
    ("|/bin/sh@isp.example", Ok(&["|/bin/sh@isp.example"])),
    ("$(id)@isp.example", Err("can not stand there")),
    ("${ticket_number}@isp.example", Ok(&["${ticket_number}@isp.example"])),
    ("{ticket}@isp.example", Ok(&["{ticket}@isp.example"])),
    ("a'--@isp.example", Ok(&["a'--@isp.example"])),
    ("=?utf-8?Q?a?=@isp.example", Err("encoded word")),
    ("=?utf-8?B?eEBpc3AuZXhhbXBsZQ==?=@isp.example", Err("encoded word")),
    ("grüße@bücher.example", Ok(&["grüße@xn--bcher-kva.example"])),
    ("a@straße.example", Ok(&["a@xn--strae-oqa.example"])),
    ("A.b+tag@ISP.EXAMPLE", Ok(&["A.b+tag@isp.example"])),
    ("root@localhost", Ok(&["root@localhost"])),
    ("root", Err("there is no @")),
    // PostgreSQL's trigger keeps an empty one apart.
    ("", Err("")),
    (" , ,", Err("failed to find a mail address")),
    ("a@isp.example\nBcc: victim@isp.example", Err("control character")),
    ("a@isp.example\r\nRCPT TO:<victim@isp.example>", Err("control character")),
    ("a@isp.example>\r\nDATA", Err("no domain name")),
    ("a\r\n@isp.example", Err("control character")),
    ("a\r\nBcc: victim@isp.example", Err("control character")),
    ("a@isp\n.example", Err("no domain name")),
    ("a@isp.example> SIZE=1", Err("no domain name")),
    ("<a@isp.example>", Err("can not stand there")),
    ("CERT <a@isp.example>", Err("can not stand there")),
    ("\"a b\"@isp.example", Err("quoted")),
    ("\"a> RCPT TO:<victim\"@isp.example", Err("quoted")),
    ("(comment)a@isp.example", Err("can not stand there")),
    ("a@isp.example (comment)", Err("no domain name")),
    ("@relay.example:a@isp.example", Err("can not stand there")),
    ("<@relay.example:a@isp.example>", Err("can not stand there")),
    ("a@b@isp.example", Err("can not stand there")),
    ("a@[192.0.2.1]", Err("IP address")),
    ("a@192.0.2.1", Err("IP address")),
    ("a@[IPv6:2001:db8::1]", Err("IP address")),
    ("a@isp.example;b@isp.example", Err("can not stand there")),
    ("group: a@isp.example;", Err("can not stand there")),
    ("undisclosed-recipients:;", Err("there is no @")),
    (":include:/etc/passwd@isp.example", Err("can not stand there")),
    ("a\u{202e}b@isp.example", Err("can not stand there")),
    ("a\u{200b}@isp.example", Err("can not stand there")),
    ("a\u{ad}b@isp.example", Err("can not stand there")),
    ("a@isp\u{202e}.example", Err("no domain name")),
    ("a\u{2028}Bcc: b@isp.example", Err("can not stand there")),
    ("a..b@isp.example", Err("nothing on one side")),
];

#[test]
fn a_recipient_is_taken_as_it_is_meant_or_refused_and_nobody_else_gets_the_mail() {
    let relay = ScriptedRelay::offering(&["PIPELINING", "8BITMIME", "SMTPUTF8"]);
    let site = Site::new(programs!()).unsigned().relay(relay.port()).build();
    let cases: Vec<Case> = RECIPIENTS
        .iter()
        .map(|(to, wanted)| {
            let wanted = match wanted {
                Ok(to) => Wanted::Mail(Check {
                    to: to.iter().map(|to| (*to).to_owned()).collect(),
                    ..Check::default()
                }),
                Err("") => Wanted::Rejected,
                Err(words) => Wanted::Error(words),
            };
            Case { kind: "recipient", place: "to", event: Directive::to(to).event(), wanted }
        })
        .collect();
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);
    judge_log(&site.deliverer(&["run", "--once"]).expect(0).without("WARN"));
    let mut got: Vec<Vec<String>> = relay.received().into_iter().map(|mail| mail.to).collect();
    let mut wanted: Vec<Vec<String>> = RECIPIENTS
        .iter()
        .filter_map(|(_, wanted)| Some(wanted.ok()?.iter().map(|&to| to.into()).collect()))
        .collect();
    got.sort();
    wanted.sort();
    assert_eq!(got, wanted);
    for command in relay.commands() {
        let known = ["EHLO ", "MAIL FROM:<noreply@", "RCPT TO:<", "DATA", "QUIT"];
        assert!(known.iter().any(|known| command.starts_with(known)), "{command:?}");
        assert!(!command.contains("victim") && command.matches(['<', '>']).count() <= 2);
    }
}

#[test]
fn a_template_is_a_file_in_the_folder_whatever_the_name_says_and_none_is_waited_for() {
    let site = Site::new(programs!())
        .unsigned()
        .template("empty", "\n \n")
        .template("dollar", "s\n\n$ {ticket_number}\n")
        .template("big", &"x".repeat(2 << 20))
        .template("greek", "γ ${ticket_number}\n\nx\n")
        .template("injecting", "${word}\r\nBcc: victim@isp.example\r\n\r\nx\r\n")
        .build();
    let folder = site.folder().join("templates");
    let path = |name: &str| folder.join(name);
    fs::write(path("latin1"), b"gr\xfc\xdfe\n\nx\n").unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::write(path("folder/inner"), "inner ${ticket_number}\n\nx\n").unwrap();
    fs::write(site.folder().join("secret"), "secret\n\nx\n").unwrap();
    for (name, to) in [
        ("link-within", "greek"),
        ("link-up", "../secret"),
        ("link-out", "/etc/hostname"),
        ("link-device", "/dev/zero"),
        ("link-loop", "link-loop"),
        ("link-nowhere", "no-such-file"),
        ("folder/up", "../.."),
    ] {
        symlink(to, path(name)).unwrap();
    }
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();

    let good = |subject: &str| Ok(subject.to_owned());
    let templates: Vec<(&str, Result<String, &'static str>)> = vec![
        ("greek", good("γ \0")),
        ("link-within", good("γ \0")),
        ("folder/inner", good("inner \0")),
        // The line behind the first is of the text.
        ("injecting", good("w")),
        ("link-up", Err("leads out of the template folder")),
        ("link-out", Err("leads out of the template folder")),
        ("link-device", Err("leads out of the template folder")),
        ("folder/up/secret", Err("leads out of the template folder")),
        ("link-loop", Err("failed to read the template")),
        ("link-nowhere", Err("failed to read the template")),
        ("fifo", Err("not a regular file")),
        ("socket", Err("not a regular file")),
        ("folder", Err("not a regular file")),
        ("latin1", Err("failed to read the template")),
        ("empty", Err("has no subject")),
        ("dollar", Err("no placeholder")),
        ("big", Err("larger than")),
        ("../secret", Err("must be that of a file in the template folder")),
        ("folder/../greek", Err("must be that of a file in the template folder")),
        ("./greek", Err("must be that of a file in the template folder")),
        ("/etc/hostname", Err("must be that of a file in the template folder")),
        ("//etc/hostname", Err("must be that of a file in the template folder")),
        ("..", Err("must be that of a file in the template folder")),
        (".", Err("must be that of a file in the template folder")),
        ("", Err("must be that of a file in the template folder")),
        ("greek/", Err("failed to read the template")),
        ("greek/.", Err("failed to read the template")),
        ("greek\n", Err("failed to read the template")),
        (" greek", Err("failed to read the template")),
        ("GREEK", Err("failed to read the template")),
        ("greek\u{202e}", Err("failed to read the template")),
        ("greek%00", Err("failed to read the template")),
    ];
    let cases: Vec<Case> = templates
        .into_iter()
        .enumerate()
        .map(|(number, (name, wanted))| {
            let (directive, to) = directive(number);
            let wanted = match wanted {
                Ok(subject) => {
                    Wanted::Mail(Check { to: vec![to], subject: Some(subject), ..Check::default() })
                }
                Err(words) => Wanted::Error(words),
            };
            let event = directive.template(name).aggregate("word", "w").event();
            Case { kind: "template", place: "name", event, wanted }
        })
        .collect();
    let outcome = generate(&site, &cases);
    tell(&cases, &outcome);
    judge_mails(&site, &cases, &outcome.mails, None);
    for path in outcome.mails.values() {
        assert!(!fs::read_to_string(path).unwrap().contains("secret"));
    }
    drop(socket);
}
