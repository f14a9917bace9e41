//! Where mails may go: not to this system itself, and on a test system not to the world.

use outbox_config::ReviewSettings;

use crate::address::{Address, AddressError, EnvelopeFrom, recipients};
use crate::pattern::AddressPattern;

/// The limits of the envelope. What stands in a header is another matter.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// The addresses under which this system itself gets mail, and the key that each comes from.
    own: Vec<(&'static str, AddressPattern)>,
    only: Option<Vec<AddressPattern>>,
    redirect_to: Option<Vec<Address>>,
}

/// Why a mail may not go to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// What comes to the address may be answered by a program, and the answer come back.
    #[error(
        "{address} is this system's own address ({key}): mails to it could go round in circles; \
         notify another address"
    )]
    Own {
        /// The address.
        address: Address,
        /// The key that says so.
        key: &'static str,
    },
    /// It is not among those that the configuration allows.
    #[error(
        "{0} is not among review.only_recipients, to which this system is limited; add it there, or \
         remove the key on a system that is not for tests"
    )]
    NotAllowed(Address),
}

impl Destinations {
    /// The limits that the configuration sets. Fails if `review.redirect_to` is no address.
    pub fn new(
        review: &ReviewSettings,
        sender: &Address,
        envelope_from: &EnvelopeFrom,
    ) -> Result<Self, AddressError> {
        let own = [("sender", sender.as_str()), ("envelope_from", &envelope_from.pattern())];
        let own = own.into_iter().filter(|(_, address)| !address.is_empty());
        let redirect_to = review.redirect_to.as_deref().map(recipients).transpose()?;
        let only = review.only_recipients.as_ref();
        Ok(Self {
            own: own.map(|(key, text)| (key, AddressPattern::new(text))).collect(),
            only: only.map(|only| only.iter().map(|text| AddressPattern::new(text)).collect()),
            redirect_to,
        })
    }

    /// Where all mails go instead, if they are redirected.
    pub fn redirect_to(&self) -> Option<&[Address]> {
        self.redirect_to.as_deref()
    }

    /// The addresses that a mail for `wanted` goes to: all of them, or the one of the configuration.
    /// Fails if it may not go to one of them.
    pub fn of<'a>(&'a self, wanted: &'a [Address]) -> Result<&'a [Address], DestinationError> {
        let to = self.redirect_to.as_deref().unwrap_or(wanted);
        for address in to {
            if let Some((key, _)) = self.own.iter().find(|(_, own)| own.matches(address)) {
                return Err(DestinationError::Own { address: address.clone(), key });
            }
            let allowed = |only: &Vec<AddressPattern>| only.iter().any(|p| p.matches(address));
            if !self.only.as_ref().is_none_or(allowed) {
                return Err(DestinationError::NotAllowed(address.clone()));
            }
        }
        Ok(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(review: &str, wanted: &str) -> Result<Vec<String>, String> {
        let review = serde_json::from_str(review).unwrap();
        let envelope_from = "bounce+{ticket}@cert.example".parse().unwrap();
        let sender = "noreply@cert.example".parse().unwrap();
        let destinations = Destinations::new(&review, &sender, &envelope_from).unwrap();
        let wanted = recipients(wanted).unwrap();
        let to = destinations.of(&wanted).map_err(|error| error.to_string())?;
        Ok(to.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_mail_goes_where_it_should() {
        let both = of("{}", "abuse@as64496.example, noc@as64496.example").unwrap();
        assert_eq!(both, ["abuse@as64496.example", "noc@as64496.example"]);
    }

    #[test]
    fn a_mail_to_the_system_itself_is_refused() {
        for (own, key) in [
            ("noreply@cert.example", "(sender)"),
            ("NoReply@CERT.example", "(sender)"),
            ("bounce+20261125-10000042@cert.example", "(envelope_from)"),
        ] {
            for wanted in [own.to_owned(), format!("abuse@as64496.example,{own}")] {
                let error = of("{}", &wanted).unwrap_err();
                assert!(error.contains(key), "{wanted}: {error}");
            }
        }
        assert!(of("{}", "report@cert.example").is_ok());
        assert!(of("{}", "xnoreply@cert.example").is_ok());
    }

    #[test]
    fn only_some_recipients_may_be_allowed() {
        let only = r#"{"only_recipients": ["*@Test.example", "*@bücher.example"]}"#;
        assert!(of(only, "abuse@test.example").is_ok());
        assert!(of(only, "Abuse@TEST.example").is_ok());
        assert!(of(only, "a@xn--bcher-kva.example").is_ok());
        for bad in
            ["abuse@as64496.example", "a@test.example,b@elsewhere.example", "a@x.test.example"]
        {
            let error = of(only, bad).unwrap_err();
            assert!(error.contains("review.only_recipients"), "{error}");
        }
    }

    #[test]
    fn all_mails_can_go_to_one_address_which_must_be_allowed_too() {
        let redirect = r#"{"redirect_to": "test@cert.example"}"#;
        assert_eq!(of(redirect, "abuse@as64496.example").unwrap(), ["test@cert.example"]);
        // Nothing goes round in circles then.
        assert_eq!(of(redirect, "noreply@cert.example").unwrap(), ["test@cert.example"]);
        let both = r#"{"redirect_to": "t@cert.example", "only_recipients": ["*@test.example"]}"#;
        assert!(of(both, "a@test.example").unwrap_err().contains("t@cert.example"));
        let own = r#"{"redirect_to": "noreply@cert.example"}"#;
        assert!(of(own, "a@test.example").unwrap_err().contains("own address"));
    }
}
