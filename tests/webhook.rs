//! A pod that asks to be protected comes up protected, or not at all: the webhook's mutation on files, on forgeries and on
//! random pods. `tests/webhook/` asks the same over HTTPS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use proptest::sample::Index;
use refrain::webhook::audit::audit;
use refrain::webhook::mutation::{Outcome, mutate};
use refrain::webhook::settings::{self, Settings};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pods")
}

/// A pod from a file, with the settings that the file asks for.
struct Case {
    name: String,
    text: String,
    pod: Value,
    settings: Settings,
}

impl Case {
    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let pod = yaml(&text);
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let mut table: toml::Table =
            std::fs::read_to_string(folder().join("settings.toml")).unwrap().parse().unwrap();
        for setting in text.lines().filter_map(|line| line.strip_prefix("# setting: ")) {
            merge(&mut table, setting.parse().unwrap());
        }
        let settings =
            settings::read(&table.to_string()).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
        Self { name, text, pod, settings }
    }

    fn patched(&self) -> Value {
        let Outcome::Patch { patch, .. } = mutate(&self.pod, &self.settings) else {
            panic!("{}: {:?}", self.name, mutate(&self.pod, &self.settings))
        };
        let mut pod = self.pod.clone();
        json_patch::patch(&mut pod, &patch).unwrap();
        pod
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn cases(folder: &Path) -> Vec<Case> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| {
        let name = file.file_name().unwrap().to_string_lossy();
        name.ends_with(".yaml") && !name.ends_with(".patched.yaml")
    });
    files.sort();
    files.iter().map(|file| Case::read(file)).collect()
}

fn protected() -> Vec<Case> {
    let cases = cases(&folder());
    assert!(cases.len() > 20, "the fixtures are there");
    cases
}

fn writes() -> bool {
    std::env::var_os("REFRAIN_WRITE_FIXTURES").is_some()
}

#[test]
fn every_pod_comes_out_as_its_file_says() {
    for case in protected() {
        let patched = case.patched();
        let file = folder().join(format!("{}.patched.yaml", case.name));
        if writes() {
            std::fs::write(&file, serde_saphyr::to_string(&patched).unwrap()).unwrap();
        }
        let expected = yaml(&std::fs::read_to_string(&file).unwrap());
        assert_eq!(patched, expected, "{}", case.name);
    }
}

#[test]
fn every_refusal_says_what_its_file_says() {
    for case in cases(&folder().join("refused")) {
        let Outcome::Refuse(refusal) = mutate(&case.pod, &case.settings) else {
            panic!("{} came up", case.name)
        };
        let file = folder().join(format!("refused/{}.txt", case.name));
        if writes() {
            std::fs::write(&file, format!("{refusal}\n")).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap();
        assert_eq!(refusal.to_string(), expected.trim_end(), "{}", case.name);
    }
}

#[test]
fn a_second_pass_changes_nothing() {
    for case in protected() {
        let patched = case.patched();
        assert_eq!(mutate(&patched, &case.settings), Outcome::Unchanged, "{}", case.name);
        let stored = with_defaults(&patched);
        assert_eq!(
            mutate(&stored, &case.settings),
            Outcome::Unchanged,
            "{}, with the API server's defaults",
            case.name
        );
    }
}

/// What the API server fills in before the second pass.
fn with_defaults(pod: &Value) -> Value {
    let mut pod = pod.clone();
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            container["terminationMessagePath"] = json!("/dev/termination-log");
            container["terminationMessagePolicy"] = json!("File");
            for variable in container["env"].as_array_mut().into_iter().flatten() {
                if variable["valueFrom"]["fieldRef"].is_object() {
                    variable["valueFrom"]["fieldRef"]["apiVersion"] = json!("v1");
                }
                if variable["value"] == "" {
                    variable.as_object_mut().unwrap().remove("value");
                }
            }
            for port in container["ports"].as_array_mut().into_iter().flatten() {
                port["protocol"] = json!("TCP");
            }
            // A service account's token is mounted into every container.
            let mounts = container.as_object_mut().unwrap().entry("volumeMounts").or_insert(json!([]));
            let token = "/var/run/secrets/kubernetes.io/serviceaccount";
            mounts
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "kube-api-access", "mountPath": token, "readOnly": true}));
        }
    }
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        if volume["configMap"].is_object() {
            volume["configMap"]["defaultMode"] = json!(420);
        }
    }
    pod
}

