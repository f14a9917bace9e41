//! Delivery status notifications: the body of `message/delivery-status` (RFC 3464).

use serde::Serialize;

use super::fields::Fields;
use super::status::Status;

/// What became of the mail for a recipient (RFC 3464, 2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It will never be delivered.
    Failed,
    /// It is still tried.
    Delayed,
    /// It was delivered.
    Delivered,
    /// It was handed to a system that sends no notices.
    Relayed,
    /// It was delivered and multiplied.
    Expanded,
}

impl Action {
    /// As RFC 3464 spells it, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Delayed => "delayed",
            Self::Delivered => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Failed, Self::Delayed, Self::Delivered, Self::Relayed, Self::Expanded]
            .into_iter()
            .find(|action| {
                let word = text.split(|c: char| !c.is_ascii_alphabetic()).next();
                word.is_some_and(|word| word.eq_ignore_ascii_case(action.as_str()))
            })
    }
}

/// What a notification says of one recipient. All of it is as whoever wrote it wanted it to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What became of the mail.
    pub action: Action,
    /// The status code: that of the field, or a more precise one in the diagnostic.
    pub status: Option<Status>,
    /// The address that we sent to.
    pub original_recipient: Option<String>,
    /// The address in the end, after aliases and forwards.
    pub final_recipient: Option<String>,
    /// What the last mail server said.
    pub diagnostic: Option<String>,
    /// The mail server that said so.
    pub remote_mta: Option<String>,
    /// The mail server that tells about it.
    pub reporting_mta: Option<String>,
}

impl Outcome {
    /// The address that we sent to, as far as it is known.
    pub fn recipient(&self) -> Option<&str> {
        self.original_recipient.as_deref().or(self.final_recipient.as_deref())
    }

    /// Takes the code in the diagnostic if the field has none or says nothing but "failed": Exim and
    /// others write `Status: 5.0.0` always.
    pub fn with_status_of_diagnostic(mut self) -> Self {
        if self.status.is_none_or(Status::is_generic) {
            let said = self.diagnostic.as_deref().and_then(Status::find);
            self.status = said.or(self.status);
        }
        self
    }
}

/// A notification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// The ENVID that our mail was sent with (RFC 3461, 4.4), as it stands there.
    pub envelope_id: Option<String>,
    /// A piece for each recipient.
    pub outcomes: Vec<Outcome>,
}

impl DeliveryStatus {
    /// Reads the body of a `message/delivery-status`.
    ///
    /// The first group of fields is about the mail, each further one about a recipient. Some systems
    /// forget the blank line between them, so a group is known by what is in it.
    pub fn parse(text: &str) -> Self {
        let mut status = Self::default();
        let mut reporting_mta = None;
        for group in Fields::groups(text) {
            if let Some(id) = group.get("Original-Envelope-Id") {
                status.envelope_id.get_or_insert_with(|| id.to_owned());
            }
            if let Some(host) = group.get("Reporting-MTA") {
                reporting_mta.get_or_insert_with(|| without_type(host));
            }
            status.outcomes.extend(outcome(&group, reporting_mta.as_ref()));
        }
        status
    }
}

fn outcome(group: &Fields, reporting_mta: Option<&String>) -> Option<Outcome> {
    let field = |name| group.get(name).map(without_type).filter(|value| !value.is_empty());
    let status = group.get("Status").and_then(Status::parse);
    let by_class = |status: Status| match status.class {
        2 => Action::Delivered,
        4 => Action::Delayed,
        _ => Action::Failed,
    };
    let action = group.get("Action").and_then(Action::parse).or(status.map(by_class))?;
    let address = |name| field(name).map(|text| text.trim_matches(['<', '>']).to_owned());
    let outcome = Outcome {
        action,
        status,
        original_recipient: address("Original-Recipient"),
        final_recipient: address("Final-Recipient"),
        diagnostic: field("Diagnostic-Code"),
        remote_mta: field("Remote-MTA"),
        reporting_mta: reporting_mta.cloned(),
    };
    Some(outcome.with_status_of_diagnostic())
}

/// `mx.example` of `dns; mx.example`: the type is a word, and there need not be one.
fn without_type(text: &str) -> String {
    let rest = match text.split_once(';') {
        Some((kind, rest))
            if kind.trim().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') =>
        {
            rest
        }
        _ => text,
    };
    rest.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_recipient_has_an_outcome_of_its_own() {
        let status = DeliveryStatus::parse(
            "Reporting-MTA: dns; relay.example\r\nOriginal-Envelope-ID: 20261125-10000042\r\n\r\n\
             Original-Recipient: rfc822;abuse@as64496.example\r\n\
             Final-Recipient: RFC822; <box@as64497.example>\r\nAction: Failed (permanent)\r\n\
             Status: 5.0.0\r\nRemote-MTA: dns;mx.as64497.example\r\n\
             Diagnostic-Code: smtp; 552-5.2.2 over\r\n quota\r\n\r\n\
             Final-Recipient: x; b@as64496.example\r\nStatus: 4.4.1\r\n\r\n\
             Final-Recipient: rfc822;c@as64496.example\r\nAction: relayed\r\n\r\n\
             X-Nothing: of use\r\n",
        );
        assert_eq!(status.envelope_id.as_deref(), Some("20261125-10000042"));
        let [first, second, third] = &status.outcomes[..] else { panic!("{status:?}") };
        assert_eq!(
            (first.action, first.recipient()),
            (Action::Failed, Some("abuse@as64496.example"))
        );
        assert_eq!(first.final_recipient.as_deref(), Some("box@as64497.example"));
        assert_eq!(first.status.unwrap().to_string(), "5.2.2", "5.0.0 says nothing");
        assert_eq!(first.diagnostic.as_deref(), Some("552-5.2.2 over quota"));
        assert_eq!(first.remote_mta.as_deref(), Some("mx.as64497.example"));
        assert_eq!(first.reporting_mta.as_deref(), Some("relay.example"));
        assert_eq!(
            (second.action, second.recipient()),
            (Action::Delayed, Some("b@as64496.example"))
        );
        assert_eq!((third.action, third.status), (Action::Relayed, None));
    }

    #[test]
    fn a_missing_blank_line_and_ten_thousand_groups_do_no_harm() {
        let joined =
            "Reporting-MTA: relay.example\nFinal-Recipient: a@b.example\nAction: failed\n\n";
        let status = DeliveryStatus::parse(&joined.repeat(10_000));
        assert_eq!(status.outcomes.len(), 10_000);
        assert_eq!(status.outcomes[0].reporting_mta.as_deref(), Some("relay.example"));
        assert_eq!(DeliveryStatus::parse("\0\u{1b}[2J\n:\n\n;\n"), DeliveryStatus::default());
    }
}
