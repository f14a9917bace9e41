//! The messages in the source of a crate, found by its tokens. What only tests are made of is left
//! out.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// How a message reaches the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Logged by `error!`.
    Error,
    /// Logged by `warn!`.
    Warn,
    /// Logged by `info!`.
    Info,
    /// What an error says. The last line of a program, or one of `check`, shows it.
    Said,
}

impl Level {
    /// As the log has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error | Self::Said => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How it is told.
    pub level: Level,
    /// Its text, with `…` for each value in it.
    pub text: String,
}

/// All that is said.
#[derive(Debug, Default)]
pub struct Messages {
    /// The messages that hold words of their own.
    pub messages: Vec<Message>,
    /// Every text of the source, in the same form.
    pub literals: Vec<String>,
}

/// A file that is read.
struct File<'a> {
    path: &'a Path,
    /// The text that a variable has, by name, as far as read.
    texts: HashMap<String, String>,
}

impl Messages {
    /// Adds those of the crate whose source is in `folder` of the project.
    pub fn read_crate(&mut self, project: &Path, folder: &str) {
        for root in ["lib.rs", "main.rs"] {
            let path = project.join(folder).join(root);
            if path.exists() {
                self.read_file(&path);
            }
        }
    }

    /// Adds others.
    pub fn append(&mut self, others: Self) {
        self.messages.extend(others.messages);
        self.literals.extend(others.literals);
    }

    fn read_file(&mut self, path: &Path) {
        let source =
            fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tokens = source.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.read(&mut File { path, texts: HashMap::new() }, tokens);
    }

    fn read(&mut self, file: &mut File<'_>, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [first, behind @ ..] = rest {
            rest = match rest {
                [hash, TokenTree::Group(attribute), behind @ ..] if is(hash, "#") => {
                    self.read_attribute(attribute.stream(), behind)
                }
                [hash, bang, TokenTree::Group(_), behind @ ..]
                    if is(hash, "#") && is(bang, "!") =>
                {
                    behind
                }
                [module, name, end, ..] if is(module, "mod") && is(end, ";") => {
                    self.read_file(&module_file(file.path, &name.to_string()));
                    behind
                }
                _ => {
                    self.read_message(file, rest);
                    match first {
                        TokenTree::Group(group) => self.read(file, group.stream()),
                        TokenTree::Literal(literal) => {
                            self.literals.extend(text(&literal.to_string()));
                        }
                        _ => {}
                    }
                    behind
                }
            };
        }
    }

    /// Reads an attribute, and gives what comes behind it or, if that is for tests only, behind what
    /// it stands before.
    fn read_attribute<'t>(
        &mut self,
        attribute: TokenStream,
        behind: &'t [TokenTree],
    ) -> &'t [TokenTree] {
        match attribute.into_iter().collect::<Vec<_>>().as_slice() {
            [name, TokenTree::Group(group)] if is(name, "error") => {
                self.literals.extend(first_text(group.stream()));
                self.said(first_text(group.stream()));
            }
            [name, TokenTree::Group(group)]
                if is(name, "cfg") && group.stream().to_string() == "test" =>
            {
                let ends = |token: &TokenTree| match token {
                    TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                    token => is(token, ";"),
                };
                let end = behind.iter().position(ends).map_or(behind.len(), |end| end + 1);
                return &behind[end..];
            }
            _ => {}
        }
        behind
    }

    /// Notes the message that begins here, if one does.
    fn read_message(&mut self, file: &mut File<'_>, tokens: &[TokenTree]) {
        match tokens {
            [word, name, equals, value @ ..] if is(word, "let") && is(equals, "=") => {
                let value = value.iter().take_while(|token| !is(token, ";")).cloned().collect();
                if let Some(text) = first_text(value) {
                    file.texts.insert(name.to_string(), text);
                }
            }
            [TokenTree::Ident(name), bang, TokenTree::Group(group), ..] if is(bang, "!") => {
                let level = match name.to_string().as_str() {
                    "error" => Level::Error,
                    "warn" => Level::Warn,
                    "info" => Level::Info,
                    "anyhow" | "bail" => return self.said(Some(file.text_of(&group.stream()))),
                    _ => return,
                };
                self.note(level, file.logged(&group.stream()));
            }
            [dot, TokenTree::Ident(name), TokenTree::Group(group), ..]
                if is(dot, ".")
                    && matches!(name.to_string().as_str(), "context" | "with_context") =>
            {
                self.said(Some(file.text_of(&group.stream()) + ": …"));
            }
            [error, _, _, io, TokenTree::Group(group), ..]
                if is(error, "Error") && is(io, "io") =>
            {
                let action = file.text_of(&group.stream());
                self.said(Some(format!("failed to {action} …: …")));
            }
            _ => {}
        }
    }

    fn said(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.note(Level::Said, text);
        }
    }

    fn note(&mut self, level: Level, text: String) {
        // Without words of its own it only passes another message on.
        if text.contains(char::is_alphabetic) {
            self.messages.push(Message { level, text });
        }
    }
}