#[test]
fn every_patched_pod_is_one_by_kubernetes_own_types() {
    for case in protected().iter().filter(|case| !case.text.contains("# unknown to others: yes")) {
        let patched = case.patched();
        let typed: Pod = serde_json::from_value(patched.clone()).unwrap();
        // Nothing in it is unknown to those types, so nothing of ours is misspelt.
        assert_eq!(without_nulls(json!(typed)), without_nulls(patched), "{}", case.name);
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            // A quantity may be written as a number.
            kept.map(|(key, value)| (key, without_nulls(value))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[test]
fn what_is_patched_has_nothing_to_be_found_by_an_audit() {
    for case in protected() {
        let found = audit(&case.patched(), None).unwrap();
        assert_eq!((found.asked, found.open), (1, vec![]), "{}", case.name);
        let found = audit(&case.pod, None).unwrap();
        assert!(
            found.open[0].findings.contains(&"has no sidecar".to_owned()),
            "{}: {:?}",
            case.name,
            found.open
        );
    }
}

#[test]
fn a_pod_that_wants_none_is_left_alone() {
    let settings = Case::read(&folder().join("triton.yaml")).settings;
    for case in protected().iter().chain(&cases(&folder().join("refused"))) {
        let mut pod = case.pod.clone();
        pod["metadata"]["labels"]["refrain.dev/inject"] = json!("false");
        assert_eq!(mutate(&pod, &settings), Outcome::Unchanged, "{}", case.name);
    }
    let mut pod = Case::read(&folder().join("triton.yaml")).pod;
    pod["metadata"]["labels"]["refrain.dev/inject"] = json!("yes");
    let Outcome::Refuse(refusal) = mutate(&pod, &settings) else { panic!("a label that says nothing") };
    assert_eq!(
        refusal.to_string(),
        "label refrain.dev/inject: expected \"true\" or \"false\", found \"yes\""
    );
    // By a namespace's label a pod comes without one of its own.
    pod["metadata"]["labels"] = json!({});
    assert!(matches!(mutate(&pod, &settings), Outcome::Patch { .. }));
}

/// One change of a patched pod, and what is said of it.
type Forgery = (&'static str, fn(&mut Value), &'static str);

fn sidecar(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["initContainers"][0]
}

fn model(pod: &mut Value) -> &mut Value {
    &mut pod["spec"]["containers"][0]
}

fn variable<'a>(container: &'a mut Value, name: &str) -> &'a mut Value {
    container["env"].as_array_mut().unwrap().iter_mut().find(|variable| variable["name"] == name).unwrap()
}

const FORGERIES: &[Forgery] = &[
    ("another image", |pod| sidecar(pod)["image"] = json!("evil:1"), "its image is \"evil:1\""),
    ("another command", |pod| sidecar(pod)["command"] = json!(["/bin/forward"]), "a command of its own"),
    (
        "other words",
        |pod| sidecar(pod)["args"] = json!(["proxy", "--upstream=http://127.0.0.1:1"]),
        "its args is",
    ),
    (
        "it ends",
        |pod| drop(sidecar(pod).as_object_mut().unwrap().remove("restartPolicy")),
        "its restartPolicy is null",
    ),
    ("root", |pod| sidecar(pod)["securityContext"]["runAsUser"] = json!(0), "its securityContext is"),
    (
        "another port",
        |pod| variable(sidecar(pod), "REFRAIN_LISTEN")["value"] = json!("0.0.0.0:1"),
        "variable REFRAIN_LISTEN",
    ),
    (
        "off",
        |pod| {
            sidecar(pod)["env"].as_array_mut().unwrap().push(json!({"name": "REFRAIN_MODE", "value": "off"}));
        },
        "variable REFRAIN_MODE",
    ),
    (
        "said twice",
        |pod| {
            sidecar(pod)["env"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "REFRAIN_LISTEN", "value": "0.0.0.0:8001"}));
        },
        "variable REFRAIN_LISTEN",
    ),
    (
        "a variable less",
        |pod| drop(sidecar(pod)["env"].as_array_mut().unwrap().remove(0)),
        "variable POD_IP is missing",
    ),
    (
        "hidden settings",
        |pod| sidecar(pod)["envFrom"] = json!([{"configMapRef": {"name": "x"}}]),
        "it has an envFrom",
    ),
    (
        "another program",
        |pod| {
            sidecar(pod)["volumeMounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "x", "mountPath": "/refrain"}));
        },
        "mounted over what is its own",
    ),
    (
        "another root",
        |pod| {
            sidecar(pod)["volumeMounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "x", "mountPath": "//"}));
        },
        "mounted over what is its own",
    ),
    (
        "another configuration",
        |pod| pod["spec"]["volumes"][0]["configMap"]["name"] = json!("mine"),
        "does not have the volume {\"configMap\":{\"name\":\"refrain-proxy-config\"",
    ),
    ("no mount", |pod| sidecar(pod)["volumeMounts"] = json!([]), "it does not mount"),
    (
        "no word of what was done",
        |pod| pod["metadata"]["annotations"] = json!({"refrain.dev/rest": "block"}),
        "does not say what was done",
    ),
    (
        "words of nothing",
        |pod| pod["metadata"]["annotations"]["refrain.dev/status"] = json!("{}"),
        "cannot be read",
    ),
    (
        "open again",
        |pod| model(pod)["args"].as_array_mut().unwrap().push(json!("--grpc-address=0.0.0.0")),
        "gRPC port 9001 is open",
    ),
    (
        "REST open again",
        |pod| model(pod)["args"].as_array_mut().unwrap().push(json!("--http-address=::")),
        "REST port 9000 is open",
    ),
    (
        "one more listener",
        |pod| model(pod)["args"].as_array_mut().unwrap().push(json!("--allow-sagemaker=true")),
        "opens a listener for SageMaker",
    ),
    ("its environment", |pod| model(pod)["env"] = json!([]), "environment is not as Refrain sets it"),
    (
        "declared again",
        |pod| model(pod)["ports"] = json!([{"containerPort": 8000}]),
        "still declares port 8000",
    ),
    (
        "a container more",
        |pod| {
            pod["spec"]["containers"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "x", "image": "x", "ports": [{"containerPort": 8001}]}));
        },
        "declares port 8001 as well",
    ),
    (
        "a second server",
        |pod| {
            pod["spec"]["containers"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "x", "image": "x", "args": ["tritonserver"]}));
        },
        "both look like model servers",
    ),
    ("the node's network", |pod| pod["spec"]["hostNetwork"] = json!(true), "hostNetwork"),
    (
        "a plain container",
        |pod| {
            let sidecar = pod["spec"]["initContainers"].as_array_mut().unwrap().remove(0);
            pod["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
        },
        "it is not an init container",
    ),
    (
        "two of them",
        |pod| {
            let sidecar = sidecar(pod).clone();
            pod["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
        },
        "there are two of them",
    ),
];

#[test]
fn a_pod_that_only_looks_protected_is_refused() {
    let case = Case::read(&folder().join("triton.yaml"));
    for (name, forge, sentence) in FORGERIES {
        let mut pod = case.patched();
        forge(&mut pod);
        let Outcome::Refuse(refusal) = mutate(&pod, &case.settings) else { panic!("{name} came up") };
        assert!(refusal.to_string().contains(sentence), "{name}: {refusal}");
    }
}

#[test]
fn a_socket_that_others_could_reach_is_refused() {
    let case = Case::read(&folder().join("tfserving.yaml"));
    let mut pod = case.patched();
    let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
    let volume = volumes.iter_mut().find(|volume| volume["name"] == "refrain-upstream").unwrap();
    *volume = json!({"name": "refrain-upstream", "hostPath": {"path": "/tmp"}});
    let Outcome::Refuse(refusal) = mutate(&pod, &case.settings) else {
        panic!("a socket on the node came up")
    };
    assert!(refusal.to_string().contains("does not have the volume"), "{refusal}");
}

#[test]
fn an_audit_finds_what_was_opened_since() {
    let case = Case::read(&folder().join("triton.yaml"));
    for (name, sentence) in [
        ("open again", "container triton: gRPC port 9001 is open to the network"),
        ("REST open again", "container triton: REST port 9000 is open to the network"),
        ("declared again", "container triton declares port 8000, which should be closed"),
        ("another port", "the sidecar does not listen on port 8001"),
        ("the node's network", "hostNetwork"),
    ] {
        let (_, forge, _) = FORGERIES.iter().find(|forgery| forgery.0 == name).unwrap();
        let mut pod = case.patched();
        forge(&mut pod);
        let found = audit(&json!({"kind": "List", "items": [pod]}), None).unwrap();
        assert!(found.open[0].findings.iter().any(|finding| finding.contains(sentence)), "{name}: {found:?}");
    }
}

#[test]
fn an_audit_knows_which_namespaces_ask_for_all_of_their_pods() {
    let mut pod = Case::read(&folder().join("triton.yaml")).pod;
    pod["metadata"]["labels"] = json!({});
    let namespaces = json!({"kind": "List", "items": [
        {"kind": "Namespace", "metadata": {"name": "vision", "labels": {"refrain.dev/injection": "enabled"}}},
    ]});
    assert_eq!(audit(&pod, None).unwrap().asked, 0);
    assert_eq!(audit(&pod, Some(&namespaces)).unwrap().open.len(), 1);
    pod["metadata"]["labels"]["refrain.dev/inject"] = json!("false");
    assert_eq!(audit(&pod, Some(&namespaces)).unwrap().asked, 0);
    assert!(audit(&json!({"kind": "Service"}), None).is_err());
}

/// Where a Triton with these words listens, read as `getopt_long` would: the last of each flag counts.
fn listens(words: &[String]) -> BTreeMap<&'static str, (String, u16)> {
    let mut flags = BTreeMap::new();
    let mut words = words.iter().skip_while(|word| !word.ends_with("tritonserver")).skip(1);
    while let Some(word) = words.next() {
        let name = word.strip_prefix("--").unwrap();
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (name, words.next().unwrap().clone()),
        };
        flags.insert(name.to_owned(), value);
    }
    let mut found = BTreeMap::new();
    for (what, allow, port) in
        [("grpc", "allow-grpc", 8001), ("http", "allow-http", 8000), ("metrics", "allow-metrics", 8002)]
    {
        if flags.get(allow).is_some_and(|value| ["false", "0"].contains(&value.as_str())) {
            continue;
        }
        let by = if what == "metrics" && !flags.contains_key("metrics-address") { "http" } else { what };
        let address = flags.get(&format!("{by}-address")).cloned().unwrap_or_else(|| "0.0.0.0".to_owned());
        let port = flags.get(&format!("{what}-port")).map_or(port, |port| port.parse().unwrap());
        found.insert(what, (address, port));
    }
    found
}

