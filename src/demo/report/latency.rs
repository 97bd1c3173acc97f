//! Forwarded and held replies side by side.

use std::fmt::Write;

use super::plot::bar;
use super::{words, wrapped};
use crate::demo::latency::{Histogram, Latency, quantile};

/// Rows of the plot.
const ROWS: usize = 14;

/// The two distributions, and whether a test tells them apart.
pub(in crate::demo) fn latency(latency: &Latency) -> String {
    let mut text = "\nTime: does a reply tell by its haste that the model was not asked?\n".to_owned();
    text.push_str(&wrapped(&words::timed(latency)));
    text.push_str("\n                   p10        p50        p90\n");
    for (name, sorted) in [("forwarded", &latency.forwarded), ("held", &latency.held)] {
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|share| quantile(sorted, share).as_secs_f64() * 1e3);
        let _ = writeln!(text, "  {name:<10} {low:>7.2} ms {middle:>7.2} ms {high:>7.2} ms");
    }
    text.push('\n');
    text.push_str(&plot(latency));
    text.push_str(&wrapped(&words::apart(latency)));
    text
}

/// Two histograms over the same rows; what lies outside of the middle 98 % is counted in the outermost ones.
fn plot(latency: &Latency) -> String {
    const WIDTH: usize = 34;
    let Histogram { least, step, forwarded, held } = latency.histogram(ROWS);
    let tallest = forwarded.iter().chain(&held).copied().max().unwrap_or_default().max(1);
    let mut text = format!("  {:>8}   {:<WIDTH$}        {}\n", "from", "forwarded", "held");
    for (row, (forwarded, held)) in forwarded.into_iter().zip(held).enumerate() {
        let from = (least + step * row as u32).as_secs_f64() * 1e3;
        let [left, right] = [forwarded, held].map(|count| bar(f64::from(count) / f64::from(tallest), WIDTH));
        let _ =
            writeln!(text, "  {from:>5.2} ms   {left:<WIDTH$} {forwarded:>4}   {right:<WIDTH$} {held:>4}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::fits;
    use super::*;

    #[test]
    fn every_reply_is_in_the_plot_and_it_fits() {
        let millis = |n: u64| (0..n).map(|i| Duration::from_micros(4000 + i * i % 3000)).collect::<Vec<_>>();
        let mut both = Latency { forwarded: millis(400), held: millis(1) };
        both.forwarded.sort_unstable();
        let text = latency(&both);
        fits(&text);
        let counted: u32 = plot(&both)
            .lines()
            .skip(1)
            .flat_map(|line| line.split_whitespace().skip(2).filter_map(|word| word.parse::<u32>().ok()))
            .sum();
        assert_eq!(counted, 401);
    }
}
