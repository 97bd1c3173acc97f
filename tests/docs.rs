//! What the documents show works: configurations load, commands and flags exist, settings have the defaults that are told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use refrain::config::{Config, Mistakes, from_text};

const DOCUMENTS: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "helm/README.md"];

#[test]
fn every_configuration_shown_loads() {
    let mut shown = 0;
    for (document, block) in blocks(&["toml"]) {
        let loaded = from_text(&block).and_then(|layer| Config::from_layers([layer]));
        assert!(loaded.is_ok(), "{document}: {}\n{block}", loaded.unwrap_err());
        shown += 1;
    }
    assert!(shown > 0, "the documents show a configuration");
}

#[test]
fn every_configuration_shown_passes_the_check_command() {
    let folder = tempfile::tempdir().unwrap();
    for (document, block) in blocks(&["toml"]) {
        let Output { status, stderr, .. } = check(folder.path(), &block);
        assert!(status.success(), "{document}: {}\n{block}", String::from_utf8_lossy(&stderr));
    }
}

#[test]
fn every_command_shown_exists_with_its_flags() {
    let commands = known_commands();
    let mut shown = 0;
    for (document, block) in blocks(&["sh", "console", "bash"]) {
        for line in block.replace("\\\n", " ").lines() {
            let Some(words) = arguments_of_refrain(line) else { continue };
            let is_flag = |word: &&str| word.starts_with("--");
            let flags: BTreeSet<&str> = words
                .iter()
                .copied()
                .filter(is_flag)
                .map(|flag| flag.split('=').next().unwrap_or(flag))
                .collect();
            let known = match words.iter().find(|word| !word.starts_with('-')) {
                Some(command) => {
                    assert!(commands.contains(&(*command).to_owned()), "{document}: no such command: {line}");
                    flags_of(&[command])
                }
                None => flags_of(&[]),
            };
            for flag in flags {
                assert!(known.contains(flag), "{document}: no such flag as {flag}: {line}");
            }
            shown += 1;
        }
    }
    assert!(shown > 0, "the documents show commands");
}

#[test]
fn every_setting_told_is_known_and_has_the_default_that_is_told() {
    let defaults = format!("{:?}", Config::from_layers([]).unwrap());
    let mut told = 0;
    for line in read("README.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [key, default, _meaning] = cells[..] else { panic!("expected three cells: {line}") };
        let (key, default) = (key.trim_matches('`'), default.trim_matches('`'));
        match load(key, default) {
            Ok(config) => assert_eq!(format!("{config:?}"), defaults, "{key} is not {default} by default"),
            Err(mistakes) => panic!("{key} = {default}: {mistakes}"),
        }
        told += 1;
    }
    assert!(told > 20, "{told} settings in the table");
}

