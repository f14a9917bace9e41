//! Quoted-printable text (RFC 2045, 6.7) that no mail agent has a reason to touch on its way.

use std::fmt::Write;

/// The longest line, its final `=` included (RFC 2045, 6.7, rule 5).
const MAX_LINE: usize = 76;

/// Encodes text. LF and CRLF become line breaks, a CR alone stays the character it is.
///
/// Lines end in CRLF, the last one too, and none ends in white space, is `.` alone, begins with
/// `.`, or with `From `, which some agents would change and so break a signature (RFC 3156, 3).
pub fn encode(text: &str) -> String {
    let mut lines = Lines { out: String::with_capacity(text.len() + text.len() / 8), column: 0 };
    for line in text.split_inclusive('\n') {
        let content = line.strip_suffix('\n');
        let content = content.map_or(line, |content| content.strip_suffix('\r').unwrap_or(content));
        for (start, character) in content.char_indices() {
            lines.push(character, start + character.len_utf8() == content.len());
        }
        if content.len() < line.len() {
            lines.end("\r\n");
        }
    }
    if lines.column > 0 {
        lines.end("=\r\n");
    }
    lines.out
}

/// Encoded lines, the last one unfinished.
struct Lines {
    out: String,
    column: usize,
}

impl Lines {
    /// Appends a character, never divided, in a new line if there is no room for it.
    fn push(&mut self, character: char, last_of_line: bool) {
        let blank = matches!(character, ' ' | '\t');
        let literal =
            (character.is_ascii_graphic() && character != '=') || (blank && !last_of_line);
        let length = if literal { 1 } else { 3 * character.len_utf8() };
        // Room is left for the `=` of a break that may follow.
        if self.column + length >= MAX_LINE {
            self.end("=\r\n");
        }
        let misread = (self.column == 0 && character == '.')
            || (self.column == 4 && character == ' ' && self.out.ends_with("From"));
        if literal && !misread {
            self.out.push(character);
            self.column += 1;
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(self.out, "={byte:02X}").expect("a string takes everything");
                self.column += 3;
            }
        }
    }

    fn end(&mut self, line_break: &str) {
        self.out.push_str(line_break);
        self.column = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_would_change_is_encoded() {
        for (text, encoded) in [
            ("", ""),
            ("plain\n", "plain\r\n"),
            ("From me\nFrom\nFromage \n", "From=20me\r\nFrom\r\nFromage=20\r\n"),
            (" From me\n", " From me\r\n"),
            (".\n..a\nb.\n", "=2E\r\n=2E.a\r\nb.\r\n"),
            ("-- \n\t\n \t \n", "--=20\r\n=09\r\n \t=20\r\n"),
            ("a=b\n", "a=3Db\r\n"),
            ("ü€\u{1f600}\n", "=C3=BC=E2=82=AC=F0=9F=98=80\r\n"),
            ("a\rb\r\nc\r\r\n\r", "a=0Db\r\nc=0D\r\n=0D=\r\n"),
            ("nul\0\u{7f}\n", "nul=00=7F\r\n"),
            ("no end", "no end=\r\n"),
            ("\n\n", "\r\n\r\n"),
        ] {
            assert_eq!(encode(text), encoded, "{text:?}");
        }
    }

    #[test]
    fn long_lines_are_broken_between_characters_and_guarded_at_each_break() {
        let long = "x".repeat(75);
        assert_eq!(encode(&format!("{long}y\n")), format!("{long}=\r\ny\r\n"));
        assert_eq!(encode(&format!("{long}\n")), format!("{long}\r\n"));
        assert_eq!(encode(&format!("{long}From x\n")), format!("{long}=\r\nFrom=20x\r\n"));
        assert_eq!(encode(&format!("{long}.\n")), format!("{long}=\r\n=2E\r\n"));
        let almost = "x".repeat(70);
        assert_eq!(encode(&format!("{almost}ü\n")), format!("{almost}=\r\n=C3=BC\r\n"));
        assert!(encode(&"ü€".repeat(1000)).lines().all(|line| line.len() <= MAX_LINE));
    }
}
