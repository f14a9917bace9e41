//! The lines that strace writes, read: each call with where it began, where it ended, and what it gave.
//!
//! strace is to be called with `-f -yy -xx`: then a string is hexadecimal to the last octet, and no
//! bracket or comma in it can be taken for one of strace's own.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

/// A call of the system that came to an end.
#[derive(Clone, Debug)]
pub struct Call {
    /// The thread that called.
    pub thread: u32,
    /// The line at which it began.
    pub from: usize,
    /// The line at which it ended: the same, unless another thread's lines came between.
    pub to: usize,
    /// Its name.
    pub name: String,
    /// Its arguments as strace writes them.
    pub arguments: Vec<String>,
    /// What it gave, and negative for an error.
    pub result: i64,
    /// What stands behind the result: for a new file descriptor, where it leads to.
    pub gave: String,
}

impl Call {
    /// The file descriptor that an argument is.
    pub fn descriptor(&self, argument: usize) -> Option<u32> {
        let text = self.arguments.get(argument)?;
        text.split('<').next()?.parse().ok()
    }

    /// The path that strace says a file descriptor leads to.
    pub fn path_of(&self, argument: usize) -> Option<String> {
        annotation(self.arguments.get(argument)?)
    }

    /// The string that an argument is.
    pub fn text(&self, argument: usize) -> Option<String> {
        let octets = self.octets(argument)?;
        Some(String::from_utf8_lossy(&octets).into_owned())
    }

    /// The octets that an argument is.
    pub fn octets(&self, argument: usize) -> Option<Vec<u8>> {
        quoted(self.arguments.get(argument)?)
    }
}

/// The octets of the first string in a text.
pub fn quoted(text: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once('"')?;
    let (inside, after) = rest.split_once('"')?;
    // What was cut off is no whole string.
    if after.starts_with("...") { None } else { hexadecimal(inside) }
}

/// What stands between the angle brackets behind a file descriptor.
pub fn annotation(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('<')?;
    let (inside, _) = rest.split_once('>')?;
    Some(String::from_utf8_lossy(&hexadecimal(inside)?).into_owned())
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() / 4);
    let mut rest = text;
    while !rest.is_empty() {
        let (octet, after) = rest.strip_prefix("\\x")?.split_at_checked(2)?;
        octets.push(u8::from_str_radix(octet, 16).ok()?);
        rest = after;
    }
    Some(octets)
}

/// Reads what strace wrote. Calls that never came to an end, as with a kill, are left out.
pub fn read(text: &str) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<(u32, String), (usize, String)> = HashMap::new();
    for (from, line) in text.lines().enumerate() {
        let no_call = || format!("line {}: {line:.200}", from + 1);
        let (thread, rest) = line.split_once(' ').with_context(no_call)?;
        let (thread, rest) = (thread.parse().with_context(no_call)?, rest.trim_start());
        // A signal, or the end of a thread.
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (name, rest) = resumed.split_once(" resumed>").context("resumed what?")?;
            let key = (thread, name.to_owned());
            let (to, call) = (from, format!("{name} never began"));
            let (from, begun): (usize, String) = unfinished.remove(&key).context(call)?;
            if !rest.ends_with("= ?") {
                calls.push(whole(thread, (from, to), &format!("{begun}{rest}"))?);
            }
        } else if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            let name = begun.split('(').next().unwrap_or_default().to_owned();
            unfinished.insert((thread, name), (from, begun.trim_end().to_owned()));
        } else if !rest.ends_with("= ?") || rest.starts_with("exit_group") {
            calls.push(whole(thread, (from, from), rest)?);
        }
    }
    calls.sort_by_key(|call| call.from);
    Ok(calls)
}

fn whole(thread: u32, (from, to): (usize, usize), text: &str) -> Result<Call> {
    let parse = || -> Result<Call> {
        let (name, rest) = text.split_once('(').context("there is no call")?;
        let (arguments, rest) = arguments(rest)?;
        let given = rest.trim_start().strip_prefix('=').context("it gave nothing")?.trim_start();
        let number: String =
            given.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let result = match number.strip_prefix("0x") {
            Some(number) => i64::from_str_radix(number, 16)?,
            None if number.is_empty() => 0,
            None => number.parse()?,
        };
        Ok(Call {
            thread,
            from,
            to,
            name: name.to_owned(),
            arguments,
            result,
            gave: given.to_owned(),
        })
    };
    parse().with_context(|| format!("lines {} and {}: {text:.200}", from + 1, to + 1))
}

/// The arguments, parted at the commas that are in no bracket, and what comes behind them.
fn arguments(text: &str) -> Result<(Vec<String>, &str)> {
    let (mut depth, mut begin) = (0_u32, 0);
    let mut arguments = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                let last = text[begin..at].trim();
                if !last.is_empty() {
                    arguments.push(last.to_owned());
                }
                return Ok((arguments, &text[at + 1..]));
            }
            ')' | ']' | '}' => {
                ensure!(depth > 0, "a bracket too many");
                depth -= 1;
            }
            ',' if depth == 0 => {
                arguments.push(text[begin..at].trim().to_owned());
                begin = at + 1;
            }
            _ => {}
        }
    }
    bail!("it does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_others_interrupt_is_one_from_its_beginning_to_its_end() {
        let text = "7  fsync(3<\\x2f\\x61> <unfinished ...>\n\
                    8  rename(\"\\x61\", \"\\x2c\\x29\") = 0\n\
                    7  <... fsync resumed>)              = 0\n\
                    8  openat(AT_FDCWD<\\x2f>, \"\\x62\", O_RDONLY) = 9<\\x2f\\x62>\n\
                    8  read(9<\\x2f\\x62>,  <unfinished ...>\n\
                    8  <... read resumed> <unfinished ...>) = ?\n\
                    8  unlink(\"\\x62\") = -1 ENOENT (No such file or directory)\n";
        let calls = read(text).unwrap();
        let names: Vec<_> = calls
            .iter()
            .map(|call| (call.name.as_str(), call.from, call.to, call.result))
            .collect();
        let expected =
            [("fsync", 0, 2, 0), ("rename", 1, 1, 0), ("openat", 3, 3, 9), ("unlink", 6, 6, -1)];
        assert_eq!(names, expected);
        assert_eq!(calls[0].path_of(0).unwrap(), "/a");
        assert_eq!(calls[1].text(1).unwrap(), ",)");
        assert_eq!(
            (calls[2].descriptor(0), annotation(&calls[2].gave).unwrap()),
            (None, "/b".into())
        );
    }

    #[test]
    fn a_line_that_is_none_of_straces_is_an_error_that_quotes_it() {
        let error = format!("{:#}", read("what?\n").unwrap_err());
        assert!(error.contains("line 1: what?"), "{error}");
        assert!(read("7  rename(\"\\x61\" = 0\n").is_err());
    }
}
