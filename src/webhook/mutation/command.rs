//! A model server's command line, word for word: which flags it has, and how they are changed in place.
//!
//! Whatever the server could read otherwise than we do is refused: shells, launchers that we do not know, words that only
//! the kubelet can fill in, abbreviated flags.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};

use super::refusal::Refusal;

/// Programs that start another one and leave its words alone.
const LAUNCHERS: [&str; 6] = ["nvidia_entrypoint.sh", "tini", "dumb-init", "catatonit", "nice", "numactl"];

pub(super) const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"];

/// How a server reads its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grammar {
    pub(super) program: &'static str,
    /// Whether `--flag value` is one flag.
    pub(super) two_words: bool,
    /// Whether a flag may be cut short, as `getopt_long` allows.
    pub(super) abbreviates: bool,
    /// Flags that never take a value.
    pub(super) bare: &'static [&'static str],
    /// Flags that decide where the server listens: these must be seen.
    pub(super) guarded: &'static [&'static str],
    /// Whether the image's own program gets the words where the pod names neither command nor arguments.
    pub(super) takes_words_alone: bool,
}

/// A flag as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flag {
    name: String,
    /// Nothing where only the kubelet knows it.
    value: Option<String>,
    /// Where the flag stands among all words.
    at: usize,
    /// Where its value stands, if that is a word of its own.
    value_at: Option<usize>,
}

/// A model server's command line.
#[derive(Clone, Debug)]
pub(super) struct CommandLine {
    command: Vec<String>,
    args: Vec<String>,
    flags: Vec<Flag>,
    container: String,
}

impl CommandLine {
    /// Reads what `container` starts.
    pub(super) fn read(container: &Container, grammar: &Grammar) -> Result<Self, Refusal> {
        let mut line = Self {
            command: container.command.clone().unwrap_or_default(),
            args: container.args.clone().unwrap_or_default(),
            flags: Vec::new(),
            container: container.name.clone(),
        };
        let environment = Environment::of(container);
        let words: Vec<Word> =
            line.command.iter().chain(&line.args).map(|word| environment.fill(word)).collect();
        let first = line.first_flag(&words, grammar)?;
        line.flags = line.parse(&words, first, grammar)?;
        Ok(line)
    }

    /// No words at all.
    pub(super) fn none() -> Self {
        Self { command: Vec::new(), args: Vec::new(), flags: Vec::new(), container: String::new() }
    }

    /// Where the flags begin.
    fn first_flag(&self, words: &[Word], grammar: &Grammar) -> Result<usize, Refusal> {
        let name = &self.container;
        let program = grammar.program;
        // A flag's value may end like the program's path.
        let is_program = |word: &str| !word.starts_with('-') && base(word) == program;
        let Some(first) = words.first() else {
            if grammar.takes_words_alone {
                return Ok(0);
            }
            return Err(Refusal::new(format!(
                "container {name} names neither command nor args, so its flags are the image's and cannot be seen; write them out: \
                 args: [{program}, --flag=value, ...]"
            )));
        };
        let Some(start) = words.iter().position(|word| word.known().is_some_and(is_program)) else {
            let is_flag = first.known().is_some_and(|word| word.starts_with("--"));
            if self.command.is_empty() && is_flag {
                return Ok(0);
            }
            return Err(self.starts_otherwise(first, program));
        };
        for (at, word) in words[..start].iter().enumerate() {
            let Some(text) = word.known() else { return Err(self.starts_otherwise(word, program)) };
            let is_launcher = LAUNCHERS.contains(&base(text));
            let is_option =
                at > 0 && (text.starts_with('-') || text.bytes().all(|byte| byte.is_ascii_digit()));
            if !is_launcher && !is_option {
                return Err(self.starts_otherwise(word, program));
            }
        }
        Ok(start + 1)
    }

