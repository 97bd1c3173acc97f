//! Reads a TOML table key by key and gathers every mistake, so that one start reports them all.

use std::time::Duration;

use serde::de::DeserializeOwned;

/// Everything wrong with a configuration, one sentence each, with the key's full name first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl Mistakes {
    /// Adds one.
    pub fn add(&mut self, key: &str, what: impl std::fmt::Display) {
        self.0.push(format!("{key}: {what}"));
    }
}

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// One table, whose keys are taken out one by one; what is left at the end nobody knows.
pub(crate) struct Section<'a> {
    name: String,
    table: toml::Table,
    known: Vec<&'static str>,
    mistakes: &'a mut Mistakes,
}

impl<'a> Section<'a> {
    /// The section called `name` (empty for the top level).
    pub(crate) fn new(name: impl Into<String>, table: toml::Table, mistakes: &'a mut Mistakes) -> Self {
        Self { name: name.into(), table, known: Vec::new(), mistakes }
    }

    fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn take(&mut self, key: &'static str) -> Option<toml::Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Adds a mistake about `key`.
    pub(crate) fn mistake(&mut self, key: &str, what: impl std::fmt::Display) {
        let key = self.key(key);
        self.mistakes.add(&key, what);
    }

    /// The value of `key` where it is set and right.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        value.try_into().map_err(|error: toml::de::Error| self.mistake(key, error.message())).ok()
    }

    /// The value of `key`, or `default`.
    pub(crate) fn value<T: DeserializeOwned>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// As [`Section::value`], within `range`.
    pub(crate) fn within<T>(&mut self, key: &'static str, default: T, range: std::ops::RangeInclusive<T>) -> T
    where
        T: DeserializeOwned + PartialOrd + std::fmt::Display + Copy,
    {
        let value = self.value(key, default);
        if range.contains(&value) {
            return value;
        }
        self.mistake(key, format!("expected {} to {}, found {value}", range.start(), range.end()));
        default
    }

    /// A time, written as `"90s"`, `"1h 30m"`, `"250ms"`.
    pub(crate) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        #[derive(serde::Deserialize)]
        #[serde(transparent)]
        struct Written(#[serde(with = "humantime_serde")] Duration);
        self.optional::<Written>(key).map_or(default, |written| written.0)
    }

    /// A number of bytes, written as `"64MiB"`, `"10kB"` or a plain number.
    pub(crate) fn bytes(&mut self, key: &'static str, default: usize) -> usize {
        match self.optional::<bytesize::ByteSize>(key).map(|size| usize::try_from(size.as_u64())) {
            None => default,
            Some(Ok(bytes)) => bytes,
            Some(Err(_)) => {
                self.mistake(key, "too large for this machine");
                default
            }
        }
    }

    /// One word of a closed list.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        self.optional_choice(key, words).unwrap_or(default)
    }

    /// As [`Section::choice`], where leaving it out means something of its own.
    pub(crate) fn optional_choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let written: String = self.optional(key)?;
        match words.iter().find(|(word, _)| *word == written) {
            Some((_, meaning)) => Some(*meaning),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                self.mistake(key, format!("expected {}, found {written:?}", words.join(" or ")));
                None
            }
        }
    }

    /// A table inside this one; empty where it is not set.
    pub(crate) fn table(&mut self, key: &'static str) -> toml::Table {
        self.value(key, toml::Table::new())
    }

    /// A section inside this one, read by `read`.
    pub(crate) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = self.table(key);
        self.nested(key, table, read)
    }

    /// `table` as the section `name` inside this one, read by `read`.
    pub(crate) fn nested<T>(
        &mut self,
        name: impl AsRef<str>,
        table: toml::Table,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let mut section = Section::new(self.key(name.as_ref()), table, self.mistakes);
        let value = read(&mut section);
        section.end();
        value
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn end(mut self) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        self.known.sort_unstable();
        for key in unknown {
            let known = self.known.join(", ");
            self.mistake(&key, format!("unknown key; known here: {known}"));
        }
    }
}
