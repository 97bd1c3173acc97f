//! Which container is the model server, and of which kind.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::command::{SHELLS, base};
use super::refusal::Refusal;
use super::wishes::Wishes;
use super::{PREFIX, SIDECAR, containers, is_native_sidecar};

/// A model server that we know how to stand in front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Triton,
    TfServing,
}

impl Kind {
    /// As the annotation names it.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "triton" => Some(Self::Triton),
            "tfserving" => Some(Self::TfServing),
            _ => None,
        }
    }

    /// The server's program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Triton => "tritonserver",
            Self::TfServing => "tensorflow_model_server",
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Triton => "triton",
            Self::TfServing => "tfserving",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Triton => Self::TfServing,
            Self::TfServing => Self::Triton,
        }
    }

    /// Whether a word starts it: its program, or the script that its image starts it by.
    fn is_started_by(self, word: &str) -> bool {
        let program = base(word);
        !word.starts_with('-')
            && (program == self.program() || self == Self::TfServing && program == "tf_serving_entrypoint.sh")
    }

    /// Flags that only it has, of those that nobody leaves out.
    fn own_flags(self) -> &'static [&'static str] {
        match self {
            Self::Triton => &["model-repository", "model-store", "grpc-port", "http-port"],
            Self::TfServing => &[
                "model_base_path",
                "model_config_file",
                "model_name",
                "rest_api_port",
                "grpc_socket_path",
                "platform_config_file",
            ],
        }
    }
}

const KINDS: [Kind; 2] = [Kind::Triton, Kind::TfServing];

/// The model server among the pod's containers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server<'a> {
    pub(super) index: usize,
    pub(super) container: &'a Container,
    pub(super) kind: Kind,
}

/// The pod's one model server. Two of them are refused even where one is named: the other would be open.
pub(super) fn find<'a>(pod: &'a Pod, wishes: &Wishes) -> Result<Server<'a>, Refusal> {
    let all = containers(pod);
    let own = || all.iter().enumerate().filter(|(_, container)| container.name != SIDECAR);
    let known: Vec<_> =
        own().filter_map(|(index, container)| Some((index, container, kind_of(container)?))).collect();
    let others = || own().filter(|(index, ..)| known.iter().all(|(is_known, ..)| is_known != index));
    if let (Some((_, first, _)), Some((_, second))) =
        (known.first(), others().find(|(_, container)| kind_of_image(container).is_some()))
    {
        return Err(Refusal::new(format!(
            "container {} has a model server's image beside {}, and may start one that stays open; put it in a pod of its own, or use \
             another image",
            second.name, first.name
        )));
    }
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    if let Some(container) = init.into_iter().find(|each| is_native_sidecar(each) && kind_of(each).is_some())
    {
        return Err(Refusal::new(format!(
            "init container {} runs a model server beside the others; make it a plain container, so that its ports can be taken over",
            container.name
        )));
    }
    if let [(_, first, _), (_, second, _), ..] = known[..] {
        return Err(Refusal::new(format!(
            "containers {} and {} both look like model servers, and Refrain can stand in front of one; put each in a pod of its own",
            first.name, second.name
        )));
    }
    let (index, container) = match (&wishes.container, known.first()) {
        (Some(name), found) => {
            let named = own().find(|(_, container)| container.name == *name).ok_or_else(|| {
                let names: Vec<_> = own().map(|(_, container)| container.name.as_str()).collect();
                Refusal::new(format!(
                    "annotation {PREFIX}container names {name}, and the pod's containers are {}",
                    names.join(", ")
                ))
            })?;
            if let Some((_, other, _)) = found.filter(|(index, ..)| *index != named.0) {
                return Err(Refusal::new(format!(
                    "annotation {PREFIX}container names {name}, but container {} looks like a model server too and would stay open; \
                     name that one, or put it in a pod of its own",
                    other.name
                )));
            }
            named
        }
        (None, Some((index, container, _))) => (*index, *container),
        (None, None) => match (wishes.runtime, own().collect::<Vec<_>>().as_slice()) {
            (Some(_), [only]) => *only,
            (Some(_), _) => {
                return Err(Refusal::new(format!(
                    "none of the pod's containers looks like a model server; name it with annotation {PREFIX}container"
                )));
            }
            (None, _) => {
                return Err(Refusal::new(format!(
                    "none of the pod's containers looks like a model server that Refrain knows (tritonserver, \
                     tensorflow_model_server); if one is, name it with annotations {PREFIX}container and {PREFIX}runtime \
                     (triton or tfserving), else label the pod {PREFIX}inject: \"false\""
                )));
            }
        },
    };
    let kind = match (wishes.runtime, kind_of(container)) {
        (Some(wished), Some(found)) if wished != found => {
            return Err(Refusal::new(format!(
                "annotation {PREFIX}runtime says {}, but container {} starts {}; correct the annotation or take it out",
                wished.as_str(),
                container.name,
                found.program()
            )));
        }
        (wished, found) => wished.or(found).ok_or_else(|| {
            Refusal::new(format!(
                "container {} does not look like a model server that Refrain knows; say which it is with annotation \
                 {PREFIX}runtime (triton or tfserving)",
                container.name
            ))
        })?,
    };
    refuse_another_kind(container, kind)?;
    Ok(Server { index, container, kind })
}

