//! Random numbers that are the same for the same seed: SplitMix64, a stream of its own for each name.

use std::f64::consts::TAU;

/// A stream of random numbers; for experiments that must repeat, never for keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream called `name` of `seed`: streams of other names are unrelated, so that work may run in any order.
    pub fn of(seed: u64, name: &str) -> Self {
        let digest = blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize();
        let mut start = [0; 8];
        start.copy_from_slice(&digest.as_bytes()[..8]);
        Self(u64::from_le_bytes(start))
    }

    /// 64 random bits: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Uniform in 0..1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`limit`, which must be above 0.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }

    /// 1 or -1.
    pub fn sign(&mut self) -> i16 {
        if self.bits() >> 63 == 0 { 1 } else { -1 }
    }

    /// Normal, mean 0 and deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.unit()).ln()).sqrt() * (TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_and_has_its_own_name() {
        let first = |seed, name| Random::of(seed, name).bits();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
    }

    #[test]
    fn numbers_have_the_mean_and_spread_that_they_promise() {
        let mut random = Random::of(1, "numbers");
        let many = 40_000;
        let units: f64 = (0..many).map(|_| random.unit()).sum::<f64>() / f64::from(many);
        let signs: f64 = (0..many).map(|_| f64::from(random.sign())).sum::<f64>() / f64::from(many);
        let normals: Vec<f64> = (0..many).map(|_| random.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(many);
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(many);
        assert!((units - 0.5).abs() < 0.01 && signs.abs() < 0.02, "{units} {signs}");
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[random.below(5)] += 1);
        assert!(seen.iter().all(|count| (150..250).contains(count)), "{seen:?}");
    }
}