#[test]
fn every_setting_named_in_passing_is_known() {
    const SECTIONS: [&str; 12] = [
        "admin",
        "bypass",
        "caller",
        "judgment",
        "limits",
        "probes",
        "rpc",
        "store",
        "telemetry",
        "timing",
        "tls",
        "upstream_tls",
    ];
    for document in DOCUMENTS {
        let text = read(document);
        // What stands between backticks is every second part.
        for name in text.split('`').skip(1).step_by(2) {
            let Some((section, key)) = name.split_once('.') else { continue };
            let is_key = !key.is_empty() && key.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
            // `tls.rs` and `tls.crt` are files.
            if !SECTIONS.contains(&section) || !is_key || ["rs", "crt"].contains(&key) {
                continue;
            }
            // No setting has such a value, so a known one is refused for that and not for its name.
            let refused = load(name, "[[[]]]").unwrap_err().to_string();
            assert!(!refused.contains("unknown key"), "{document}: no such setting as {name}");
        }
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = r#"
        listen = "everywhere"
        mode = "perhaps"
        [limits]
        held = 0
        linger = "soon"
        [store]
        colour = "blue"
        [models."a*"]
        range = "0..7"
    "#;
    let Output { status, stderr, stdout } = check(folder.path(), wrong);
    assert_eq!(status.code(), Some(64));
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    let said = String::from_utf8(stderr).unwrap();
    for key in ["listen", "mode", "limits.held", "limits.linger", "store.colour", "models.\"a*\".range"] {
        let times = said.lines().filter(|line| line.starts_with(&format!("{key}: "))).count();
        assert_eq!(times, 1, "{key} in\n{said}");
    }
    assert!(said.contains("6 mistakes"), "{said}");
}

#[test]
fn a_wrong_command_line_is_refused_like_a_wrong_setting() {
    for arguments in
        [&["proxy", "--mode", "perhaps"][..], &["check", "--listen", "everywhere"], &["nonsense"]]
    {
        assert_eq!(refrain(arguments).status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(refrain(&["--version"]).status.code(), Some(0));
}

#[test]
fn the_environment_may_name_the_file_and_above_it_stands_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let (wrong, right) = (folder.path().join("wrong.toml"), folder.path().join("right.toml"));
    std::fs::write(&wrong, "mode = 'perhaps'").unwrap();
    std::fs::write(&right, "mode = 'observe'").unwrap();
    let check = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
        let command =
            command.arg("check").args(flags).env("REFRAIN_CONFIG", &wrong).env("REFRAIN_DRAIN_SECONDS", "3");
        command.output().unwrap().status.code()
    };
    assert_eq!(check(&[]), Some(64));
    assert_eq!(check(&["--config", right.to_str().unwrap()]), Some(0));
}

#[test]
fn the_image_is_built_with_the_toolchain_of_the_project() {
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM rust:{channel}-alpine AS build")), "{dockerfile}");
    assert!(dockerfile.contains(&format!("RUSTUP_TOOLCHAIN={channel}")), "{dockerfile}");
}

/// The fenced blocks of these languages, with the document that each stands in.
fn blocks(languages: &[&str]) -> Vec<(&'static str, String)> {
    let mut blocks = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        let mut open: Option<(bool, String)> = None;
        for line in text.lines() {
            match (&mut open, line.trim_start().strip_prefix("```")) {
                (None, Some(language)) => open = Some((languages.contains(&language.trim()), String::new())),
                (Some(_), Some(_)) => {
                    blocks
                        .extend(open.take().filter(|(wanted, _)| *wanted).map(|(_, text)| (document, text)));
                }
                (Some((_, text)), None) => {
                    text.push_str(line);
                    text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{document}: a block is not closed");
    }
    blocks
}

/// What `line` gives our program, if it runs it: as `refrain` on any path, or through cargo.
fn arguments_of_refrain(line: &str) -> Option<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or(line).trim_start_matches("$ ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_ours = |word: &&str| *word == "refrain" || word.ends_with("/refrain");
    if words.starts_with(&["cargo", "run"]) {
        let after = words.iter().position(|word| *word == "--")?;
        return Some(words[after + 1..].to_vec());
    }
    // Variables may stand before it.
    let program = words.iter().position(|word| !word.contains('='))?;
    is_ours(&words[program]).then(|| words[program + 1..].to_vec())
}

fn known_commands() -> Vec<String> {
    let help = String::from_utf8(refrain(&["--help"]).stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| line.starts_with("  "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn flags_of(command: &[&str]) -> BTreeSet<String> {
    let help = refrain(&[command, &["--help"]].concat());
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| c.is_whitespace() || c == ',');
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// The configuration with one setting, written as `section.key` and its value in TOML.
fn load(key: &str, value: &str) -> Result<Config, Mistakes> {
    Config::from_layers([from_text(&format!("{key} = {value}"))?])
}

fn check(folder: &Path, configuration: &str) -> Output {
    let file = folder.join("refrain.toml");
    std::fs::write(&file, configuration).unwrap();
    refrain(&["check", "--config", file.to_str().unwrap()])
}

/// Runs the program, none of its settings taken from this environment.
fn refrain(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_refrain"));
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("REFRAIN_")) {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn read(document: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap()
}
