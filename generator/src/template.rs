//! Mail templates: text with the placeholders of Python's `string.Template`.
//!
//! The first line that is not empty is the subject, the rest the body. `$name` and `${name}` stand
//! for values, `$$` for a dollar. A name begins with a letter or underscore, which digits and dots
//! can follow; `$name` ends before trailing dots, so that a sentence can end with it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path};

/// More is no template; the limit keeps a wrong file from filling the memory.
const MAX_SIZE: u64 = 1 << 20;

/// A template that is free of syntax errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    name: String,
    subject: Vec<Piece>,
    body: Vec<Piece>,
}

/// A template with values in the places of its placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    /// One line if the values are.
    pub subject: String,
    /// Lines end in LF, but for what the values bring.
    pub body: String,
}

/// A name in a template that stands for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// The name without dollar and braces.
    pub name: String,
    /// Line in the template file, from 1.
    pub line: usize,
    /// Column of the dollar in characters, from 1.
    pub column: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Placeholder),
}

/// Why there is no template, or no text from it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The name is no path of a file below the template folder.
    #[error(
        "failed to find the template {0:?}: the name must be that of a file in the template folder"
    )]
    Name(String),
    /// The name is a link, or behind one, to somewhere else.
    #[error("failed to open the template {0:?}: it leads out of the template folder")]
    Outside(String),
    /// `script_directory` may lie in the template folder, and nobody is to read in a mail what is in it.
    #[error("failed to open the template {0:?}: it is a format definition or a script")]
    Program(String),
    /// A folder, a device, a pipe.
    #[error("failed to open the template {0:?}: it is not a regular file")]
    NotAFile(String),
    /// It is longer than any template.
    #[error("failed to read the template {0:?}: it is larger than {MAX_SIZE} bytes")]
    TooLarge(String),
    /// The file can't be read, or isn't UTF-8.
    #[error("failed to read the template {name:?}")]
    Read {
        /// Name of the template.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing but white space in it.
    #[error("failed to read the template {0:?}: it has no subject, all of its lines are empty")]
    NoSubject(String),
    /// A dollar without a name behind it, or a brace that isn't closed.
    #[error(
        "failed to read the template {name:?}: line {line}, column {column}: {found:?} is no \
         placeholder (write $name, ${{name}}, or $$ for a dollar)"
    )]
    Syntax {
        /// Name of the template.
        name: String,
        /// Line in the file, from 1.
        line: usize,
        /// Column of the dollar, from 1.
        column: usize,
        /// The dollar and some of what follows it.
        found: String,
    },
    /// There is no value for a name.
    #[error(
        "failed to fill the template {name:?}: line {line}, column {column}: there is no value \
         for {placeholder:?}"
    )]
    NoValue {
        /// Name of the template.
        name: String,
        /// Line in the file, from 1.
        line: usize,
        /// Column of the dollar, from 1.
        column: usize,
        /// The name without a value.
        placeholder: String,
    },
}

impl Template {
    /// Reads the file `name` in the folder `dir`, or in a folder below.
    ///
    /// The name comes from the database. It is refused if it would leave the folder, be it through
    /// a link, and so is everything that is not a regular file with UTF-8 text, or is a definition or script.
    pub fn load(dir: &Path, name: &str) -> Result<Self, TemplateError> {
        let normal = |part| matches!(part, Component::Normal(_));
        if name.is_empty() || name.contains('\0') || !Path::new(name).components().all(normal) {
            return Err(TemplateError::Name(name.to_owned()));
        }
        let failed = |source| TemplateError::Read { name: name.to_owned(), source };
        let dir = dir.canonicalize().map_err(failed)?;
        let path = dir.join(name).canonicalize().map_err(failed)?;
        if !path.starts_with(&dir) {
            return Err(TemplateError::Outside(name.to_owned()));
        }
        if path.extension().is_some_and(|extension| extension == "toml" || extension == "py") {
            return Err(TemplateError::Program(name.to_owned()));
        }
        // Opening a pipe would wait for its writer.
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(TemplateError::NotAFile(name.to_owned()));
        }
        let mut text = String::new();
        let file = File::open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > MAX_SIZE {
            return Err(TemplateError::TooLarge(name.to_owned()));
        }
        file.take(MAX_SIZE).read_to_string(&mut text).map_err(failed)?;
        Self::parse(name, &text)
    }

    /// Reads a template's text. The `name` is for errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, TemplateError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");

        let start = text.len() - text.trim_start().len();
        let end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        let subject = text[start..end].trim_end();
        if subject.is_empty() {
            return Err(TemplateError::NoSubject(name.to_owned()));
        }
        let rest = &text[end..];
        let body_start = end + (rest.len() - rest.trim_start().len());
        Ok(Self {
            name: name.to_owned(),
            subject: pieces(name, subject, Cursor::at(&text, start))?,
            body: pieces(name, &format!("{}\n", rest.trim()), Cursor::at(&text, body_start))?,
        })
    }

    /// A template whose subject and body are given apart; the body stays as it is. The `name` is
    /// for errors, whose lines are counted in the body.
    pub fn from_parts(name: &str, subject: &str, body: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            name: name.to_owned(),
            subject: pieces(name, subject, Cursor::default())?,
            body: pieces(name, body, Cursor::default())?,
        })
    }

    /// The placeholders, in their order; one that is there twice comes twice.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.subject.iter().chain(&self.body).filter_map(|piece| match piece {
            Piece::Value(placeholder) => Some(placeholder),
            Piece::Text(_) => None,
        })
    }

    /// Puts values in the places of the placeholders. What looks like a placeholder in a value
    /// stays as it is. Fails at the first name for which `value` has none.
    pub fn fill<'v>(
        &self,
        value: impl Fn(&str) -> Option<&'v str>,
    ) -> Result<Filled, TemplateError> {
        let fill = |pieces: &[Piece]| {
            let mut text = String::new();
            for piece in pieces {
                text.push_str(match piece {
                    Piece::Text(text) => text,
                    Piece::Value(placeholder) => {
                        value(&placeholder.name).ok_or_else(|| TemplateError::NoValue {
                            name: self.name.clone(),
                            line: placeholder.line,
                            column: placeholder.column,
                            placeholder: placeholder.name.clone(),
                        })?
                    }
                });
            }
            Ok(text)
        };
        Ok(Filled { subject: fill(&self.subject)?, body: fill(&self.body)? })
    }
}

