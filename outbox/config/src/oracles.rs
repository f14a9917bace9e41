//! What must be true of any configuration, amount and text: for fuzzing (tests/fuzz) and, with what that found, for the
//! tests.

use std::fs;

use serde_json::{Map, Value};

use crate::text::{fit, is_hidden, one_line};
use crate::{
    Config, ConfigError, Rate, duration_words, parse_duration, parse_size, program, size_words,
};

/// A name, and what must be true of any input that it is given.
pub type Oracle = (&'static str, fn(&[u8]));

/// All oracles.
pub const ALL: &[Oracle] =
    &[("configuration", configuration), ("amounts", amounts), ("shown", shown)];

/// In the place of a password; nothing else looks like it.
const PASSWORD: &str = "tell-nobody-7";

/// Two files, with a NUL between, give the same as one into which a plain reading of the rule merges them; and no
/// password in them is ever shown.
pub fn configuration(files: &[u8]) {
    let mut parts = files.splitn(2, |&b| b == 0);
    let (system, user) = (parts.next().unwrap_or_default(), parts.next());
    let read = load(system, user);
    let (Ok(system), Ok(user)) = (
        serde_json::from_slice::<Map<String, Value>>(system),
        user.map_or(Ok(Map::new()), serde_json::from_slice::<Map<String, Value>>),
    ) else {
        assert!(read.is_err(), "what is no JSON object was taken");
        return;
    };
    let mut merged = system.clone();
    for (name, value) in &user {
        if let (Some(section), Some(over)) =
            (merged.get(name).and_then(Value::as_object), value.as_object())
        {
            let kept = section.iter().filter(|(key, _)| !over.contains_key(*key));
            let section = over.iter().chain(kept).map(|(key, value)| (key.clone(), value.clone()));
            merged.insert(name.clone(), Value::Object(section.collect()));
        } else {
            merged.insert(name.clone(), value.clone());
        }
    }
    if let Ok(read) = &read {
        let delivery = &read.delivery;
        assert!(delivery.retry_min <= delivery.retry_max, "waits would shrink");
        assert!(!delivery.retry_min.is_zero());
        assert!(read.shard.index < read.shard.count);
        let one = load(&serde_json::to_vec(&merged).unwrap(), None).expect("two files were taken");
        assert_eq!(without_files(read), without_files(&one));
    }

    // Passwords in the place of whatever strings there are.
    let mut secret = Value::Object(merged);
    let mut there = false;
    for pointer in
        ["/database/event/password", "/smtp/password", "/smtp/0/password", "/smtp/1/password"]
    {
        if let Some(text @ Value::String(_)) = secret.pointer_mut(pointer) {
            *text = PASSWORD.into();
            there = true;
        }
    }
    if there {
        match load(&serde_json::to_vec(&secret).unwrap(), None) {
            Ok(config) => assert!(!format!("{config:?} {config:#?}").contains(PASSWORD)),
            Err(error) => assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error}"),
        }
    }
}

fn load(system: &[u8], user: Option<&[u8]>) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let path = |name| folder.path().join(name);
    fs::write(path("system"), system).expect("there is room for a file");
    if let Some(user) = user {
        fs::write(path("user"), user).expect("there is room for a file");
    }
    Config::load_from(None, &path("system"), &path("user"))
}

/// Everything but where it was read.
fn without_files(config: &Config) -> String {
    let text = format!("{config:#?}");
    text.lines().filter(|line| !line.contains("/system\"") && !line.contains("/user\"")).collect()
}

/// Durations, rates and sizes are read as a plain reading has it, and told again in words that fit.
pub fn amounts(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let unit = text.chars().next_back();
    let seconds = match unit {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3_600,
        Some('d') => 86_400,
        _ => 0,
    };
    let expected = plain_number(&text[..text.len() - unit.map_or(0, char::len_utf8)])
        .map(|number| number.saturating_mul(seconds))
        .filter(|&total| seconds > 0 && total <= 100 * 366 * 86_400);
    let read = parse_duration(text);
    assert_eq!(read.as_ref().ok().map(|read| u128::from(read.as_secs())), expected, "{text:?}");
    if let Ok(duration) = read {
        assert_eq!(duration.subsec_nanos(), 0);
        // The words leave off less than one of the unit that they tell.
        let words = duration_words(duration);
        let told = parse_duration(&words).expect("they have the form");
        let one = parse_duration(&format!("1{}", &words[words.len() - 1..])).expect("a unit");
        assert!(told <= duration && duration < told + one, "{text:?} is told as {words:?}");
    }

    let expected = text.split_once('/').and_then(|(count, unit)| {
        let per = ["s", "m", "h", "d"].iter().position(|known| *known == unit)?;
        let count =
            plain_number(count).filter(|&count| (1..=u128::from(u32::MAX)).contains(&count))?;
        Some(
            [1_000_000_000, 60_000_000_000, 3_600_000_000_000, 86_400_000_000_000_u128][per]
                / count,
        )
    });
    let read = Rate::try_from(text.to_owned()).ok();
    assert_eq!(read.map(|rate| rate.interval().as_nanos()), expected, "{text:?}");

    let number = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[number.len()..] {
        "" => Some(1_u128),
        "K" | " K" | "KiB" | " KiB" => Some(1 << 10),
        "M" | " M" | "MiB" | " MiB" => Some(1 << 20),
        "G" | " G" | "GiB" | " GiB" => Some(1 << 30),
        _ => None,
    };
    let expected = factor.and_then(|factor| plain_number(number)?.checked_mul(factor));
    let expected = expected.filter(|&size| size <= u128::from(u64::MAX));
    let read = parse_size(text).ok();
    assert_eq!(read.map(u128::from), expected, "{text:?}");
    if let Some(size) = read {
        let words = size_words(size);
        let whole = words.split_once('.').map_or(words.clone(), |(number, rest)| {
            format!("{number} {}", rest.split_once(' ').unwrap().1)
        });
        let told = parse_size(whole.trim_end_matches(" octets")).expect("they have the form");
        assert!(told <= size && size - told <= told, "{text:?} is told as {words:?}");
    }
}

/// A whole number in ASCII digits; one too large for anything is as large as can be.
fn plain_number(text: &str) -> Option<u128> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u128::MAX))
}

/// Text is one line that a terminal shows as it is, and JSON is JSON that a terminal shows as it is.
pub fn shown(text: &[u8]) {
    let text = &*String::from_utf8_lossy(text);
    let line = one_line(text);
    assert!(!line.contains(acts_on_a_terminal), "{line:?}");
    assert_eq!(one_line(&line), line);
    assert!(line.len() <= 6 * text.len() + 2, "{} became {}", text.len(), line.len());
    if !text.contains(is_hidden) {
        assert_eq!(line, text);
    }
    let width = text.len() % 100;
    let fitted = fit(&line, width);
    assert!(
        fitted.chars().count() <= width.max(1) && line.starts_with(fitted.trim_end_matches('…'))
    );

    let json = program::to_json(&[text]);
    assert!(!json.contains(|c| c != '\n' && acts_on_a_terminal(c)), "{json:?}");
    assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
}

/// Unicode's categories Cc, Cf, Zl and Zp but for what is written and seen (Arabic, Kaithi and Egyptian signs), as
/// Unicode 16 has them.
fn acts_on_a_terminal(c: char) -> bool {
    matches!(u32::from(c),
        0..=0x1f | 0x7f..=0x9f | 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
        | 0xe0001 | 0xe0020..=0xe007f)
}

#[cfg(test)]
#[path = "../../../tests/fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn what_fuzzing_found_stays_found() {
        super::replay::replay(super::ALL);
    }
}
