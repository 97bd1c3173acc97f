//! Callers as telemetry names them: 64 bits, keyed per installation, another name in each period.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A key that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` to itself.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// How many bytes it has.
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Names callers by digests.
#[derive(Debug)]
pub(super) struct Digests {
    key: Option<Key>,
    every: Duration,
}

struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Digests {
    /// Keyed with `secret`, so that all replicas which share it name a caller alike; with none, the process's own digests
    /// serve, keyed at its start. Another name each `every`, on the clock of the wall; the same for ever where that is nought.
    pub(super) fn new(secret: Option<&Secret>, every: Duration) -> Self {
        let key = secret
            .map(|secret| Key(blake3::derive_key("refrain 2026 names of callers", secret.0.as_bytes())));
        Self { key, every }
    }

    /// The name of a caller at this moment, in 16 hexadecimal digits.
    pub(super) fn name(&self, caller: &[u8], now: SystemTime) -> String {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let period = if self.every.is_zero() { 0 } else { since.as_nanos() / self.every.as_nanos() };
        let key = self.key.as_ref().map_or([0; 32], |key| key.0);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        hasher.update(&period.to_le_bytes()).update(caller);
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn a_name_holds_for_one_period_and_for_one_key() {
        let digests = Digests::new(Some(&Secret::new("a")), DAY);
        let at =
            |digests: &Digests, hours: u64| digests.name(b"caller", UNIX_EPOCH + Duration::from_hours(hours));
        assert_eq!(at(&digests, 1).len(), 16);
        assert_eq!(at(&digests, 1), at(&digests, 23));
        assert_ne!(at(&digests, 1), at(&digests, 25));
        assert_ne!(at(&digests, 1), at(&Digests::new(Some(&Secret::new("b")), DAY), 1));
        let still = Digests::new(None, Duration::ZERO);
        assert_eq!(at(&still, 1), at(&still, 1_000_000));
    }

    #[test]
    fn no_secret_is_printed() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?}{:?}", Digests::new(Some(&secret), DAY)).contains("hunter2"));
    }
}
