//! A page of metrics, read back: Prometheus' text format or OpenMetrics, as far as counters, gauges and histograms go.

use std::collections::{BTreeMap, BTreeSet};

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum`, `_count` or `_total` where it has that.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Every sample of `page`; an error names the first line that is none.
pub fn samples(page: &str) -> Result<Vec<Sample>, String> {
    let lines =
        page.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            sample(line).ok_or_else(|| format!("line {}: expected a sample, found {line:?}", number + 1))
        })
        .collect()
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    // A time stamp or an exemplar may follow.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Text up to its closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

/// How many observations lie at or below each bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Upper bounds, rising and without infinity, each with the number of observations up to it.
    pub up_to: Vec<(f64, f64)>,
    /// All observations.
    pub count: f64,
}

impl Distribution {
    /// The histogram `name` in `samples`, summed over every set of labels in which those of `wanted` have these values.
    pub fn of(samples: &[Sample], name: &str, wanted: &[(&str, &str)]) -> Self {
        let bucket = format!("{name}_bucket");
        let mut up_to: Vec<(f64, f64)> = Vec::new();
        let mut count = 0.0;
        for sample in samples.iter().filter(|sample| sample.name == bucket) {
            if !wanted
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
            {
                continue;
            }
            let Some(bound) = sample.labels.get("le").and_then(|bound| bound.parse::<f64>().ok()) else {
                continue;
            };
            if bound.is_infinite() {
                count += sample.value;
                continue;
            }
            match up_to.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, number)) => *number += sample.value,
                None => up_to.push((bound, sample.value)),
            }
        }
        up_to.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { up_to, count }
    }

    /// How many lie at or below `bound`, which is rounded down to the next bound that is known.
    pub fn within(&self, bound: f64) -> f64 {
        self.up_to.iter().rev().find(|(known, _)| *known <= bound).map_or(0.0, |(_, number)| *number)
    }
}

/// The values that `label` has on `name`'s samples.
pub fn values_of(samples: &[Sample], name: &str, label: &str) -> BTreeSet<String> {
    let named = samples.iter().filter(|sample| sample.name == name);
    named.filter_map(|sample| sample.labels.get(label).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{Decision, Metrics, Nearness, Row};
    use super::*;

    #[test]
    fn what_we_write_is_read_back() {
        let metrics = Metrics::new();
        let model = metrics.model(&"a \"quoted\\ name\nof two lines".into());
        for bits in [0, 3, 9, 130] {
            let nearest = Some(Nearness { bits, positions: 4 * bits, cells: 0 });
            let row = Row {
                decision: Decision::Monitored,
                ruling: "replay",
                reason: "bits",
                suspect: true,
                nearest,
            };
            metrics.judged(&model, &row);
        }
        let samples = samples(&metrics.prometheus()).unwrap();
        let found = Distribution::of(&samples, "refrain_match_distance", &[("exact", "false")]);
        assert!((found.count - 4.0).abs() < 1e-9);
        assert!((found.within(10.0) - 3.0).abs() < 1e-9 && (found.within(2.5) - 1.0).abs() < 1e-9);
        assert!(found.within(-1.0).abs() < 1e-9);
        let models = values_of(&samples, "refrain_match_distance_bucket", "model");
        assert_eq!(models.into_iter().collect::<Vec<_>>(), ["a \"quoted\\ name\nof two lines"]);
    }

    #[test]
    fn what_is_no_sample_is_named_by_its_line() {
        assert!(
            samples("# HELP a b\n\na 1\na{b=\"c\"} 2 1700000000\na{le=\"+Inf\"} 3 # {x=\"y\"} 1\n").is_ok()
        );
        for page in ["a", "a{b=\"c} 1", "a{b} 1", "a x", "<html>", "a{b=\"c\"}"] {
            let error = samples(&format!("ok 1\n{page}\n")).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
        }
    }
}
