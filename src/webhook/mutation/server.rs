//! Which container is the model server, and of which kind.

use k8s_openapi::api::core::v1::{Container, Pod};

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
}

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
    Ok(Server { index, container, kind })
}

/// What a container starts, by the words of its command line, else by its image where it starts the image's own program.
pub(super) fn kind_of(container: &Container) -> Option<Kind> {
    let command = container.command.iter().flatten();
    let words: Vec<&String> = command.chain(container.args.iter().flatten()).collect();
    let kinds = [Kind::Triton, Kind::TfServing];
    // Also inside a shell's script, which is then refused for being one.
    let named = kinds.into_iter().find(|kind| words.iter().any(|word| word.contains(kind.program())));
    if named.is_some() {
        return named;
    }
    let starts_own = container.command.as_ref().is_none_or(Vec::is_empty)
        && words.first().is_none_or(|first| first.starts_with('-'));
    if !starts_own {
        return None;
    }
    let image = container.image.as_deref().unwrap_or_default();
    // Without the registry's host, the tag and the digest.
    let repository = image.split('@').next().unwrap_or_default();
    let name_start = repository.rfind('/').map_or(0, |slash| slash + 1);
    let repository =
        repository[name_start..].find(':').map_or(repository, |colon| &repository[..name_start + colon]);
    if repository[name_start..].contains("tritonserver") {
        return Some(Kind::Triton);
    }
    let is_tf = repository.ends_with("tensorflow/serving")
        || ["tensorflow-serving", "tf-serving", "tensorflow_model_server"]
            .iter()
            .any(|name| repository[name_start..].contains(name));
    is_tf.then_some(Kind::TfServing)
}
