//! Axes and paths of the page's plots, in a square of 1000 that the page stretches to its own width.

use std::fmt::Write;

/// The side of the square.
const SIDE: f64 = 1000.0;

/// A label beside the plot.
pub(super) struct Tick {
    /// How far along its axis, in percent.
    pub(super) place: String,
    /// What stands there.
    pub(super) label: String,
}

/// What lies between the two ends of an axis.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    /// From `from` to `to`, which is moved away where nothing would lie between.
    pub(super) fn new(from: f64, to: f64) -> Self {
        Self { from, to: if to > from { to } else { from + 1.0 } }
    }

    /// From nought to the first round number that is not below `most`.
    pub(super) fn up_to(most: f64) -> Self {
        let axis = Self::new(0.0, most);
        let step = axis.step();
        Self { to: (axis.to / step).ceil() * step, ..axis }
    }

    /// The round step (1, 2 or 5 times a power of ten) that goes about four times into it.
    fn step(self) -> f64 {
        let rough = (self.to - self.from) / 4.0;
        let ten = 10f64.powf(rough.log10().floor());
        let rounds = [1.0, 2.0, 5.0, 10.0].map(|round| round * ten);
        rounds.into_iter().find(|round| *round >= 0.999 * rough).unwrap_or(rounds[3])
    }

    /// The round values on it.
    fn rounds(self) -> impl Iterator<Item = f64> {
        let step = self.step();
        let first = (self.from / step).ceil() as i64;
        let last = (self.to / step * (1.0 + 1e-9)).floor() as i64;
        (first..=last).map(move |many| many as f64 * step)
    }

    /// How far along it `value` is, 0..=1.
    fn share(self, value: f64) -> f64 {
        ((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }

    /// A label for each round value.
    pub(super) fn ticks(self, label: impl Fn(f64) -> String) -> Vec<Tick> {
        let tick = |value| Tick { place: format!("{:.2}", 100.0 * self.share(value)), label: label(value) };
        self.rounds().map(tick).collect()
    }

    /// Digits after the point that its round values need.
    pub(super) fn digits(self) -> usize {
        (-self.step().log10().floor()).max(0.0) as usize
    }
}

/// Lines across the plot at the round values of `y`.
pub(super) fn grid(y: Axis) -> String {
    y.rounds().fold(String::new(), |mut path, value| {
        let _ = write!(path, "M0 {:.0}H{SIDE}", SIDE - SIDE * y.share(value));
        path
    })
}

/// A line through `points`, which come in the order of their first numbers.
pub(super) fn line(points: &[(f64, f64)], x: Axis, y: Axis) -> String {
    let mut path = String::new();
    for (i, (across, up)) in points.iter().enumerate() {
        let letter = if i == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{letter}{:.1} {:.1}", SIDE * x.share(*across), SIDE - SIDE * y.share(*up));
    }
    path
}

/// What lies between two lines.
pub(super) fn area(upper: &[(f64, f64)], lower: &[(f64, f64)], x: Axis, y: Axis) -> String {
    let back: Vec<_> = lower.iter().rev().copied().collect();
    let around: Vec<_> = [upper, &back].concat();
    line(&around, x, y) + "Z"
}

/// The corners of a histogram's outline, from the ground to the ground.
pub(super) fn outline(counts: &[u32], from: f64, step: f64) -> Vec<(f64, f64)> {
    let mut corners = vec![(from, 0.0)];
    for (i, count) in counts.iter().enumerate() {
        let left = from + step * i as f64;
        corners.extend([(left, f64::from(*count)), (left + step, f64::from(*count))]);
    }
    corners.push((from + step * counts.len() as f64, 0.0));
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis) -> Vec<(String, String)> {
        let digits = axis.digits();
        axis.ticks(|value| format!("{value:.digits$}"))
            .into_iter()
            .map(|tick| (tick.place, tick.label))
            .collect()
    }

    #[test]
    fn ticks_are_round_and_lie_on_the_axis() {
        let pair = |place: &str, label: &str| (place.to_owned(), label.to_owned());
        assert_eq!(labels(Axis::new(3.9, 8.1)), [pair("2.38", "4"), pair("50.00", "6"), pair("97.62", "8")]);
        assert_eq!(
            labels(Axis::up_to(0.9)),
            [pair("0.00", "0.0"), pair("50.00", "0.5"), pair("100.00", "1.0")]
        );
        assert_eq!(labels(Axis::up_to(18_612.0)).last().unwrap().1, "20000");
        // Nothing was counted.
        assert_eq!(labels(Axis::up_to(0.0)).last().unwrap(), &pair("100.00", "1.0"));
    }

    #[test]
    fn lines_and_areas_keep_to_the_square() {
        let (x, y) = (Axis::new(0.0, 2.0), Axis::new(0.0, 10.0));
        let points = [(0.0, 0.0), (1.0, 5.0), (2.0, 20.0)];
        assert_eq!(line(&points, x, y), "M0.0 1000.0L500.0 500.0L1000.0 0.0");
        assert_eq!(
            area(&points[..2], &[(0.0, 0.0), (1.0, 0.0)], x, y),
            "M0.0 1000.0L500.0 500.0L500.0 1000.0L0.0 1000.0Z"
        );
        assert_eq!(line(&[], x, y), "");
        assert_eq!(grid(y), "M0 1000H1000M0 500H1000M0 0H1000");
    }

    #[test]
    fn an_outline_ends_on_the_ground() {
        assert_eq!(
            outline(&[2, 1], 4.0, 0.5),
            [(4.0, 0.0), (4.0, 2.0), (4.5, 2.0), (4.5, 1.0), (5.0, 1.0), (5.0, 0.0)]
        );
    }
}
