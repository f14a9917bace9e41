//! Text from events and relays as a person may see it: on one line, in a log or on a terminal.

/// Whether a character is not to be shown as itself: it moves the cursor, ends a line, turns the
/// direction of the text or can't be seen.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// `text` with every [hidden](is_hidden) character escaped.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// At most `width` characters of `text`, with an ellipsis in place of what is cut off.
pub fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_or_can_not_be_seen_is_escaped() {
        let hidden =
            "\u{1b}\n\u{85}\u{ad}\u{180e}\u{200b}\u{202e}\u{2066}\u{feff}\u{fffa}\u{e0041}";
        assert!(hidden.chars().all(is_hidden));
        assert_eq!(
            one_line(hidden),
            "\\u{1b}\\n\\u{85}\\u{ad}\\u{180e}\\u{200b}\\u{202e}\\u{2066}\\u{feff}\\u{fffa}\\u{e0041}"
        );
        let shown = "Grüße, 例え \u{1f600} a\u{301} \\ \"x\"";
        assert_eq!(one_line(shown), shown);
    }
}
