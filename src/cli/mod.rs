//! The commands and their flags. The help text is the reference.

mod proxy;
mod drain;
mod check;
mod compare;
mod tune;
mod demo;
mod webhook;
mod audit;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Mistakes};

/// A gRPC sidecar that answers near-copies of earlier images from memory, so that attacks which search for an adversarial
/// image by asking a classifier thousands of times learn nothing.
#[derive(Debug, Parser)]
#[command(name = "refrain", version)]
struct Cli {
    /// What to log: a level (error, warn, info, debug, trace) or directives (refrain=debug) [default: info; demo: warn]
    #[arg(long, global = true, env = "REFRAIN_LOG")]
    log: Option<String>,
    /// Log one JSON object a line.
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand in front of a model server.
    Proxy(Settings),
    /// Tell the sidecar of this pod that it is about to end, and wait until callers have gone elsewhere.
    Drain(drain::Drain),
    /// Validate a configuration and report every mistake in it.
    Check(Settings),
    /// Two image files: their fingerprints, their distances, and the ruling under each profile.
    Compare(compare::Compare),
    /// Read the distances that a sidecar measured, and propose radii with the share of calls that they would short-circuit.
    Tune(tune::Tune),
    /// Two real attacks on an embedded classifier, without and with Refrain in front of it; nothing to install.
    Demo(demo::Demo),
    /// Put the sidecar into pods: the admission webhook that the API server asks.
    Webhook(webhook::Webhook),
    /// List pods that should be protected and are open; exit code 1 where there is one.
    Audit(audit::Audit),
}

/// Where settings come from: defaults, then the file, then the environment (REFRAIN_SECTION__KEY), then flags.
#[derive(Args, Clone, Debug)]
struct Settings {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "REFRAIN_CONFIG")]
    config: Option<PathBuf>,
    /// Where to listen: ip:port or unix:/path [default: 0.0.0.0:8001]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The model server: http://host:port, https://host:port or unix:/path [default: http://127.0.0.1:9001]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Where probes, metrics and the operator's own pages are served: ip:port or unix:/path [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// Which reading of the method judges: paper or hardened [default: hardened]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// What is done: enforce, observe or off [default: enforce]
    #[arg(long, value_name = "NAME")]
    mode: Option<String>,
    /// The metadata key that holds the caller's identity, believed from trusted peers alone
    #[arg(long, value_name = "KEY")]
    caller_metadata: Option<String>,
    /// A peer that sets the caller's metadata; may be given more than once
    #[arg(long, value_name = "CIDR")]
    trusted_peer: Vec<String>,
}

/// Variables that stand for flags of commands, and so are no settings.
const FLAGS: [&str; 3] = ["REFRAIN_LOG", "REFRAIN_CONFIG", "REFRAIN_DRAIN_SECONDS"];

impl Settings {
    fn load(&self) -> Result<Config, Mistakes> {
        let file = match &self.config {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Mistakes(vec![format!("{}: {error}", path.display())]))?;
                config::from_text(&text)?
            }
        };
        let environment = std::env::vars().filter(|(name, _)| !FLAGS.contains(&name.as_str()));
        Config::from_layers([file, config::from_environment(environment), self.flags()])
    }

    fn flags(&self) -> toml::Table {
        let text = |value: &Option<String>| value.clone().map(toml::Value::String);
        let mut caller = toml::Table::new();
        caller.extend(text(&self.caller_metadata).map(|value| ("metadata".to_owned(), value)));
        if !self.trusted_peer.is_empty() {
            let peers = self.trusted_peer.iter().cloned().map(toml::Value::String).collect();
            caller.insert("trusted_peers".to_owned(), toml::Value::Array(peers));
        }
        let admin = self.admin.clone().map(|address| {
            toml::Value::Table(toml::Table::from_iter([("listen".to_owned(), toml::Value::String(address))]))
        });
        let mut flags = toml::Table::new();
        for (key, value) in [
            ("listen", text(&self.listen)),
            ("upstream", text(&self.upstream)),
            ("admin", admin),
            ("profile", text(&self.profile)),
            ("mode", text(&self.mode)),
            ("caller", (!caller.is_empty()).then_some(toml::Value::Table(caller))),
        ] {
            flags.extend(value.map(|value| (key.to_owned(), value)));
        }
        flags
    }
}

/// The exit code of a wrong command line or configuration, as in `sysexits.h`.
const USAGE: u8 = 64;

/// Runs the command line; 0 when all went well, 64 for a wrong setting, 1 for anything else.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and are no mistakes.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // The demo prints; a log line for each of its thousands of rows would bury it.
    let quiet = matches!(cli.command, Command::Demo(_));
    let log = cli.log.as_deref().unwrap_or(if quiet { "warn" } else { "info" });
    crate::telemetry::start_logging(log, cli.log_json);
    match &cli.command {
        Command::Proxy(settings) => match settings.load() {
            Ok(config) => proxy::run(settings, config),
            Err(mistakes) => wrong(&mistakes),
        },
        Command::Check(settings) => match settings.load() {
            Ok(config) => check::run(&config),
            Err(mistakes) => wrong(&mistakes),
        },
        Command::Drain(drain) => drain.run(),
        Command::Compare(compare) => compare.run(),
        Command::Tune(tune) => tune.run(),
        Command::Demo(demo) => demo.run(),
        Command::Webhook(webhook) => webhook.run(),
        Command::Audit(audit) => audit.run(),
    }
}

fn wrong(mistakes: &Mistakes) -> ExitCode {
    eprintln!("{mistakes}");
    eprintln!("{} in the configuration", count(mistakes.0.len(), "mistake"));
    ExitCode::from(USAGE)
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
