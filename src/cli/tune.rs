//! `refrain tune`: the distances that a sidecar measured in `observe` into radii, and what each would short-circuit.

use std::fmt::Write;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::judgment::Rules;
use crate::telemetry::scrape::{Distribution, Sample, samples, values_of};

/// Fewer rows than these tell nothing of a share that is to be small.
const ENOUGH: f64 = 1000.0;

/// The longest page that is read, in bytes.
const PAGE: u64 = 64 << 20;

/// How long a page may take to come.
const WITHIN: Duration = Duration::from_secs(10);

/// Proposes radii from the distances between rows and the nearest anchor of their session.
#[derive(Args, Debug)]
pub(super) struct Tune {
    /// A page of metrics: a file, `-` for standard input, or http://host:port/metrics of the admin port.
    from: String,
    /// The model; all of them where none is named.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The share of honest rows that may be short-circuited though they are no exact repeats.
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    share: f64,
}

/// A distance, the setting that bounds it, and what it is by default.
struct Radius {
    metric: &'static str,
    setting: &'static str,
    unit: &'static str,
    default: f64,
    /// The number of the setting for a distance.
    written: fn(f64) -> f64,
}

fn radii() -> [Radius; 5] {
    let rules = Rules::hardened();
    let as_it_is = |distance: f64| distance;
    [
        Radius {
            metric: "refrain_match_distance",
            setting: "reuse_bits",
            unit: "bits of 256",
            default: f64::from(rules.reuse_bits),
            written: as_it_is,
        },
        Radius {
            metric: "refrain_match_distance_positions",
            setting: "reuse_positions",
            unit: "positions of 1024",
            default: f64::from(rules.reuse_positions),
            written: as_it_is,
        },
        Radius {
            metric: "refrain_match_distance_cells",
            setting: "reuse_cells",
            unit: "fine cells of 64 that are not near",
            default: f64::from(64 - rules.reuse_cells),
            written: |distance| 64.0 - distance,
        },
        Radius {
            metric: "refrain_match_distance",
            setting: "suspect_bits",
            unit: "bits of 256",
            default: f64::from(rules.suspect_bits),
            written: as_it_is,
        },
        Radius {
            metric: "refrain_match_distance_positions",
            setting: "suspect_positions",
            unit: "positions of 1024",
            default: f64::from(rules.suspect_positions),
            written: as_it_is,
        },
    ]
}

impl Tune {
    pub(super) fn run(&self) -> ExitCode {
        let proposed =
            read(&self.from).and_then(|page| samples(&page)).and_then(|samples| self.propose(&samples));
        match proposed {
            Ok(text) => {
                // A reader that has seen enough and closed the pipe is no failure.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("{}: {error}", self.from);
                ExitCode::FAILURE
            }
        }
    }

    fn propose(&self, samples: &[Sample]) -> Result<String, String> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(format!("expected a --share of 0 to 1, found {}", self.share));
        }
        let known = values_of(samples, "refrain_match_distance_bucket", "model");
        if let Some(model) = self.model.as_ref().filter(|model| !known.contains(*model)) {
            return Err(format!("expected one of the models {known:?}, found {model:?}"));
        }
        let of_model = |exact| {
            let mut wanted = vec![("exact", exact)];
            wanted.extend(self.model.as_deref().map(|model| ("model", model)));
            wanted
        };
        let measured = |metric: &str| Distribution::of(samples, metric, &of_model("false"));
        let rows = measured("refrain_match_distance").count;
        let repeats = Distribution::of(samples, "refrain_match_distance", &of_model("true")).count;
        if rows < 1.0 {
            return Err(
                "no row was measured against an anchor: let it run in observe mode for a while".to_owned()
            );
        }
        let mut text = format!(
            "{rows:.0} rows measured against the nearest anchor of their session, and {repeats:.0} exact repeats, which are \
             replayed\nwhatever the radii.\n\n"
        );
        if rows < ENOUGH {
            let _ = writeln!(text, "These are few rows: the shares below are rough.\n");
        }
        let _ = writeln!(
            text,
            "{:18}  {:>8}  {:>10}    {:>8}  {:>10}",
            "", "default", "share", "proposed", "share"
        );
        let mut proposed = String::new();
        for Radius { metric, setting, unit, default, written } in radii() {
            let distances = measured(metric);
            let share = |bound: f64| 100.0 * distances.within(bound) / distances.count.max(1.0);
            let bound = widest(&distances, self.share, default);
            let _ = writeln!(
                text,
                "{setting:18}  {:>8}  {:>8.3} %    {:>8}  {:>8.3} %    {unit}",
                written(default),
                share(default),
                written(bound),
                share(bound),
            );
            if setting.starts_with("reuse") {
                let _ = writeln!(proposed, "{setting} = {}", written(bound));
            }
        }
        let _ = writeln!(
            text,
            "\nA row within any radius of reuse is short-circuited if the guard lets it through, so the share in all is at \
             most the sum.\nNo radius is proposed that is wider than its default: honest traffic that is never near says \
             nothing of attacks.\nRows of a radius of suspicion are forwarded, and counted against their session.\n\n\
             [judgment]\n{proposed}"
        );
        Ok(text)
    }
}

