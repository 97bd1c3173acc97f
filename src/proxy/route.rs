//! Which call is this: one to inspect, one to let through, or one that is closed. An allow-list, by the exact path.

use std::collections::BTreeSet;

use super::stream::STREAM;
use crate::protocol::Rpc;

/// The inference service that Triton and every KServe v2 server share.
pub(super) const INFERENCE: &str = "inference.GRPCInferenceService";

/// TensorFlow Serving's services.
pub(super) const PREDICTION: &str = "tensorflow.serving.PredictionService";
const MODELS: &str = "tensorflow.serving.ModelService";
const SESSIONS: &str = "tensorflow.serving.SessionService";
const PROFILER: &str = "tensorflow.ProfilerService";

/// Calls that tell nothing of what reached the model, by method name.
const OPEN: [&str; 6] =
    ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig"];

/// Known calls that stay closed until `rpc.allow` names them: they count what reached the model, or change the server.
const CLOSED: [&str; 14] = [
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
    Predict(Rpc),
    /// A stream of such questions.
    Stream,
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
        if let Some(rpc) = Rpc::ALL.into_iter().find(|rpc| rpc.path() == path) {
            return Route::Predict(rpc);
        }
        if path == STREAM {
            return Route::Stream;
        }
        if self.allowed.contains(path) {
            return Route::Pass;
        }
        match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
            Some((INFERENCE, method)) if OPEN.contains(&method) => Route::Pass,
            Some((INFERENCE, method)) if CLOSED.contains(&method) => Route::Closed,
            Some((PREDICTION, "GetModelMetadata") | (MODELS, "GetModelStatus")) => Route::Pass,
            // They change what is served, or reach a model unjudged.
            Some(
                (MODELS, "HandleReloadConfigRequest")
                | (SESSIONS, "SessionRun")
                | (PROFILER, "Profile" | "Terminate" | "Monitor"),
            ) => Route::Closed,
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
            ("/inference.GRPCInferenceService/ModelInfer", Route::Predict(Rpc::Infer)),
            ("/inference.GRPCInferenceService/ModelConfig", Route::Pass),
            ("/inference.GRPCInferenceService/ServerLive", Route::Pass),
            ("/inference.GRPCInferenceService/ModelStreamInfer", Route::Stream),
            ("/inference.GRPCInferenceService/ModelStatistics", Route::Closed),
            ("/inference.GRPCInferenceService/RepositoryModelLoad", Route::Closed),
            ("/tensorflow.serving.PredictionService/Predict", Route::Predict(Rpc::Predict)),
            ("/tensorflow.serving.PredictionService/MultiInference", Route::Predict(Rpc::MultiInference)),
            ("/tensorflow.serving.PredictionService/GetModelMetadata", Route::Pass),
            ("/tensorflow.serving.PredictionService/PredictStreamed", Route::Unknown),
            ("/tensorflow.serving.ModelService/GetModelStatus", Route::Pass),
            ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", Route::Closed),
            ("/tensorflow.serving.ModelService/Predict", Route::Unknown),
            ("/tensorflow.serving.SessionService/SessionRun", Route::Closed),
            ("/tensorflow.ProfilerService/Profile", Route::Closed),
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
        let judged = Rpc::Infer.path();
        let opened = ["inference.GRPCInferenceService/ModelStatistics", "my.Own/Call", judged];
        let routes = Routes::new(opened.map(String::from));
        assert_eq!(routes.of("/inference.GRPCInferenceService/ModelStatistics"), Route::Pass);
        assert_eq!(routes.of("/my.Own/Call"), Route::Pass);
        assert_eq!(routes.of(judged), Route::Predict(Rpc::Infer));
        assert_eq!(routes.of("/inference.GRPCInferenceService/TraceSetting"), Route::Closed);
    }
}
