//! `refrain demo`: two attacks on an embedded classifier, without and with Refrain in front of it.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;

use crate::demo::{self, Plan};

/// Everything is embedded and stays on this machine; it takes up to a minute.
#[derive(Args, Debug)]
pub(super) struct Demo {
    /// The seed of the attacks' random numbers: the same seed, the same queries and labels.
    #[arg(long, value_name = "NUMBER", default_value_t = demo::SEED)]
    seed: u64,
}

impl Demo {
    pub(super) fn run(&self) -> ExitCode {
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
        match told {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => failed(error),
        }
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
