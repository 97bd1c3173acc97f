//! Arrows never turn back: what each part of the crate may name, checked on the source text.
//!
//! ```text
//! main > cli, config > proxy > protocol > judgment
//!                      proxy > session  > judgment
//!                      proxy > timing
//!                      proxy > scores   > judgment
//!                      proxy > telemetry
//! main > cli, config > webhook
//! ```
//!
//! A rule names, for one folder, the modules of ours and the outside crates that its code may use; everything else is refused,
//! so a new arrow is drawn here first, with its reason. Tests inside a file may use what they like.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What the code of one module may name.
struct Rule {
    /// The module: `src/NAME/` or `src/NAME.rs`.
    module: &'static str,
    /// Other modules of ours, as paths below `crate`.
    ours: &'static [&'static str],
    /// Outside crates, or paths inside one; `std` always may.
    outside: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        module: "judgment",
        ours: &[],
        // `fearless_simd`: loops compiled for several kinds of vector unit.
        outside: &["rustdct", "blake3", "fearless_simd"],
        why: "judgment is arithmetic: no clock, no input or output, no async, no logging, no messages",
    },
    Rule {
        module: "session",
        ours: &["judgment"],
        // `ipnet` and `blake3`: who a caller is, from addresses, as a keyed digest.
        outside: &["bytes", "tokio::time", "tokio::sync", "ipnet", "blake3", "thiserror"],
        why: "session keeps judgment's likenesses and opaque answers: it knows no messages, no sockets and no settings file",
    },
    Rule {
        module: "scores",
        ours: &["judgment"],
        outside: &["blake3"],
        why: "scores is arithmetic: it knows numbers and likenesses, not messages",
    },
    Rule {
        module: "timing",
        ours: &[],
        outside: &["tokio::time", "tokio::sync"],
        why: "timing knows durations, not messages",
    },
    Rule {
        module: "protocol",
        ours: &["judgment"],
        // `tonic` for the generated messages alone.
        outside: &[
            "bytes",
            "prost",
            "blake3",
            "fearless_simd",
            "half",
            "image",
            "zune_jpeg",
            "serde",
            "thiserror",
            "tonic::include_proto",
        ],
        why: "protocol turns messages into pictures and answers into messages: it knows no sockets and no callers",
    },
    Rule {
        module: "config",
        // Settings reach the others as their own small structs, so those are what it makes.
        ours: &[
            "judgment",
            "protocol::tensor",
            "scores::Mode",
            "session::Limits",
            "telemetry::Secret",
            "telemetry::Settings",
            "telemetry::TrustContext",
            "timing::Mode",
        ],
        outside: &[
            "bytesize",
            "globset",
            "http::HeaderMap",
            "http::HeaderName",
            "http::HeaderValue",
            "http::uri",
            "humantime_serde",
            "ipnet",
            "rustls::pki_types",
            "serde",
            // The injector writes probes as JSON.
            "serde_json",
            "thiserror",
            "toml",
        ],
        why: "config is read by the others and starts nothing",
    },
    Rule {
        module: "telemetry",
        ours: &[],
        // `tokio`, OpenTelemetry's exporters and their TLS for the one thread that exports; what is told waits for nobody.
        outside: &[
            "blake3",
            "hyper_rustls",
            "opentelemetry",
            "opentelemetry_http",
            "opentelemetry_otlp",
            "opentelemetry_prometheus",
            "opentelemetry_sdk",
            "prometheus",
            "rustls",
            "tokio::runtime",
            "tokio::sync",
            "tokio::time",
            "tokio::select",
            "tokio::join",
            "tracing",
            "tracing_opentelemetry",
            "tracing_subscriber",
        ],
        why: "telemetry is told; it asks nobody",
    },
    Rule {
        module: "proxy",
        ours: &["config", "protocol", "session", "judgment", "timing", "scores", "telemetry"],
        outside: &[
            "arc_swap",
            // The form of a call's headers, as a keyed digest.
            "blake3",
            "bytes",
            "flate2",
            "futures_util",
            "getrandom",
            "h2",
            "http",
            "http_body",
            "http_body_util",
            "hyper",
            "hyper_util",
            "percent_encoding",
            "prost",
            "rustls",
            "thiserror",
            "tokio",
            "tokio_rustls",
            "tonic",
            "tonic_health",
            "tower",
            "tracing",
            "x509_parser",
        ],
        why: "sockets and gRPC live in proxy; commands and the demo stand above it",
    },
    Rule {
        module: "webhook",
        // How settings are read, and no setting of the sidecar's own.
        ours: &["config::Mistakes", "config::Section", "config::from_text"],
        outside: &[
            "arc_swap",
            "bytes",
            "futures_util",
            "http",
            "http_body_util",
            "hyper",
            "hyper_util",
            "json_patch",
            "k8s_openapi",
            "kube",
            "prometheus",
            "rcgen",
            "rustls",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tokio_rustls",
            "tracing",
            "x509_parser",
        ],
        why: "the webhook is another role of the same program: it knows the sidecar by its settings' names alone",
    },
    Rule {
        module: "webhook/mutation",
        ours: &["webhook::settings"],
        outside: &["json_patch", "k8s_openapi", "serde", "serde_json"],
        why: "what becomes of a pod is decided by the pod and the settings: no clock, no network, no async, no logging",
    },
    Rule {
        module: "demo/page",
        ours: &[
            "demo::DemoError",
            "demo::Story",
            "demo::duel",
            "demo::latency",
            "demo::model",
            "demo::photos",
            "demo::report",
        ],
        // `humantime_serde` for the date, `tempfile` for a file that is whole or not there.
        outside: &["askama", "base64", "humantime_serde", "tempfile", "thiserror"],
        why: "the page is made of a story that was told: it asks nobody and waits for nothing",
    },
];

