//! `refrain demo`: two attacks on an embedded classifier, without and with Refrain in front of it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;

use crate::demo::page::{Destination, page};
use crate::demo::{self, Plan, Story};

/// Everything is embedded and stays on this machine; it takes up to a minute.
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// The seed of the attacks' random numbers: the same seed, the same queries and labels.
    #[arg(long, value_name = "NUMBER", default_value_t = demo::SEED)]
    seed: u64,
    /// Write the whole run into this file as well, as one page (HTML) that needs nothing else: the pictures, the queries over
    /// time, the numbers.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(&self) -> ExitCode {
        // Known before the run, not half a minute later.
        let report = match self.report.as_deref().map(Destination::find).transpose() {
            Ok(report) => report,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(super::USAGE);
            }
        };
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(error),
        };
        let plan = Plan { seed: self.seed, ..Plan::default() };
        let watched = std::io::stderr().is_terminal();
        // One line that is written over; nobody reads it in a file.
        let progress = move |what: &str| {
            if watched {
                eprint!("\r\x1b[K  {what}\r");
            }
        };
        let told = runtime.block_on(demo::run(plan, &mut Clearing { watched }, &progress));
        let story = match told {
            Ok(story) => story,
            Err(error) => return failed(error),
        };
        report.map_or(ExitCode::SUCCESS, |report| written(&story, &report))
    }
}

fn written(story: &Story, report: &Destination) -> ExitCode {
    let page = match page(story, SystemTime::now()) {
        Ok(page) => page,
        Err(error) => return failed(error),
    };
    match report.write(&page) {
        Ok(()) => {
            // Written is written, whether anybody reads on or not.
            let _ = writeln!(std::io::stdout(), "\nThe report: {}", report.name().display());
            ExitCode::SUCCESS
        }
        Err(error) => failed(error),
    }
}

/// Standard output, with the line of progress cleared away before anything is printed.
struct Clearing {
    watched: bool,
}

impl std::io::Write for Clearing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.watched {
            eprint!("\x1b[K");
        }
        std::io::stdout().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

fn failed(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("the demo failed: {error}");
    ExitCode::FAILURE
}
