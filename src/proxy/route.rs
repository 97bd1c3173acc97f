//! Which call is this: one to inspect, one to let through, or one that is closed. An allow-list, by the exact path.

use std::collections::BTreeSet;

/// The inference service that Triton and every KServe v2 server share.
pub(super) const INFERENCE: &str = "inference.GRPCInferenceService";

/// The path of the call that is judged.
pub(super) const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Calls that tell nothing of what reached the model, by method name.
const OPEN: [&str; 6] =
    ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig"];

/// Known calls that stay closed until `rpc.allow` names them: they reach the model unjudged, count what reached it, or
/// change the server.
const CLOSED: [&str; 15] = [
    "ModelStreamInfer",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
    "XpuSharedMemoryRegister",
    "XpuSharedMemoryUnregister",
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A question to a model: read and judged.
    Predict,
    /// Let through byte for byte.
    Pass,
    /// `grpc.health.v1`: answered by us.
    Health,
    /// Known and refused.
    Closed,
    /// Not known, so refused.
    Unknown,
}

/// The table of routes, with what the operator opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    allowed: BTreeSet<String>,
}

impl Routes {
    /// A table in which the `allowed` methods (`package.Service/Method`) pass too.
    pub(super) fn new(allowed: impl IntoIterator<Item = String>) -> Self {
        Self {
            allowed: allowed
                .into_iter()
                .map(|method| format!("/{}", method.trim_start_matches('/')))
                .collect(),
        }
    }

    /// The route of `path`, which must be exactly `/package.Service/Method`.
    pub(super) fn of(&self, path: &str) -> Route {
        if path == MODEL_INFER {
            return Route::Predict;
        }
        if self.allowed.contains(path) {
            return Route::Pass;
        }
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((INFERENCE, method)) if OPEN.contains(&method) => Route::Pass,
            Some((INFERENCE, method)) if CLOSED.contains(&method) => Route::Closed,
            Some(("grpc.health.v1.Health", "Check" | "Watch")) => Route::Health,
            _ => Route::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_paths_of_the_allow_list_get_through() {
        let routes = Routes::new([]);
        for (path, route) in [
            ("/inference.GRPCInferenceService/ModelInfer", Route::Predict),
            ("/inference.GRPCInferenceService/ModelConfig", Route::Pass),
            ("/inference.GRPCInferenceService/ServerLive", Route::Pass),
            ("/inference.GRPCInferenceService/ModelStreamInfer", Route::Closed),
            ("/inference.GRPCInferenceService/ModelStatistics", Route::Closed),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", Route::Closed),
            ("/grpc.health.v1.Health/Check", Route::Health),
            ("/grpc.health.v1.Health/List", Route::Unknown),
            ("/inference.GRPCInferenceService/modelinfer", Route::Unknown),
            ("/inference.GRPCInferenceService/ModelInfer/", Route::Unknown),
            ("//inference.GRPCInferenceService/ModelInfer", Route::Unknown),
            ("/inference.GRPCInferenceService/ModelConfig?x=1", Route::Unknown),
            ("inference.GRPCInferenceService/ModelConfig", Route::Unknown),
            ("/inference.GRPCInferenceService", Route::Unknown),
            ("/", Route::Unknown),
            ("", Route::Unknown),
        ] {
            assert_eq!(routes.of(path), route, "{path}");
        }
    }

    #[test]
    fn the_operator_opens_what_it_names_but_cannot_unjudge_a_prediction() {
        let routes = Routes::new(
            ["inference.GRPCInferenceService/ModelStatistics", "my.Own/Call", MODEL_INFER].map(String::from),
        );
        assert_eq!(routes.of("/inference.GRPCInferenceService/ModelStatistics"), Route::Pass);
        assert_eq!(routes.of("/my.Own/Call"), Route::Pass);
        assert_eq!(routes.of(MODEL_INFER), Route::Predict);
        assert_eq!(routes.of("/inference.GRPCInferenceService/TraceSetting"), Route::Closed);
    }
}
