//! Numbers that are the same for the same question and that no caller can predict.

use blake3::{Hasher, OutputReader};

/// What all noise of a process derives from.
#[derive(Clone, Copy)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A stream of keyed bytes.
pub(super) struct Noise(OutputReader);

impl Key {
    /// A key of our own from one that serves for something else too.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key("refrain 2026 scores", secret))
    }

    /// The noise of what `parts` name together.
    pub(super) fn noise(&self, parts: &[&[u8]]) -> Noise {
        let mut hasher = Hasher::new_keyed(&self.0);
        for part in parts {
            // With its length, so that no two lists of parts are one text.
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Noise(hasher.finalize_xof())
    }
}

impl Noise {
    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.fill(&mut bytes);
        bytes
    }

    /// Uniform in 0..1.
    fn uniform(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed numbers of mean 0 and standard deviation 1 (Box and Muller 1958).
    pub(super) fn normal(&mut self, count: usize) -> Vec<f64> {
        let mut one = || {
            let (length, angle) = (1.0 - self.uniform(), std::f64::consts::TAU * self.uniform());
            (-2.0 * length.ln()).sqrt() * angle.cos()
        };
        (0..count).map(|_| one()).collect()
    }
}