    fn starts_otherwise(&self, word: &Word, program: &str) -> Refusal {
        let name = &self.container;
        let is_shell = word.known().is_some_and(|word| SHELLS.contains(&base(word)));
        let text = word.written();
        Refusal::new(if is_shell {
            format!(
                "container {name} starts {program} through a shell ({text}), whose words Refrain cannot change safely; write \
                 command: [{program}] and args: [--flag=value, ...] without a shell"
            )
        } else {
            format!(
                "container {name} starts {text:?}, which Refrain cannot see through; write command: [{program}] and \
                 args: [--flag=value, ...]"
            )
        })
    }

    fn parse(&self, words: &[Word], first: usize, grammar: &Grammar) -> Result<Vec<Flag>, Refusal> {
        let name = &self.container;
        let mut flags = Vec::new();
        let mut at = first;
        while let Some(word) = words.get(at) {
            // What stands before the first variable is written there for certain.
            let (seen, is_whole) = (word.seen(), word.known().is_some());
            let text = word.written();
            let Some(flag) = seen.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
                return Err(Refusal::new(if is_whole {
                    format!(
                        "container {name}: expected flags after {}, found {text:?}; write --flag=value",
                        grammar.program
                    )
                } else {
                    format!(
                        "container {name}: {text:?} may hold a flag, and what it holds is not in the container's own env; write the \
                         flag out"
                    )
                }));
            };
            let (flag_name, value) = match flag.split_once('=') {
                Some((flag_name, value)) => (flag_name, Some(value)),
                None if is_whole => (flag, None),
                None => {
                    return Err(Refusal::new(format!(
                        "container {name}: the name of the flag {text:?} is not in the container's own env; write it out"
                    )));
                }
            };
            if grammar.abbreviates
                && !grammar.guarded.contains(&flag_name)
                && let Some(full) = grammar.guarded.iter().find(|full| full.starts_with(flag_name))
            {
                return Err(Refusal::new(format!(
                    "container {name}: --{flag_name} may be short for --{full}; write the flag's name in full"
                )));
            }
            let mut found = Flag { name: flag_name.to_owned(), value: None, at, value_at: None };
            if let Some(value) = value {
                found.value = is_whole.then(|| value.to_owned());
            } else if grammar.two_words && !grammar.bare.contains(&flag_name) {
                at += 1;
                let Some(next) = words.get(at) else {
                    return Err(Refusal::new(format!(
                        "container {name}: --{flag_name} is the last word and has no value; write --{flag_name}=value"
                    )));
                };
                // Of a flag that takes no value the next word is a flag, or may be filled in to be one.
                if next.known().is_none_or(|next| next.starts_with("--")) {
                    return Err(Refusal::new(format!(
                        "container {name}: --{flag_name} may take {:?} for its value; write --{flag_name}=value",
                        next.written()
                    )));
                }
                (found.value, found.value_at) = (next.known().map(str::to_owned), Some(at));
            } else {
                found.value = Some("true".to_owned());
            }
            flags.push(found);
            at += 1;
        }
        Ok(flags)
    }

    /// The value of a flag, the last one where it stands there more than once; refused where only the kubelet knows it.
    pub(super) fn value(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let Some(flag) = self.flags.iter().rev().find(|flag| flag.name == name) else { return Ok(None) };
        let written = self.word(flag.value_at.unwrap_or(flag.at));
        flag.value.as_deref().map(Some).ok_or_else(|| {
            Refusal::new(format!(
                "container {}: the value of --{name} ({written}) is not in the container's own env; write it out",
                self.container
            ))
        })
    }

    /// A port that a flag names, or `default`.
    pub(super) fn port(&self, name: &str, default: u16) -> Result<u16, Refusal> {
        let Some(value) = self.value(name)? else { return Ok(default) };
        // Servers take "8001x" and "0x1f41" for numbers of their own; we take plain ones alone.
        let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
        value.parse().ok().filter(|_| is_plain).ok_or_else(|| {
            Refusal::new(format!("container {}: --{name}: expected a port, found {value:?}", self.container))
        })
    }

    /// A flag that is on or off.
    pub(super) fn switch(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        let Some(value) = self.value(name)? else { return Ok(default) };
        match value.to_lowercase().as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(Refusal::new(format!(
                "container {}: --{name}: expected true or false, found {value:?}",
                self.container
            ))),
        }
    }

    /// Sets a flag wherever it stands, or adds it.
    pub(super) fn set(&mut self, name: &str, value: impl std::fmt::Display) {
        let value = value.to_string();
        let mut is_there = false;
        let (command, args) = (&mut self.command, &mut self.args);
        for flag in self.flags.iter_mut().filter(|flag| flag.name == name) {
            is_there = true;
            let at = flag.value_at.unwrap_or(flag.at);
            let before = command.len();
            let word = if at < before { &mut command[at] } else { &mut args[at - before] };
            *word = if flag.value_at.is_some() { value.clone() } else { format!("--{name}={value}") };
            flag.value = Some(value.clone());
        }
        if !is_there {
            self.args.push(format!("--{name}={value}"));
            let at = self.command.len() + self.args.len() - 1;
            self.flags.push(Flag { name: name.to_owned(), value: Some(value), at, value_at: None });
        }
    }

    /// Puts the words into a container.
    pub(super) fn write(&self, container: &mut Value) {
        for (key, words) in [("command", &self.command), ("args", &self.args)] {
            if !words.is_empty() {
                container[key] = json!(words);
            }
        }
    }

    fn word(&self, at: usize) -> &str {
        let before = self.command.len();
        if at < before { &self.command[at] } else { &self.args[at - before] }
    }
}

