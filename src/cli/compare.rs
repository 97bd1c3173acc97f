//! `refrain compare A B`: what judgment sees of two picture files, and what it would rule.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

/// Prints both fingerprints, every distance, and the ruling on B after A under each profile.
#[derive(Args, Debug)]
pub(super) struct Compare {
    /// The picture asked about first.
    first: PathBuf,
    /// The picture asked about after it.
    second: PathBuf,
}

impl Compare {
    pub(super) fn run(&self) -> ExitCode {
        todo_compare(&self.first, &self.second)
    }
}

fn todo_compare(_: &Path, _: &Path) -> ExitCode {
    ExitCode::FAILURE
}
