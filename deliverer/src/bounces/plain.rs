//! Bounces of mail systems that write no delivery status, but text: Exim before 4.85 or so, and
//! qmail.
//!
//! Only what these two write is taken for a bounce, by the words it begins with. Any other text may
//! be a person's.

use super::dsn::{Action, Outcome};
use super::fields::Fields;

/// What the text says of each recipient; none if it is no bounce of Exim or qmail.
pub fn outcomes(header: &Fields, text: &str) -> Vec<Outcome> {
    if text.trim_start().starts_with("Hi. This is the ") {
        return qmail(text);
    }
    if !text.trim_start().starts_with("This message was created automatically by mail delivery") {
        return Vec::new();
    }
    match header.get("X-Failed-Recipients") {
        Some(failed) => {
            let failed = failed.split(',').map(str::trim).filter(|address| address.contains('@'));
            failed.map(|address| exim(text, address, Action::Failed)).collect()
        }
        None if text.contains("has not yet been delivered") => {
            exim_delayed(text).map(|address| exim(text, address, Action::Delayed)).collect()
        }
        None => Vec::new(),
    }
}

/// What Exim says of `address`: it stands on a line of its own, and what follows is indented more.
fn exim(text: &str, address: &str, action: Action) -> Outcome {
    let mut outcome = begun(action, address);
    let mut said = Vec::new();
    let mut lines =
        text.lines().skip_while(|line| line.trim().trim_end_matches(':') != address).skip(1);
    for line in lines.by_ref().take_while(|line| line.starts_with("    ")).map(str::trim) {
        if let Some(host) = line.strip_prefix("host ") {
            outcome.remote_mta = host.split_whitespace().next().map(str::to_owned);
            said.extend(host.split_once("]: ").map(|(_, words)| words));
        } else if !(line.contains("SMTP error from remote mail server") && line.ends_with(':')) {
            said.push(line.strip_prefix("Delay reason: ").unwrap_or(line));
        }
    }
    finished(outcome, &said)
}

/// The addresses in a warning of Exim: those that stand alone, indented by two, with a line of more
/// below or not.
fn exim_delayed(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .skip_while(|line| !line.contains("has not yet been delivered") || !line.ends_with(':'))
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.contains('@') && !line.starts_with(' ') && !line.trim().contains(' '))
        .map(str::trim)
}

/// What qmail says: a paragraph for each recipient, up to the copy of the mail (QSBMF).
fn qmail(text: &str) -> Vec<Outcome> {
    let text = text.replace("\r\n", "\n");
    let mut outcomes = Vec::new();
    for paragraph in text.split("\n\n").map(str::trim).take_while(|text| !text.starts_with("---")) {
        let mut lines = paragraph.lines();
        let address = lines.next().and_then(|line| line.strip_prefix('<')?.strip_suffix(">:"));
        let Some(address) = address else { continue };
        let mut outcome = begun(Action::Failed, address);
        let mut said = Vec::new();
        for line in lines.map(str::trim).filter(|line| !line.starts_with("Giving up on ")) {
            if let Some(host) = line.strip_suffix(" does not like recipient.") {
                outcome.remote_mta = Some(host.to_owned());
            } else {
                said.push(line.strip_prefix("Remote host said: ").unwrap_or(line));
            }
        }
        outcomes.push(finished(outcome, &said));
    }
    outcomes
}

fn begun(action: Action, address: &str) -> Outcome {
    Outcome {
        action,
        status: None,
        original_recipient: None,
        final_recipient: Some(address.to_owned()),
        diagnostic: None,
        remote_mta: None,
        reporting_mta: None,
    }
}

fn finished(outcome: Outcome, said: &[&str]) -> Outcome {
    let diagnostic = (!said.is_empty()).then(|| said.join(" "));
    Outcome { diagnostic, ..outcome }.with_status_of_diagnostic()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exim_names_the_host_on_a_line_of_its_own() {
        let header = Fields::parse("X-Failed-Recipients: a@as64496.example\n");
        let text = [
            "This message was created automatically by mail delivery software.",
            "",
            "The following address(es) failed:",
            "",
            "  a@as64496.example:",
            "    host mx.as64496.example [192.0.2.25]",
            "    SMTP error from remote mail server after RCPT TO:<a@as64496.example>:",
            "    550 5.1.1 <a@as64496.example>: unknown",
            "",
            "    550 not this",
        ];
        let [outcome] = &outcomes(&header, &text.join("\n"))[..] else { panic!() };
        assert_eq!(outcome.recipient(), Some("a@as64496.example"));
        assert_eq!(outcome.remote_mta.as_deref(), Some("mx.as64496.example"));
        assert_eq!(outcome.diagnostic.as_deref(), Some("550 5.1.1 <a@as64496.example>: unknown"));
        assert_eq!(outcome.status.map(|status| status.to_string()).as_deref(), Some("5.1.1"));
    }

    #[test]
    fn what_a_person_quotes_is_no_bounce() {
        let quoted = "You wrote:\n> This message was created automatically by mail delivery\n";
        let header = Fields::parse("X-Failed-Recipients: a@as64496.example\n");
        assert_eq!(outcomes(&header, quoted), []);
        assert_eq!(outcomes(&header, "Hi. This is me.\n\n<a@as64496.example>:\nno\n"), []);
    }
}
