//! `refrain audit`: pods that should be protected and are open.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::count;
use crate::webhook::audit;

/// What `refrain audit` is told.
#[derive(Args, Debug)]
pub(super) struct Audit {
    /// Pods, as `kubectl get pods --all-namespaces -o json` prints them; - for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pods: PathBuf,
    /// Namespaces, as `kubectl get namespaces -o json` prints them: those that ask for all of their pods are known then.
    #[arg(long, value_name = "FILE")]
    namespaces: Option<PathBuf>,
}

impl Audit {
    pub(super) fn run(&self) -> ExitCode {
        match self.look() {
            Ok(audit) => {
                for open in &audit.open {
                    for finding in &open.findings {
                        println!("{}: {finding}", open.pod);
                    }
                }
                println!("{} asked to be protected, {} open", count(audit.asked, "pod"), audit.open.len());
                if audit.open.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(super::USAGE)
            }
        }
    }

    fn look(&self) -> Result<audit::Audit, String> {
        let pods = read(&self.pods)?;
        let namespaces = self.namespaces.as_deref().map(read).transpose()?;
        audit::audit(&pods, namespaces.as_ref())
    }
}

fn read(file: &Path) -> Result<Value, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let mut text = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).map_err(|error| told(&error))?;
    } else {
        text = std::fs::read(file).map_err(|error| told(&error))?;
    }
    serde_json::from_slice(&text).map_err(|error| told(&error))
}
