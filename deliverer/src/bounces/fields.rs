//! Header fields (RFC 5322, 2.2), as they stand at the head of a mail and, in groups, in a delivery
//! status (RFC 3464, 2.1).

/// Some fields, in their order, each unfolded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// The fields in `text` up to the first blank line behind one. Lines that are no field, such as
    /// the `From ` of an mbox, are passed over.
    pub fn parse(text: &str) -> Self {
        Self::groups(text).next().unwrap_or_default()
    }

    /// The groups of fields in `text`, blank lines between them.
    pub fn groups(text: &str) -> impl Iterator<Item = Self> {
        let mut lines = text.lines();
        std::iter::from_fn(move || {
            let mut fields = Vec::<(String, String)>::new();
            for line in lines.by_ref() {
                if line.trim().is_empty() {
                    if fields.is_empty() {
                        continue;
                    }
                    break;
                }
                if line.starts_with([' ', '\t']) {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push(' ');
                        value.push_str(line.trim());
                    }
                } else if let Some((name, value)) = line.split_once(':')
                    && is_name(name.trim_end())
                {
                    fields.push((name.trim_end().to_owned(), value.trim().to_owned()));
                }
            }
            (!fields.is_empty()).then_some(Self(fields))
        })
    }

    /// The value of the first field of this name that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// The values of all fields of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|(_, value)| value.as_str())
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_lines_are_one_value_and_blank_lines_part_groups() {
        let text = "\r\nA: 1\r\n  2\r\n\t3\r\nb : x:y\r\nno field\r\n\r\n \r\nA: 4\r\n";
        let groups: Vec<_> = Fields::groups(text).collect();
        assert_eq!(groups.len(), 2);
        assert_eq!((groups[0].get("a"), groups[0].get("B")), (Some("1 2 3"), Some("x:y")));
        assert_eq!((groups[1].get("A"), groups[1].get("b")), (Some("4"), None));
        assert_eq!(Fields::parse(text), groups[0]);
        assert_eq!(Fields::parse(" lost\n: none\n\n"), Fields::default());
    }
}
