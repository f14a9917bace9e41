//! Text from events and relays as a person may see it: on one line, in a log or on a terminal.

/// Whether a character is not to be shown as itself: it moves the cursor, ends a line, turns the
/// direction of the text or can't be seen. These are Unicode's controls (Cc), formats (Cf) that all
/// scripts share, and separators of lines and paragraphs.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || turns_or_ends_line(c)
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// Whether a character that is no control makes what stands behind it look as if it stood elsewhere:
/// on another line, or in another order.
pub fn turns_or_ends_line(c: char) -> bool {
    matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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
    fn what_a_person_can_not_see_is_escaped_and_all_else_stays() {
        for hidden in
            "\n\r\t\0\u{1b}\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{180e}\u{200b}\u{200f}\u{2028}\u{2029}\
                       \u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{fff9}\u{e0001}\u{e0041}\u{e007f}"
                .chars()
        {
            assert_eq!(one_line(&format!("a{hidden}b")), format!("a{}b", hidden.escape_default()));
        }
        let seen = "abuse grüße 例え привет שלום \u{1f600} \u{a0}\u{fffd} \\n";
        assert_eq!(one_line(seen), seen);
    }
}