/// What must be true of every Triton pod that comes up.
fn is_closed(before: &Value, after: &Value) -> Result<(), TestCaseError> {
    let words = |pod: &Value| -> Vec<String> {
        let container = &pod["spec"]["containers"][0];
        let lists = ["command", "args"].map(|key| container[key].as_array().cloned().unwrap_or_default());
        lists.concat().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let (was, is) = (listens(&words(before)), listens(&words(after)));
    let old: Vec<u16> = was.values().map(|(_, port)| *port).collect();
    for (what, (address, port)) in &is {
        prop_assert_eq!(address, "127.0.0.1", "{} of {:?}", what, words(after));
        prop_assert!(!old.contains(port), "{what} is still on {port}");
    }
    let serving = was["grpc"].1;
    let init = &after["spec"]["initContainers"][0];
    let listen =
        init["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "REFRAIN_LISTEN").unwrap();
    prop_assert_eq!(&listen["value"], &json!(format!("0.0.0.0:{serving}")));
    for container in after["spec"]["containers"].as_array().unwrap() {
        for port in container["ports"].as_array().into_iter().flatten() {
            let number = port["containerPort"].as_u64().unwrap() as u16;
            prop_assert!(!old.contains(&number), "{} declares {}", container["name"], number);
        }
    }
    for port in before["spec"]["containers"][0]["ports"].as_array().into_iter().flatten() {
        let is_serving = port["containerPort"] == serving;
        let is_taken = init["ports"].as_array().unwrap().contains(port);
        prop_assert_eq!(is_taken, is_serving, "{}", port);
    }
    Ok(())
}

fn flag() -> impl Strategy<Value = Vec<String>> {
    let port = prop_oneof![Just("grpc-port"), Just("http-port"), Just("metrics-port")];
    let address = prop_oneof![Just("grpc-address"), Just("http-address"), Just("metrics-address")];
    let switch = prop_oneof![Just("allow-http"), Just("allow-metrics"), Just("allow-grpc")];
    let named = prop_oneof![
        3 => (port, prop_oneof![Just(8000), Just(8001), Just(8002), Just(9000), Just(9001), 1024_u16..]).prop_map(|(name, port)| (name, port.to_string())),
        2 => (address, prop_oneof![Just("0.0.0.0"), Just("127.0.0.1"), Just("::")]).prop_map(|(name, address)| (name, address.to_owned())),
        1 => (switch, prop_oneof![Just("true"), Just("false"), Just("0")]).prop_map(|(name, value)| (name, value.to_owned())),
        1 => Just(("model-repository", "/models".to_owned())),
    ];
    (named, any::<bool>()).prop_map(|((name, value), two_words)| {
        if two_words { vec![format!("--{name}"), value] } else { vec![format!("--{name}={value}")] }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_declared_port_of_the_model_server_stays_reachable(
        flags in prop::collection::vec(flag(), 0..8),
        in_command in any::<bool>(),
        declared in prop::collection::btree_set(prop_oneof![Just(8000_u16), Just(8001), Just(8002), Just(9000), 1024_u16..], 0..4),
        other in prop::option::of(prop_oneof![Just(9001_u16), Just(10001), 1024_u16..]),
    ) {
        let mut case = Case::read(&folder().join("triton.yaml"));
        let words: Vec<String> = std::iter::once("tritonserver".to_owned()).chain(flags.concat()).collect();
        let ports: Vec<Value> = declared.iter().map(|port| json!({"containerPort": port, "name": format!("p{port}")})).collect();
        let key = if in_command { "command" } else { "args" };
        case.pod["spec"]["containers"] = json!([{"name": "triton", "image": "x", key: words, "ports": ports}]);
        if let Some(port) = other {
            let other = json!({"name": "other", "image": "y", "ports": [{"containerPort": port}]});
            case.pod["spec"]["containers"].as_array_mut().unwrap().push(other);
        }
        let Outcome::Patch { patch, .. } = mutate(&case.pod, &case.settings) else { return Ok(()) };
        let mut after = case.pod.clone();
        json_patch::patch(&mut after, &patch).unwrap();
        is_closed(&case.pod, &after)?;
        prop_assert_eq!(mutate(&after, &case.settings), Outcome::Unchanged);
        // What is free must be free of others too.
        if let Some(port) = other {
            let moved = listens(&after["spec"]["containers"][0][key].as_array().unwrap().iter()
                .chain(after["spec"]["containers"][0]["args"].as_array().filter(|_| in_command).into_iter().flatten())
                .map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>());
            prop_assert!(moved.values().all(|(_, moved)| *moved != port));
        }
    }

    #[test]
    fn whatever_is_torn_out_of_a_pod_nothing_panics_and_nothing_half_protected_comes_up(
        which in any::<Index>(),
        at in any::<Index>(),
        with in prop_oneof![Just(Value::Null), Just(json!({})), Just(json!([])), Just(json!("x")), Just(json!(7)), Just(json!("8001"))],
        already in any::<bool>(),
    ) {
        let cases = protected();
        let case = which.get(cases.as_slice());
        let mut pod = if already { case.patched() } else { case.pod.clone() };
        let places = places(&pod, "");
        let place: &String = at.get(places.as_slice());
        *pod.pointer_mut(place).unwrap() = with;
        match mutate(&pod, &case.settings) {
            Outcome::Refuse(refusal) => prop_assert!(!refusal.to_string().is_empty()),
            Outcome::Unchanged => {}
            Outcome::Patch { patch, .. } => {
                let mut after = pod.clone();
                json_patch::patch(&mut after, &patch).unwrap();
                prop_assert_eq!(audit(&json!({"kind": "List", "items": [after]}), None).unwrap().open, vec![]);
            }
        }
    }
}

/// Every place in a value.
fn places(value: &Value, here: &str) -> Vec<String> {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let below = match value {
        Value::Object(map) => map.iter().map(|(key, value)| (escaped(key), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let mut all: Vec<String> =
        below.into_iter().flat_map(|(key, value)| places(value, &format!("{here}/{key}"))).collect();
    if !here.is_empty() {
        all.push(here.to_owned());
    }
    all
}