/// The last part of a path.
pub(super) fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// A word as the program gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Known(String),
    /// Only the kubelet can fill it in: as it is written, and what stands before the first such variable.
    Hidden {
        written: String,
        seen: String,
    },
}

impl Word {
    fn known(&self) -> Option<&str> {
        match self {
            Self::Known(text) => Some(text),
            Self::Hidden { .. } => None,
        }
    }

    fn written(&self) -> &str {
        match self {
            Self::Known(text) | Self::Hidden { written: text, .. } => text,
        }
    }

    fn seen(&self) -> &str {
        match self {
            Self::Known(text) | Self::Hidden { seen: text, .. } => text,
        }
    }
}

/// What a container's own `env` says in plain text.
pub(super) struct Environment {
    /// Nothing where the value comes from elsewhere.
    values: BTreeMap<String, Option<String>>,
}

impl Environment {
    pub(super) fn of(container: &Container) -> Self {
        let plain = |text: &String| !text.contains("$(") && !text.contains("$$");
        let values = container.env.iter().flatten().map(|variable| {
            let value = match (&variable.value, &variable.value_from) {
                (value, None) => Some(value.clone().unwrap_or_default()).filter(plain),
                (_, Some(_)) => None,
            };
            (variable.name.clone(), value)
        });
        // The last of two variables of one name counts.
        Self { values: values.collect() }
    }

    /// Whether the container's own `env` has a variable, which wins over what an image or an `envFrom` says.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether the container's own `env` has a variable that is, or may be, `value`.
    pub(super) fn may_be(&self, name: &str, value: &str) -> bool {
        self.values.get(name).is_some_and(|found| found.as_deref().is_none_or(|found| found == value))
    }

