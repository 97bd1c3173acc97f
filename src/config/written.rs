//! The settings as they were written, for the operator to look at: what was set, not what is left at its default.

use std::fmt;

/// Keys whose values are secrets.
const SECRETS: [&str; 1] = ["digest_key"];

/// A configuration's table, layers merged.
#[derive(Clone, Default)]
pub struct Written(toml::Table);

impl Written {
    pub(super) fn new(table: &toml::Table) -> Self {
        Self(table.clone())
    }

    /// As TOML; secrets, and the user that an address may name, are left out.
    pub fn redacted(&self) -> String {
        let mut table = self.0.clone();
        redact(&mut table);
        table.to_string()
    }
}

fn redact(table: &mut toml::Table) {
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::Table(table) => redact(table),
            toml::Value::String(text) => {
                if SECRETS.contains(&key.as_str()) {
                    "redacted".clone_into(text);
                } else if let Some((scheme, rest)) = text.split_once("://")
                    && let Some((_, host)) = rest.rsplit_once('@')
                {
                    *text = format!("{scheme}://redacted@{host}");
                }
            }
            _ => {}
        }
    }
}

/// Two configurations are told apart by what they mean, and secrets are not printed.
impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Written(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_shown_and_secrets_are_not() {
        let text = "upstream = 'http://me:hunter2@host:1'\n[telemetry]\ndigest_key = 'hunter2'\nendpoint = 'http://a:4318'\n";
        let shown = Written::new(&text.parse().unwrap()).redacted();
        assert!(!shown.contains("hunter2") && shown.contains("http://redacted@host:1"), "{shown}");
        assert!(shown.contains("http://a:4318"), "{shown}");
    }
}