#[test]
fn every_module_names_only_what_it_may() {
    let crates = outside_crates();
    let mut broken = String::new();
    for Rule { module, ours, outside, why } in RULES {
        let files = files_of(module);
        assert!(!files.is_empty(), "no source of `{module}` is left; take it out of the table");
        let own_names = names_inside(module);
        let modules: BTreeSet<&str> =
            RULES.iter().map(|rule| rule.module).filter(|name| !own_names.contains(*name)).collect();
        for file in files {
            for (line, path) in paths_in(&std::fs::read_to_string(&file).unwrap()) {
                let own_module = path.split("::").next().is_some_and(|first| modules.contains(first));
                // `session::Limits` after `use crate::session` is `crate::session::Limits`.
                let of_ours = if own_module { Some(path.as_str()) } else { path.strip_prefix("crate::") };
                let is_allowed = match of_ours {
                    Some(named) if is_within(named, module) => true,
                    // A module is named as a whole to name parts of it.
                    Some(named) if !named.contains("::") => ours.iter().any(|part| is_within(part, named)),
                    Some(named) => ours.iter().any(|allowed| is_within(named, allowed)),
                    None => {
                        let first = path.split("::").next().unwrap_or_default();
                        // A module inside may bear the name of a crate.
                        let is_outside = crates.contains(first) && !own_names.contains(first);
                        !is_outside || outside.iter().any(|allowed| is_within(&path, allowed))
                    }
                };
                if !is_allowed {
                    let allowed = if of_ours.is_some() { ours } else { outside };
                    let file = file.strip_prefix(root()).unwrap().display();
                    let _ = writeln!(
                        broken,
                        "{file}:{line}: `{module}` names `{path}`; it may name {allowed:?}: {why}"
                    );
                }
            }
        }
    }
    assert!(broken.is_empty(), "the dependency rule is broken:\n{broken}");
}

/// Every folder of `src` is in the table or stands above all that are.
#[test]
fn no_module_is_outside_the_rule() {
    const ABOVE: [&str; 4] = ["main", "lib", "cli", "demo"];
    for entry in std::fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        let is_ruled = RULES.iter().any(|rule| rule.module == name);
        assert!(is_ruled || ABOVE.contains(&name.as_str()), "src/{name} has no rule in tests/layering.rs");
    }
}