/// The widest bound, up to `most`, within which no more than `share` of the rows lie; nought where there is none.
fn widest(distances: &Distribution, share: f64, most: f64) -> f64 {
    let fits = |bound: f64| distances.within(bound) <= share * distances.count;
    if fits(most) {
        return most;
    }
    let mut bounds = distances.up_to.iter().map(|(bound, _)| *bound);
    bounds.rfind(|bound| *bound <= most && fits(*bound)).unwrap_or(0.0)
}

fn read(from: &str) -> Result<String, String> {
    if from.starts_with("http://") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        return runtime.block_on(async {
            let page = tokio::time::timeout(WITHIN, fetch(from));
            page.await.map_err(|_| format!("no page within {WITHIN:?}"))?
        });
    }
    let page =
        if from == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(from) };
    page.map_err(|error| error.to_string())
}

/// A page over HTTP, asked for in the plainest way: whatever serves metrics understands HTTP/1.0.
async fn fetch(url: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let authority = uri.authority().ok_or("expected http://host:port/metrics")?;
    let path =
        uri.path_and_query().map_or("/metrics", |path| if path == "/" { "/metrics" } else { path.as_str() });
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(&address).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\naccept: text/plain\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut said = String::new();
    stream.take(PAGE).read_to_string(&mut said).await.map_err(failed)?;
    let (head, page) = said.split_once("\r\n\r\n").ok_or("expected an HTTP reply")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("expected 200, found {status:?}"));
    }
    Ok(page.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Decision, Metrics, Nearness, Row};

    fn page(distances: &[(u32, usize)]) -> Vec<Sample> {
        let metrics = Metrics::new();
        let model = metrics.model(&"clf".into());
        for (bits, rows) in distances {
            let nearest = Some(Nearness { bits: *bits, positions: 8 * bits, cells: bits / 4 });
            let row = Row {
                decision: Decision::Forwarded,
                ruling: "forward",
                reason: "new",
                suspect: false,
                nearest,
            };
            (0..*rows).for_each(|_| metrics.judged(&model, &row));
        }
        samples(&metrics.prometheus()).unwrap()
    }

    fn tune(share: f64) -> Tune {
        Tune { from: "a page".into(), model: None, share }
    }

    #[test]
    fn defaults_are_proposed_where_honest_rows_stay_outside_of_them() {
        let text = tune(0.001).propose(&page(&[(120, 5000)])).unwrap();
        for line in ["reuse_bits = 10", "reuse_positions = 30", "reuse_cells = 63"] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn radii_are_drawn_in_until_no_more_than_the_share_lies_within() {
        // One row in fifty has a near-copy six bits away: a camera that does not move, say.
        let text = tune(0.01).propose(&page(&[(120, 4900), (6, 100)])).unwrap();
        assert!(text.contains("reuse_bits = 5") && text.contains("reuse_positions = 30"), "{text}");
        let text = tune(0.05).propose(&page(&[(120, 4900), (6, 100)])).unwrap();
        assert!(text.contains("reuse_bits = 10"), "{text}");
    }

    #[test]
    fn a_page_that_tells_nothing_is_said_to() {
        assert!(tune(0.01).propose(&page(&[])).unwrap_err().contains("no row was measured"));
        let other = Tune { model: Some("nobody".into()), ..tune(0.01) };
        assert!(other.propose(&page(&[(120, 5)])).unwrap_err().contains("\"clf\""));
        assert!(tune(7.0).propose(&page(&[(120, 5)])).is_err());
        assert!(read("/no/such/page").is_err());
    }
}