impl File<'_> {
    /// The text that an expression gives: the first one in it, or that of a variable.
    fn text_of(&self, expression: &TokenStream) -> String {
        let known = |token: TokenTree| self.texts.get(&token.to_string()).cloned();
        first_text(expression.clone())
            .or_else(|| expression.clone().into_iter().find_map(known))
            .unwrap_or_else(|| self.cannot_tell(expression))
    }

    /// The text that a macro of the log has, behind its fields.
    fn logged(&self, arguments: &TokenStream) -> String {
        let mut before = None;
        for token in arguments.clone() {
            if let TokenTree::Literal(literal) = &token
                && !before.is_some_and(|before| is(&before, "="))
                && let Some(text) = text(&literal.to_string())
            {
                return text;
            }
            before = Some(token);
        }
        self.cannot_tell(arguments)
    }

    fn cannot_tell(&self, tokens: &TokenStream) -> ! {
        let line = tokens.clone().into_iter().next().map_or(0, |token| token.span().start().line);
        panic!("{}:{line}: what text is this: {tokens}", self.path.display());
    }
}

fn is(token: &TokenTree, word: &str) -> bool {
    match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Punct(punct) => word.len() == 1 && word.starts_with(punct.as_char()),
        _ => false,
    }
}

fn first_text(tokens: TokenStream) -> Option<String> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Group(group) => first_text(group.stream()),
        TokenTree::Literal(literal) => text(&literal.to_string()),
        _ => None,
    })
}

/// What a text in the source says, with `…` for each value that is put in; none for other literals.
fn text(literal: &str) -> Option<String> {
    let source = syn::parse_str::<syn::LitStr>(literal).ok()?.value();
    let mut text = String::new();
    let mut rest = source.as_str();
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(doubled) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = doubled;
        } else if brace == "{"
            && let Some((_, behind)) = rest.split_once('}')
        {
            text.push('…');
            rest = behind;
        }
    }
    text.push_str(rest);
    Some(text)
}

/// Where a module is that a file declares.
fn module_file(file: &Path, module: &str) -> PathBuf {
    let folder = file.parent().expect("a file is in a folder");
    let folder = match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") | None => folder.to_owned(),
        Some(own) => folder.join(own),
    };
    let beside = folder.join(module).with_extension("rs");
    if beside.exists() { beside } else { folder.join(module).join("mod.rs") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Vec<(Level, String)> {
        let mut messages = Messages::default();
        let mut file = File { path: Path::new("source.rs"), texts: HashMap::new() };
        messages.read(&mut file, source.parse().unwrap());
        messages.messages.into_iter().map(|message| (message.level, message.text)).collect()
    }

    #[test]
    fn messages_are_found_wherever_they_stand() {
        let found = read(
            r#"
            /// error!("in a comment")
            fn f() -> Result<()> {
                warn!(%ticket, state = "x", "deferred: {words}; {{}} {:?}", more);
                if let Err(error) = g() { tracing::error!("{error}") }
                let wrong = || format!("cannot read {}", path.display());
                h().with_context(wrong)?.context("set up")?;
                vec![Err(anyhow!("the relay \
                                  is away"))];
                read().map_err(Error::io("open", &path))?;
                bail!("no {what}")
            }
            #[derive(Error)] enum E { #[error("failed to {0}", x())] A, #[error(transparent)] B }
            #[cfg(test)] mod tests { fn f() { warn!("in a test") } }
            #[cfg(test)] mod other;
            fn last() { info!("done") }
            "#,
        );
        let expected = [
            (Level::Warn, "deferred: …; {} …"),
            (Level::Said, "cannot read …: …"),
            (Level::Said, "set up: …"),
            (Level::Said, "the relay is away"),
            (Level::Said, "failed to open …: …"),
            (Level::Said, "no …"),
            (Level::Said, "failed to …"),
            (Level::Info, "done"),
        ];
        assert_eq!(found, expected.map(|(level, text)| (level, text.to_owned())));
    }
}
