//! `refrain check`: a configuration that can be read, and the files that it names.

use std::process::ExitCode;

use crate::config::Config;
use crate::proxy::check_tls;

pub(super) fn run(config: &Config) -> ExitCode {
    let mut mistakes = check_tls(config);
    for method in &config.rpc_allow {
        if method.split('/').filter(|part| !part.is_empty()).count() != 2 {
            mistakes.push(format!("rpc.allow: expected package.Service/Method, found {method:?}"));
        }
    }
    if mistakes.is_empty() {
        println!("the configuration is valid");
        return ExitCode::SUCCESS;
    }
    for mistake in &mistakes {
        eprintln!("{mistake}");
    }
    eprintln!("{} in the configuration", super::count(mistakes.len(), "mistake"));
    ExitCode::from(super::USAGE)
}
