//! Logging in with AUTH (RFC 4954), without ever giving the password away.

use lettre::transport::smtp::{
    authentication::{Credentials, Mechanism},
    commands::Auth,
};

use super::{
    connection::Connection,
    trouble::{Cause, Phase, RelayTrouble},
};

/// Logs in with PLAIN, or with LOGIN where the relay has nothing better.
pub(super) fn log_in(
    connection: &mut Connection,
    credentials: &Credentials,
) -> Result<(), RelayTrouble> {
    if !connection.is_private() {
        return Err(connection.fail(Phase::Auth, Cause::PasswordInTheClear));
    }
    let Some(mechanism) = connection.capabilities().mechanism() else {
        return Err(connection.fail(Phase::Auth, Cause::NotOffered("AUTH PLAIN or AUTH LOGIN")));
    };
    let lines = lines(mechanism, credentials);
    connection.hide_in_replies(secrets(&lines, credentials));
    for (step, line) in lines.iter().enumerate() {
        let expected = if step + 1 == lines.len() { 235 } else { 334 };
        let reply = connection.command(Phase::Auth, line)?;
        if reply.code() != expected {
            return Err(connection.fail(Phase::Auth, Cause::Answered(reply)));
        }
    }
    connection.hide_in_replies(Vec::new());
    Ok(())
}

/// What we say, line by line. LOGIN always asks for the user's name first; its challenges are free text, and not read.
fn lines(mechanism: Mechanism, credentials: &Credentials) -> Vec<String> {
    let challenges: &[Option<&str>] = match mechanism {
        Mechanism::Login => &[None, Some("Username"), Some("Password")],
        _ => &[None],
    };
    challenges
        .iter()
        .map(|challenge| {
            Auth::new(mechanism, credentials.clone(), challenge.map(Into::into))
                .expect("PLAIN takes no challenge, and LOGIN knows these two")
                .to_string()
        })
        .collect()
}

/// What a relay could quote from these lines.
fn secrets(lines: &[String], credentials: &Credentials) -> Vec<String> {
    let password = Mechanism::Login
        .response(credentials, Some("Password"))
        .expect("LOGIN knows this challenge");
    let last_words = lines.iter().filter_map(|line| line.split_ascii_whitespace().last());
    last_words.filter(|word| *word != "LOGIN").map(Into::into).chain([password]).collect()
}