#[test]
fn the_check_finds_what_it_looks_for() {
    let text = r#"
        //! use crate::proxy::Anything;
        use std::sync::Arc;
        use tokio::{net::TcpStream, sync::{watch, oneshot as once}};
        use crate::{session, timing::Mode};
        fn f() { let a = "hyper::x"; http::HeaderMap::new(); x.tokio::<u8>(); } // prost::Message
        use ::prost as p;
        #[cfg(test)]
        mod tests { use tonic::Status; }
    "#;
    let found: Vec<String> =
        paths_in(text).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    for wanted in [
        "3 std::sync::Arc",
        "4 tokio::net::TcpStream",
        "4 tokio::sync::watch",
        "4 tokio::sync::oneshot",
        "5 crate::session",
        "5 crate::timing::Mode",
        "6 http::HeaderMap::new",
        "7 prost",
    ] {
        assert!(found.contains(&wanted.to_owned()), "{wanted} in {found:?}");
    }
    for unwanted in ["proxy", "hyper", "Message", "tonic", "u8"] {
        assert!(!found.iter().any(|path| path.contains(unwanted)), "{unwanted} in {found:?}");
    }
    assert!(is_within("tokio::sync::watch", "tokio::sync"));
    assert!(!is_within("tokio::net", "tokio::sync") && !is_within("tokio::synchronous", "tokio::sync"));
    // A whole crate or module is more than a part of it.
    assert!(!is_within("tokio", "tokio::sync"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn is_within(path: &str, allowed: &str) -> bool {
    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The names by which code calls the crates of `Cargo.toml`.
fn outside_crates() -> BTreeSet<String> {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let sections = ["dependencies", "dev-dependencies"].map(|section| manifest[section].as_table().unwrap());
    sections.into_iter().flatten().map(|(name, _)| name.replace('-', "_")).collect()
}

/// The sources of a module but for those that are compiled for tests alone.
fn files_of(module: &str) -> Vec<PathBuf> {
    let folder = root().join("src").join(module);
    let mut files = vec![folder.with_extension("rs")];
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| file.is_file() && file.extension().is_some_and(|extension| extension == "rs"));
    let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    files.retain(|file| {
        let name = file.file_stem().unwrap().to_string_lossy();
        !texts.iter().any(|text| text.contains(&format!("#[cfg(test)]\nmod {name};")))
    });
    files
}

/// The names of a module's own files.
fn names_inside(module: &str) -> BTreeSet<String> {
    files_of(module).iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// Every path of two or more names and every `use`, with its line; what tests, comments and text say is left out.
fn paths_in(source: &str) -> Vec<(usize, String)> {
    let code = without_comments_and_text(source);
    let code = code.find("#[cfg(test)]\nmod tests {").map_or(code.as_str(), |tests| &code[..tests]);
    // Indented in the sample above.
    let code = code.find("#[cfg(test)]\n        mod tests {").map_or(code, |tests| &code[..tests]);
    let mut paths = Vec::new();
    let mut at = 0;
    let mut line = 1;
    let mut before = ' ';
    while let Some(next) = code[at..].chars().next() {
        let is_start = next.is_ascii_alphabetic() || next == '_';
        let word = if is_start { word_at(&code[at..]) } else { "" };
        if word == "use" {
            let end = code[at..].find(';').map_or(code.len(), |end| at + end);
            let tree: String = code[at + 3..end].split_whitespace().collect::<Vec<_>>().join(" ");
            expand("", &tree, &mut |path| paths.push((line, path)));
            line += code[at..end].matches('\n').count();
            at = end;
            before = ';';
        } else if is_start {
            let mut path = word.to_owned();
            let mut end = at + word.len();
            while let Some(rest) = code[end..].strip_prefix("::") {
                let name = word_at(rest);
                if name.is_empty() {
                    break;
                }
                write!(path, "::{name}").unwrap();
                end += 2 + name.len();
            }
            if path.contains("::") && before != '.' {
                paths.push((line, path));
            }
            at = end;
            before = 'a';
        } else {
            line += usize::from(next == '\n');
            if !next.is_whitespace() {
                before = next;
            }
            at += next.len_utf8();
        }
    }
    paths
}

fn word_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Each path of a `use` tree.
fn expand(prefix: &str, tree: &str, found: &mut impl FnMut(String)) {
    let tree = tree.trim().trim_start_matches("::");
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        let path = path.trim_end_matches("::*").trim_end_matches("::self");
        let path = if path == "self" { "" } else { path };
        return found(format!("{prefix}{path}").trim_end_matches("::").to_owned());
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inside[start..at].trim().is_empty() {
                    expand(&prefix, &inside[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Comments and string literals turned into spaces, lines kept.
fn without_comments_and_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(text) = rest.strip_prefix("r#\"") {
            text.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if next == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") {
            3
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[skipped..];
    }
    code
}