    /// Fills in `$(VAR)` as the kubelet does; `$$` stands for `$`.
    fn fill(&self, word: &str) -> Word {
        let mut filled = String::new();
        let mut rest = word;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            let tail = &rest[at + 1..];
            if let Some(after) = tail.strip_prefix('$') {
                filled.push('$');
                rest = after;
            } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
                let Some(Some(value)) = self.values.get(name) else {
                    return Word::Hidden { written: word.to_owned(), seen: filled };
                };
                filled.push_str(value);
                rest = after;
            } else {
                filled.push('$');
                rest = tail;
            }
        }
        filled.push_str(rest);
        Word::Known(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAMMAR: Grammar = Grammar {
        program: "server",
        two_words: true,
        abbreviates: true,
        bare: &["help"],
        guarded: &["grpc-port", "grpc-address"],
        takes_words_alone: false,
    };

    fn read(command: &[&str], args: &[&str], env: &[(&str, &str)]) -> Result<CommandLine, Refusal> {
        let container = json!({
            "name": "model",
            "command": command,
            "args": args,
            "env": env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>(),
        });
        CommandLine::read(&serde_json::from_value(container).unwrap(), &GRAMMAR)
    }

    #[test]
    fn flags_are_changed_where_they_stand_and_the_last_counts() {
        let mut line = read(
            &["/usr/bin/server", "--grpc-port=1"],
            &["--help", "--model", "x", "--grpc-port", "2", "--y=$(Z)"],
            &[],
        )
        .unwrap();
        assert_eq!(line.port("grpc-port", 9).unwrap(), 2);
        line.set("grpc-port", 7);
        line.set("grpc-address", "127.0.0.1");
        assert_eq!(line.command, ["/usr/bin/server", "--grpc-port=7"]);
        assert_eq!(
            line.args,
            ["--help", "--model", "x", "--grpc-port", "7", "--y=$(Z)", "--grpc-address=127.0.0.1"]
        );
        let again = line.clone().args;
        line.set("grpc-address", "127.0.0.1");
        assert_eq!(line.args, again, "a flag that was added is known from then on");
    }

    #[test]
    fn variables_are_filled_in_as_the_kubelet_does() {
        let env = [("P", "8001"), ("P", "8002"), ("NESTED", "$(P)")];
        assert_eq!(
            read(&["server"], &["--grpc-port=$(P)"], &env).unwrap().port("grpc-port", 0).unwrap(),
            8002
        );
        let dollar = read(&["server"], &["--m=$$(P)", "--n=a$b"], &env).unwrap();
        assert_eq!(dollar.value("m").unwrap(), Some("$(P)"));
        assert_eq!(dollar.value("n").unwrap(), Some("a$b"));
        let nested = read(&["server"], &["--grpc-port=$(NESTED)"], &env).unwrap().port("grpc-port", 0);
        assert!(
            nested.unwrap_err().to_string().contains("(--grpc-port=$(NESTED))"),
            "what needs two steps is not guessed"
        );
    }

    #[test]
    fn what_may_be_read_otherwise_is_refused() {
        for (command, args, sentence) in [
            (&["sh", "-c"][..], &["server --x=1"][..], "through a shell (sh)"),
            (&["python3"], &["serve.py"], "starts \"python3\""),
            (&["env", "A=B", "server"], &[], "starts \"env\""),
            (&["tini", "--", "bash", "server"], &[], "through a shell (bash)"),
            (&[], &[], "names neither command nor args"),
            (&["server"], &["--grpc-po=1"], "may be short for --grpc-port"),
            (&["server"], &["$(MORE)"], "may hold a flag"),
            (&["server"], &["--$(NAME)=1"], "may hold a flag"),
            (&["server"], &["--gr$(NAME)=1"], "the name of the flag"),
            (&["server"], &["--log-file", "--grpc-port=1"], "may take \"--grpc-port=1\" for its value"),
            (&["server"], &["--log-file", "$(MORE)"], "may take \"$(MORE)\" for its value"),
            (&["server"], &["--", "--grpc-port=1"], "found \"--\""),
            (&["server"], &["stray"], "found \"stray\""),
            (&["server"], &["--model"], "has no value"),
        ] {
            let refusal = read(command, args, &[]).unwrap_err().to_string();
            assert!(refusal.contains(sentence), "{sentence} in {refusal}");
        }
        assert!(read(&[], &["--model=/opt/server"], &[]).is_ok(), "a flag is no program");
        for launched in [
            &["tini", "--", "server"][..],
            &["nice", "-n", "10", "server"],
            &["/opt/nvidia/nvidia_entrypoint.sh", "server"],
        ] {
            assert!(read(launched, &[], &[]).is_ok(), "{launched:?}");
        }
    }

    #[test]
    fn ports_are_plain_numbers() {
        for odd in ["8001x", "0x1f41", " 8001", "+8001", "65536", ""] {
            assert!(
                read(&["server"], &[&format!("--grpc-port={odd}")], &[])
                    .unwrap()
                    .port("grpc-port", 1)
                    .is_err(),
                "{odd:?}"
            );
        }
    }
}