/// Where in a file one is.
struct Cursor {
    line: usize,
    column: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { line: 1, column: 1 }
    }
}

impl Cursor {
    /// The place of a byte offset in `text`.
    fn at(text: &str, offset: usize) -> Self {
        let mut cursor = Self::default();
        cursor.pass(&text[..offset]);
        cursor
    }

    fn pass(&mut self, text: &str) {
        for character in text.chars() {
            if character == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
    }
}

/// Takes `text`, which begins at `cursor` in the template `name`, to pieces.
fn pieces(name: &str, text: &str, mut cursor: Cursor) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (literal, at_dollar) = rest.split_at(dollar);
        pieces.push(Piece::Text(literal.to_owned()));
        cursor.pass(literal);

        let length = if at_dollar.starts_with("$$") {
            pieces.push(Piece::Text("$".to_owned()));
            2
        } else if let Some((placeholder, length)) = placeholder(at_dollar) {
            let Cursor { line, column } = cursor;
            pieces.push(Piece::Value(Placeholder { name: placeholder.to_owned(), line, column }));
            length
        } else {
            return Err(TemplateError::Syntax {
                name: name.to_owned(),
                line: cursor.line,
                column: cursor.column,
                found: at_dollar.lines().next().unwrap_or_default().chars().take(20).collect(),
            });
        };
        let (passed, after) = at_dollar.split_at(length);
        cursor.pass(passed);
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

/// The name, and the length with dollar and braces, of the placeholder that `text` begins with.
fn placeholder(text: &str) -> Option<(&str, usize)> {
    if let Some(braced) = text.strip_prefix("${") {
        let name = &braced[..name_length(braced)];
        let closed = !name.is_empty() && braced[name.len()..].starts_with('}');
        return closed.then_some((name, name.len() + 3));
    }
    let bare = text.strip_prefix('$')?;
    let name = bare[..name_length(bare)].trim_end_matches('.');
    (!name.is_empty()).then_some((name, name.len() + 1))
}

/// Length of the name that `text` begins with, 0 if it doesn't.
fn name_length(text: &str) -> usize {
    if !text.starts_with(|first: char| first == '_' || first.is_ascii_alphabetic()) {
        return 0;
    }
    text.find(|c: char| !(c == '_' || c == '.' || c.is_ascii_alphanumeric())).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn filled(text: &str) -> Filled {
        let value = |name: &str| match name {
            "ticket_number" => Some("20261125-10000042"),
            "source.asn" => Some("64496"),
            "hostile" => Some("$ticket_number ${source.asn} $$ $"),
            "Empty" => Some(""),
            _ => None,
        };
        Template::parse("t", text).unwrap().fill(value).unwrap()
    }

    fn body(text: &str) -> String {
        filled(&format!("s\n{text}")).body
    }

    fn error(text: &str) -> String {
        let failed = match Template::parse("t", text) {
            Ok(template) => template.fill(|_| None).unwrap_err(),
            Err(error) => error,
        };
        failed.to_string()
    }

    #[test]
    fn the_first_line_that_is_not_empty_is_the_subject_the_rest_trimmed_the_body() {
        let filled = filled("\n  \n  Report #${ticket_number}\t\n\n\n  Dear,\n\nthanks  \n \n\n");
        assert_eq!(filled.subject, "Report #20261125-10000042");
        assert_eq!(filled.body, "Dear,\n\nthanks\n");
    }

    #[test]
    fn a_byte_order_mark_and_foreign_line_ends_do_not_matter() {
        let filled = filled("\u{feff}Subject\r\n\r\none\r\ntwo\rthree\r\n");
        assert_eq!(
            (filled.subject.as_str(), filled.body.as_str()),
            ("Subject", "one\ntwo\nthree\n")
        );
    }

    #[test]
    fn a_template_of_one_line_has_an_empty_body() {
        assert_eq!(filled("Subject"), Filled { subject: "Subject".into(), body: "\n".into() });
    }

    #[test]
    fn a_bare_name_ends_before_trailing_dots_and_braces_end_it_anywhere() {
        assert_eq!(body("AS $source.asn."), "AS 64496.\n");
        assert_eq!(body("AS $source.asn... $source.asn"), "AS 64496... 64496\n");
        assert_eq!(body("${source.asn}th $source.asn-x"), "64496th 64496-x\n");
        assert_eq!(body("[$Empty]$source.asn$source.asn"), "[]6449664496\n");
        assert_eq!(body("$$5 $$source.asn $$$source.asn"), "$5 $source.asn $64496\n");
    }

    #[test]
    fn values_are_never_expanded_again() {
        assert_eq!(
            body("$hostile|${hostile}"),
            "$ticket_number ${source.asn} $$ $|$ticket_number ${source.asn} $$ $\n"
        );
    }

    #[test]
    fn names_are_case_sensitive_and_ascii() {
        assert!(error("s\n$SOURCE.ASN").contains("\"SOURCE.ASN\""));
        assert!(error("s\n$ünder").contains("no placeholder"));
        assert_eq!(body("$source.asnü"), "64496ü\n");
    }

    #[test]
    fn what_is_no_placeholder_is_told_with_its_place() {
        for (text, line, column, found) in [
            ("100 $", 1, 5, "$"),
            ("\n\n 5 $ for", 3, 4, "$ for"),
            ("s\n\n\n  über ${open", 4, 8, "${open"),
            ("s\nfirst\n${}", 3, 1, "${}"),
            ("s\n${a b}", 2, 1, "${a b}"),
            ("s\n$1 and a long rest that is cut", 2, 1, "$1 and a long rest t"),
            ("s\n$.a", 2, 1, "$.a"),
            ("s\n${new\nline}", 2, 1, "${new"),
        ] {
            let message = error(text);
            assert!(
                message.starts_with(&format!(
                    "failed to read the template \"t\": line {line}, column {column}: {found:?} is"
                )),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    fn a_name_without_a_value_is_told_with_its_place() {
        assert_eq!(
            error("Subject\r\n\r\nDear\r\n  AS ${source.asn}"),
            "failed to fill the template \"t\": line 4, column 6: there is no value for \
             \"source.asn\""
        );
        assert!(error("for $who").contains("line 1, column 5"));
    }

    #[test]
    fn a_template_without_a_subject_is_refused() {
        assert!(error("").contains("no subject"));
        assert!(error(" \n\t\r\n").contains("no subject"));
    }

    #[test]
    fn parts_are_taken_as_they_are() {
        let template = Template::from_parts("rule", "$a", " $b\n\n").unwrap();
        assert_eq!(
            template.placeholders().map(|p| p.name.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        let filled = template.fill(|_| Some("x")).unwrap();
        assert_eq!(filled, Filled { subject: "x".into(), body: " x\n\n".into() });
    }

    #[test]
    fn only_a_regular_file_below_the_folder_is_loaded() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("templates");
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(root.path().join("secret"), "secret").unwrap();
        fs::write(dir.join("good"), "Subject").unwrap();
        fs::write(dir.join("sub/good"), "Subject").unwrap();
        fs::write(dir.join("latin1"), b"Gr\xfc\xdfe").unwrap();
        fs::write(dir.join("large"), " ".repeat((MAX_SIZE + 1).try_into().unwrap())).unwrap();
        fs::write(dir.join("sub/90-all.toml"), "Subject").unwrap();
        symlink("good", dir.join("link")).unwrap();
        symlink("sub/90-all.toml", dir.join("program")).unwrap();
        symlink("../secret", dir.join("leak")).unwrap();
        symlink("..", dir.join("up")).unwrap();

        let load = |name: &str| Template::load(&dir, name).map_err(|error| error.to_string());
        for name in ["good", "sub/good", "link"] {
            assert_eq!(load(name).unwrap().name, name);
        }
        let absolute = dir.join("good");
        for name in ["", ".", "..", "../secret", "sub/../good", "./good", "good\0", "/etc/passwd"] {
            assert!(load(name).unwrap_err().contains("the name must be"), "{name:?}");
        }
        assert!(load(absolute.to_str().unwrap()).is_err());
        for (name, reason) in [
            ("leak", "leads out"),
            ("up/secret", "leads out"),
            ("up/templates/good", "nothing"),
            ("sub/90-all.toml", "it is a format definition or a script"),
            ("program", "it is a format definition or a script"),
            ("sub", "not a regular file"),
            ("large", "larger than"),
            ("missing", "failed to read the template \"missing\""),
            ("latin1", "failed to read the template \"latin1\""),
        ] {
            match load(name) {
                Err(message) => assert!(message.contains(reason), "{name}: {message}"),
                Ok(_) => assert_eq!(reason, "nothing", "{name}"),
            }
        }
    }
}
