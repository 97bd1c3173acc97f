//! Forwarded and held replies side by side.

use std::fmt::Write;
use std::time::Duration;

use super::plot::bar;
use super::wrapped;
use crate::demo::latency::{Latency, quantile};
use crate::demo::server::COMPUTE;

/// Rows of the plot.
const ROWS: usize = 14;

/// The two distributions, and whether a test tells them apart.
pub(in crate::demo) fn latency(latency: &Latency) -> String {
    let pairs = latency.forwarded.len();
    let mut text = "\nTime: does a reply tell by its haste that the model was not asked?\n".to_owned();
    text.push_str(&wrapped(&format!(
        "The network alone takes a fraction of a millisecond. For this part the model server takes its time, as a \
         classifier worth protecting does: {} ms at the median, log-normal with spread {}, drawn from the seed. {pairs} \
         pairs by callers that never asked before: a photo (forwarded), then a copy with one pixel changed (held).",
        COMPUTE.0.as_millis(),
        COMPUTE.1,
    )));
    text.push_str("\n                   p10        p50        p90\n");
    for (name, sorted) in [("forwarded", &latency.forwarded), ("held", &latency.held)] {
        let [low, middle, high] = [0.1, 0.5, 0.9].map(|share| quantile(sorted, share).as_secs_f64() * 1e3);
        let _ = writeln!(text, "  {name:<10} {low:>7.2} ms {middle:>7.2} ms {high:>7.2} ms");
    }
    text.push('\n');
    text.push_str(&plot(latency));
    let (distance, critical) = (latency.distance(), latency.critical());
    let verdict = if distance <= critical {
        "So this test does not tell them apart. It is one small test on one machine and no proof: who asks more sees more."
    } else {
        "So this test tells them apart in this run. A busy machine does that, for a hold is as exact as the machine's timers; \
         and one run in twenty does it by chance. Run it again on an idle machine."
    };
    text.push_str(&wrapped(&format!(
        "At most {distance:.3} lies between the two distributions (Kolmogorov-Smirnov); between two samples of one and the \
         same it is more than {critical:.3} once in twenty times. {verdict}"
    )));
    text
}

/// Two histograms over the same rows; what lies outside of the middle 98 % is counted in the outermost ones.
fn plot(latency: &Latency) -> String {
    const WIDTH: usize = 34;
    let both = [&latency.forwarded, &latency.held];
    let least = both.map(|sorted| quantile(sorted, 0.01)).into_iter().min().unwrap_or_default();
    let most = both.map(|sorted| quantile(sorted, 0.99)).into_iter().max().unwrap_or_default();
    let step = most.saturating_sub(least).max(Duration::from_micros(1)) / ROWS as u32;
    let counts = both.map(|sorted| {
        let mut rows = [0u32; ROWS];
        for one in sorted {
            let row = one.saturating_sub(least).as_nanos() / step.as_nanos().max(1);
            rows[(row as usize).min(ROWS - 1)] += 1;
        }
        rows
    });
    let tallest = counts.iter().flatten().copied().max().unwrap_or(1).max(1);
    let mut text = format!("  {:>8}   {:<WIDTH$}        {}\n", "from", "forwarded", "held");
    for row in 0..ROWS {
        let from = (least + step * row as u32).as_secs_f64() * 1e3;
        let [(left, forwarded), (right, held)] =
            counts.map(|rows| (bar(f64::from(rows[row]) / f64::from(tallest), WIDTH), rows[row]));
        let _ =
            writeln!(text, "  {from:>5.2} ms   {left:<WIDTH$} {forwarded:>4}   {right:<WIDTH$} {held:>4}");
    }
    text
}

#[cfg(test)]
mod tests {
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