/// What a container starts, by the program among its words, else by its image where it starts the image's own program.
pub(super) fn kind_of(container: &Container) -> Option<Kind> {
    let command = container.command.iter().flatten();
    let words: Vec<&String> = command.chain(container.args.iter().flatten()).collect();
    let is_shell = words.iter().any(|word| SHELLS.contains(&base(word)));
    // In a shell's script a program is called in the middle of a word; the pod is then refused for the shell. Elsewhere a name
    // in a flag's value, a path or an address starts nothing.
    let starts = |kind: &Kind| {
        let script = |word: &str| is_shell && word.contains(kind.program());
        words.iter().any(|word| kind.is_started_by(word) || script(word))
    };
    if let Some(named) = KINDS.into_iter().find(starts) {
        return Some(named);
    }
    let starts_own = container.command.as_ref().is_none_or(Vec::is_empty)
        && words.first().is_none_or(|first| first.starts_with('-'));
    if starts_own { kind_of_image(container) } else { None }
}

/// Whose image it is, whatever it starts.
fn kind_of_image(container: &Container) -> Option<Kind> {
    let image = container.image.as_deref().unwrap_or_default();
    // Without the registry's host, the tag and the digest.
    let named = image.split('@').next().unwrap_or_default();
    let name_start = named.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = named[name_start..].split_once(':').unwrap_or((&named[name_start..], ""));
    // What ends like this holds clients alone.
    if name.contains("tritonserver") && !tag.ends_with("-sdk") {
        return Some(Kind::Triton);
    }
    let is_tf = named[..name_start + name.len()].ends_with("tensorflow/serving")
        || ["tensorflow-serving", "tf-serving", "tensorflow_model_server"]
            .iter()
            .any(|part| name.contains(part));
    is_tf.then_some(Kind::TfServing)
}

/// A server that is given the other's flags, or comes in the other's image, may go on as if it had none, on its own ports.
fn refuse_another_kind(container: &Container, kind: Kind) -> Result<(), Refusal> {
    let name = &container.name;
    if let Some(other) = kind_of_image(container).filter(|other| *other != kind) {
        return Err(Refusal::new(format!(
            "container {name} would be closed as {}, but its image is one of {}; name the program in command, or correct annotation \
             {PREFIX}runtime",
            kind.program(),
            other.program()
        )));
    }
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    let foreign = words.map(String::as_str).find(|word| {
        let flag = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        word.starts_with('-') && kind.other().own_flags().contains(&flag)
    });
    match foreign {
        None => Ok(()),
        Some(flag) => Err(Refusal::new(format!(
            "container {name} would be closed as {}, but {flag} is a flag of {}; set annotation {PREFIX}runtime to what it is",
            kind.program(),
            kind.other().program()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, command: &[&str], args: &[&str]) -> Container {
        let words =
            |words: &[&str]| (!words.is_empty()).then(|| words.iter().map(|&word| word.into()).collect());
        Container {
            image: Some(image.into()),
            command: words(command),
            args: words(args),
            ..Container::default()
        }
    }

    #[test]
    fn a_server_is_known_by_the_program_it_starts_and_not_by_names_in_its_flags() {
        let (triton, serving) = (Some(Kind::Triton), Some(Kind::TfServing));
        for (image, command, args, expected) in [
            ("x", &["tritonserver"][..], &["--model-repository=/m"][..], triton),
            ("x", &["/opt/tritonserver/bin/tritonserver"], &[], triton),
            ("x", &["sh", "-c"], &["exec tritonserver --grpc-port=1"], triton),
            ("x", &["/usr/bin/tf_serving_entrypoint.sh"], &["--model_name=m"], serving),
            ("tensorflow/serving:2", &[], &["--model_base_path=gs://tritonserver/m"], serving),
            (
                "nvcr.io/nvidia/tritonserver:25.10-py3",
                &[],
                &["--model-repository=/tensorflow_model_server"],
                triton,
            ),
            ("nvcr.io/nvidia/tritonserver:25.10-py3-sdk", &[], &[], None),
            ("x", &[], &["sync", "s3://m", "/opt/tritonserver/models"], None),
            ("x", &["exporter"], &["--target=http://tritonserver:8002"], None),
        ] {
            assert_eq!(kind_of(&container(image, command, args)), expected, "{image} {command:?} {args:?}");
        }
    }

    #[test]
    fn a_server_in_the_others_image_or_with_its_flags_is_refused() {
        for (image, args, kind) in [
            ("tensorflow/serving:2", &["--grpc-port=1"][..], Kind::Triton),
            ("corp/tritonserver-compat:1", &["--model_base_path=/m"], Kind::Triton),
            ("x", &["--rest_api_port=0"], Kind::Triton),
            ("x", &["--model-repository", "/m"], Kind::TfServing),
        ] {
            assert!(refuse_another_kind(&container(image, &[], args), kind).is_err(), "{image} {args:?}");
        }
        let own = container("nvcr.io/nvidia/tritonserver:1", &[], &["--model-repository=/m"]);
        assert!(refuse_another_kind(&own, Kind::Triton).is_ok());
    }
}
