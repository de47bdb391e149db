//! Which columns of a file are wanted, and finding them among those that are there.

/// What a wanted column is read as. Text files give text whatever is asked; typed files convert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Text,
    Time,
    Number,
}

/// One wanted column.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Names that it may have, best first.
    pub(crate) names: Vec<String>,
    pub(crate) want: Want,
    pub(crate) required: bool,
}

impl Wanted {
    /// A column named by the mapping (then it must be there), or else looked for under its usual names.
    pub(crate) fn new(mapped: Option<&str>, usual: &[&str], want: Want, required: bool) -> Self {
        match mapped {
            Some(name) => Self { names: vec![name.to_owned()], want, required: true },
            None => Self { names: usual.iter().map(|&name| name.to_owned()).collect(), want, required },
        }
    }
}

/// The wanted columns of a table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    pub(crate) wanted: Vec<Wanted>,
    /// Of these (indices of `wanted`) at least one must be there.
    pub(crate) one_of: Vec<usize>,
    /// Whether the columns that nobody asked for are handed over too.
    pub(crate) keep_others: bool,
    /// Separator of CSV fields, over the one that the file's name suggests.
    pub(crate) delimiter: Option<u8>,
}

/// Wanted columns found in one file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// For each wanted column its index in the file.
    pub(crate) indices: Vec<Option<usize>>,
    /// The columns that nobody asked for, if they are kept.
    pub(crate) others: Vec<(String, usize)>,
}

impl Columns {
    /// Looks the wanted columns up in a header; an error names what is missing and what is there.
    pub(crate) fn find(&self, header: &[String]) -> Result<Found, String> {
        let mut found = Found::default();
        for wanted in &self.wanted {
            let exact = wanted.names.iter().find_map(|name| header.iter().position(|column| column == name));
            let index = exact.or_else(|| {
                wanted.names.iter().find_map(|name| header.iter().position(|column| column.eq_ignore_ascii_case(name)))
            });
            if index.is_none() && wanted.required {
                return Err(missing(&wanted.names, header));
            }
            found.indices.push(index);
        }
        if !self.one_of.is_empty() && self.one_of.iter().all(|&i| found.indices[i].is_none()) {
            let names: Vec<String> = self.one_of.iter().map(|&i| self.wanted[i].names[0].clone()).collect();
            return Err(missing(&names, header));
        }
        if self.keep_others {
            let free = header.iter().enumerate().filter(|(i, _)| !found.indices.contains(&Some(*i)));
            found.others = free.map(|(i, name)| (name.clone(), i)).collect();
        }
        Ok(found)
    }
}

fn missing(names: &[String], header: &[String]) -> String {
    format!(
        "no column {}; the columns are: {}. Name the right one in the mapping",
        names.join(" or "),
        if header.is_empty() { "none".to_owned() } else { header.join(", ") }
    )
}
