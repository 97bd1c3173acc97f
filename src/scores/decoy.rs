//! A smooth surface over all pictures, one for each class, that only the key knows.
//!
//! Random Fourier features (Rahimi and Recht 2007) of the fine cells' means: a draw from a Gaussian process whose values hardly
//! change within [`REACH`] and know nothing of each other far beyond it.

use super::noise::Key;
use crate::judgment::Likeness;

/// Waves that make up a surface.
const WAVES: usize = 32;

/// Cell means of a likeness: three colours of 64 cells.
const CELLS: usize = 192;

/// The distance, as the root of summed squares of cell means in units of 255 levels, over which a surface stays about the same:
/// twice or three times what one changed pixel of 32 x 32 moves, and less than noise of 8 levels everywhere does.
const REACH: f64 = 0.3;

/// The surfaces of one key.
#[derive(Clone)]
pub(super) struct Decoy {
    key: Key,
    /// Each wave's direction and length, cell by cell.
    waves: Vec<f64>,
    phases: Vec<f64>,
}

impl Decoy {
    pub(super) fn new(key: Key) -> Self {
        let mut noise = key.noise(&[b"decoy waves"]);
        let waves = noise.normal(WAVES * CELLS).into_iter().map(|wave| wave / REACH).collect();
        let phases = noise.normal(WAVES).into_iter().map(|phase| phase * std::f64::consts::TAU).collect();
        Self { key, waves, phases }
    }

    /// The height of each class's surface at this picture: mean 0 and standard deviation 1 over all pictures. Some 10 us, and 30 ns
    /// a class.
    pub(super) fn heights(&self, output: &str, classes: usize, likeness: &Likeness) -> Vec<f64> {
        let cells = || likeness.fine_cells().iter().flatten().map(|mean| f64::from(*mean) / 255.0);
        let at: Vec<f64> = self
            .waves
            .chunks_exact(CELLS)
            .zip(&self.phases)
            .map(|(wave, phase)| {
                (wave.iter().zip(cells()).map(|(wave, cell)| wave * cell).sum::<f64>() + phase).cos()
            })
            .collect();
        let weights = self.key.noise(&[b"decoy weights", output.as_bytes()]).coarse(classes * WAVES);
        let scale = (2.0 / WAVES as f64).sqrt();
        weights
            .chunks_exact(WAVES)
            .map(|weights| scale * weights.iter().zip(&at).map(|(weight, at)| weight * at).sum::<f64>())
            .collect()
    }
}

impl std::fmt::Debug for Decoy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoy(..)")
    }
}
