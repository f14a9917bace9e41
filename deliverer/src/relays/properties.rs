//! What holds of a relay's pauses and connections, whatever comes of its mails and in whatever order.

use proptest::prelude::*;

use super::tests::{answered, attempt, begin, end_pause, lost_with_a_mail, refused, relays};
use super::*;

/// What comes of a turn.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// No connection comes about.
    Refused,
    /// The connection breaks over a mail.
    Breaks,
    /// There are too many connections.
    TooMany,
    /// A mail goes through.
    Through,
}

fn ends() -> impl Strategy<Value = Ends> {
    use Ends::{Breaks, Refused, Through, TooMany};
    prop_oneof![4 => Just(Refused), 2 => Just(Breaks), 1 => Just(TooMany), 2 => Just(Through)]
}

proptest! {
    /// One turn after the other: the pause is 2 s at first, doubles with each failure that is no mail's, is five minutes
    /// at most, and begins anew once something went through.
    #[test]
    fn pauses_double_to_five_minutes_and_begin_anew(
        turns in proptest::collection::vec(ends(), 1..60)
    ) {
        let mut relays = relays(1);
        // The pause that there is, by a plain count.
        let mut pause: Option<u64> = None;
        let mut narrow = false;
        for ends in turns {
            let Some((_, turn)) = begin(&mut relays) else {
                prop_assert!(false, "a relay that does not rest gets a mail");
                return Ok(());
            };
            match ends {
                Ends::Refused => {
                    relays.end_without_session(&turn, &refused());
                    pause = Some(pause.map_or(2, |pause| (pause * 2).min(300)));
                }
                Ends::Breaks => {
                    relays.end(&turn, Some(&attempt(Some(lost_with_a_mail()))), None);
                    pause = Some(pause.unwrap_or(2));
                }
                Ends::TooMany => {
                    relays.end_without_session(&turn, &answered(421, "too many connections"));
                    pause = Some(pause.map_or(2, |pause| (pause * 2).min(300)));
                    narrow = true;
                }
                Ends::Through => {
                    relays.end(&turn, Some(&attempt(None)), None);
                    pause = None;
                }
            }
            // The machine may be slow: the pause does not end before the test says so.
            if let Health::Trouble { until, .. } = &mut relays.known[0].health {
                *until = Instant::now() + Duration::from_secs(3600);
            }
            let known = match relays.known[0].health {
                Health::Trouble { pause, .. } => Some(pause.as_secs()),
                _ => None,
            };
            prop_assert_eq!(known, pause);
            prop_assert_eq!(relays.known[0].narrow.is_some(), narrow);
            prop_assert_eq!(relays.all_rest(), pause.is_some());
            prop_assert_eq!(relays.health()[0].trouble.is_some(), pause.is_some());
            if pause.is_some() {
                prop_assert!(begin(&mut relays).is_none(), "it is left alone");
                prop_assert!(relays.next_turn().is_some(), "and not for ever");
                end_pause(&mut relays, 0);
            }
            // However many are offered: one at a time while it is not known to work, or is narrow.
            let room = if pause.is_some() || narrow { 1 } else { relays.connections };
            let given: Vec<Turn> = std::iter::from_fn(|| begin(&mut relays).map(|(_, turn)| turn)).collect();
            prop_assert_eq!(given.len(), room);
            for turn in given {
                relays.end(&turn, None, None);
            }
            prop_assert!(relays.known[0].with_it.is_empty());
        }
    }
}
