//! What is known of each model: its signature from the upstream, its settings, and which forms of request it accepts.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tonic::Code;

use super::template::Template;
use super::upstream::{Upstream, UpstreamError};
use crate::config::{Config, Mode, ModelSettings};
use crate::judgment::Judge;
use crate::protocol::pb;
use crate::protocol::query::{Family, How, ModelKey};
use crate::protocol::signature::Signature;
use crate::protocol::tensor::{Datatype, Range, Reading};
use crate::protocol::tensorflow::serving::{GetModelMetadataRequest, GetModelMetadataResponse};
use crate::protocol::tf_serving;
use crate::scores::{Disguise, Key, Spreads};

/// Time for one question about a model.
const WITHIN: Duration = Duration::from_secs(5);

/// Models remembered; a server with more is asked again for those that do not fit.
const MOST_MODELS: usize = 1024;

/// Forms of request remembered per model.
const MOST_FORMS: usize = 1024;

/// Versions remembered of a model whose metadata names none.
const MOST_VERSIONS: usize = 64;

/// The count of a server that does not count.
const UNCOUNTED: u64 = u64::MAX;

/// Pictures whose values are looked at before a model's value range is settled.
const PICTURES_TO_SETTLE: u32 = 16;

/// One model and everything that decides how its calls are treated.
pub(super) struct Model {
    /// How it is asked for.
    key: ModelKey,
    /// Its name.
    pub name: Arc<str>,
    /// Name and signature: what tells its answers from another's.
    pub view: Arc<str>,
    /// Whose likenesses it shares.
    pub group: Arc<str>,
    /// Its settings.
    pub settings: ModelSettings,
    /// Its signature.
    pub signature: Signature,
    /// The judge of its pictures.
    pub judge: Arc<Judge>,
    /// Writes the scores of its replies.
    pub disguise: Arc<Disguise>,
    /// What is done about its calls, after what it is has been taken into account.
    pub treatment: Treatment,
    learned: Arc<Learned>,
}

/// What is done about a model's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Near-copies are answered from memory.
    Enforce,
    /// Everything is forwarded, judged and told.
    Observe,
    /// Nothing is read: by setting, or because the model takes no picture.
    Pass,
    /// Nothing is let through: the settings name an image input that the model does not have.
    Misconfigured,
}

/// What calls taught us; survives a change of signature or of configuration, and the model's being away.
#[derive(Default)]
struct Learned {
    /// A reply came from another version than expected, and the model was not asked for since.
    reloaded: AtomicBool,
    /// How often the model was seen to be loaded again: what was remembered before counts for another model.
    generation: AtomicU64,
    /// What the server counted of the model's work when it was last asked.
    counted: AtomicU64,
    /// What its OK replies look like around their message: some servers name the model there.
    template: Template,
    /// Which version answered requests for which, of a server whose metadata names none.
    versions: Mutex<HashMap<String, String>>,
    /// How the server writes its replies to requests with raw values, and to those with typed ones.
    writing: [AtomicU8; 2],
    forms: Mutex<Forms>,
    range: Mutex<RangeVotes>,
    /// How far its scores move between near-copies.
    spreads: Arc<Spreads>,
}

#[derive(Default)]
struct Forms {
    known: HashSet<[u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl Forms {
    fn add(&mut self, form: [u8; 16]) {
        if !self.known.insert(form) {
            return;
        }
        self.order.push_back(form);
        if self.order.len() > MOST_FORMS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[derive(Default)]
struct RangeVotes {
    settled: Option<Range>,
    pictures: u32,
    /// Pictures that fit each range of the closed list best.
    votes: BTreeMap<&'static str, (u32, Range)>,
}

impl RangeVotes {
    /// Adds the vote of one picture; the range that it settles, if it does. Each picture has one vote, so that no single odd one
    /// decides, and none puts the decision off for ever.
    fn add(&mut self, vote: Option<(&'static str, Range)>) -> Option<(&'static str, Range)> {
        self.pictures += 1;
        if let Some((name, range)) = vote {
            self.votes.entry(name).or_insert((0, range)).0 += 1;
        }
        let (name, (most, range)) = self.votes.iter().max_by_key(|(_, (votes, _))| *votes)?;
        let is_clear = self.pictures >= PICTURES_TO_SETTLE && most * 4 >= self.pictures * 3;
        let is_decided = is_clear || self.pictures >= 4 * PICTURES_TO_SETTLE;
        is_decided.then_some((*name, *range))
    }
}

/// Why a model is not known.
#[derive(Debug)]
pub(super) enum Unknown {
    /// The upstream says so.
    Refused,
    /// The upstream cannot be asked.
    Upstream(UpstreamError),
}

/// All models that were asked for.
pub(super) struct Models {
    upstream: Arc<Upstream>,
    config: Arc<Config>,
    key: [u8; 32],
    known: Mutex<HashMap<ModelKey, Arc<Model>>>,
    /// What calls taught about models, those that are not known at the moment included.
    learned: Mutex<HashMap<ModelKey, Arc<Learned>>>,
    reload: Notify,
}

impl Models {
    /// No model is known yet; `key` keys the digests of their pictures.
    pub(super) fn new(upstream: Arc<Upstream>, config: Arc<Config>, key: [u8; 32]) -> Self {
        Self {
            upstream,
            config,
            key,
            known: Mutex::default(),
            learned: Mutex::default(),
            reload: Notify::new(),
        }
    }

    /// The same models under another configuration: what calls taught stays, settings and signatures are looked up anew.
    pub(super) fn under(&self, config: Arc<Config>) -> Self {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let models = Self::new(Arc::clone(&self.upstream), config, self.key);
        Self { learned: Mutex::new(learned), ..models }
    }

    /// The model that `key` asks; the upstream is asked the first time.
    pub(super) async fn of(&self, key: &ModelKey) -> Result<Arc<Model>, Unknown> {
        let known = self.lock().get(key).cloned();
        match known {
            Some(model) => Ok(model),
            None => self.learn(key).await,
        }
    }

    /// Asks for every known model again.
    pub(super) async fn renew_all(&self) {
        let models: Vec<Arc<Model>> = self.lock().values().cloned().collect();
        for model in models {
            self.renew(&model).await;
        }
    }

    /// A reply came from a version that was not expected: the next round of renewals need not be waited for.
    pub(super) fn note_reload(&self, model: &Model) {
        if !model.learned.reloaded.swap(true, Ordering::Relaxed) {
            tracing::info!(model = &*model.name, "served by another version than expected");
            self.reload.notify_one();
        }
    }

    /// Waits until a reply shows that some model was reloaded.
    pub(super) async fn reloaded(&self) {
        self.reload.notified().await;
    }

    /// Asks for one model again.
    async fn renew(&self, model: &Model) {
        if let Err(Unknown::Refused) = self.learn(&model.key).await {
            tracing::info!(model = &*model.name, "the model server no longer has this model");
            model.learned.generation.fetch_add(1, Ordering::Relaxed);
            self.lock().remove(&model.key);
        }
        if self.was_loaded_again(model).await {
            tracing::info!(model = &*model.name, "the model was loaded again");
            model.learned.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the server's own count of the model's work went back, as it does when a model is loaded again under the same
    /// version. A server that does not count (only Triton does) cannot show it.
    async fn was_loaded_again(&self, model: &Model) -> bool {
        if model.key.family != Family::Kserve || model.learned.counted.load(Ordering::Relaxed) == UNCOUNTED {
            return false;
        }
        let question = pb::ModelStatisticsRequest { name: model.key.name.clone(), version: String::new() };
        let statistics: Result<Option<pb::ModelStatisticsResponse>, _> =
            self.ask("/inference.GRPCInferenceService/ModelStatistics", &question).await;
        let counted = match statistics {
            Ok(Some(statistics)) => {
                statistics.model_stats.iter().map(|version| version.inference_count).sum()
            }
            Ok(None) => UNCOUNTED,
            Err(_) => return false,
        };
        let before = model.learned.counted.swap(counted, Ordering::Relaxed);
        counted < before
    }

    async fn learn(&self, key: &ModelKey) -> Result<Arc<Model>, Unknown> {
        let name = key.name.as_str();
        let signature = self.signature(key).await?;
        let mut known = self.lock();
        if let Some(model) = known.get(key) {
            if model.signature == signature {
                model.learned.reloaded.store(false, Ordering::Relaxed);
                return Ok(Arc::clone(model));
            }
            tracing::info!(model = name, versions = ?signature.versions, "the model changed");
        }
        let learned = self.learned(key);
        learned.reloaded.store(false, Ordering::Relaxed);
        let settings = self.config.model(name, &key.signature).clone();
        let model = Arc::new(Model::new(key, settings, signature, self.key, learned));
        if known.len() < MOST_MODELS || known.contains_key(key) {
            model.introduce();
            known.insert(key.clone(), Arc::clone(&model));
        }
        Ok(model)
    }

    async fn signature(&self, key: &ModelKey) -> Result<Signature, Unknown> {
        match key.family {
            Family::Kserve => self.kserve_signature(&key.name).await,
            Family::TfServing => self.tensorflow_signature(key).await,
        }
    }

    async fn tensorflow_signature(&self, key: &ModelKey) -> Result<Signature, Unknown> {
        let question = GetModelMetadataRequest {
            model_spec: Some(tf_serving::model_spec(key)),
            metadata_field: vec!["signature_def".to_owned()],
        };
        let metadata: GetModelMetadataResponse = self
            .ask("/tensorflow.serving.PredictionService/GetModelMetadata", &question)
            .await?
            .ok_or(Unknown::Refused)?;
        Signature::from_signature_def(&metadata, &key.signature).ok_or(Unknown::Refused)
    }

    async fn kserve_signature(&self, name: &str) -> Result<Signature, Unknown> {
        let question = pb::ModelMetadataRequest { name: name.to_owned(), version: String::new() };
        let metadata: pb::ModelMetadataResponse = self
            .ask("/inference.GRPCInferenceService/ModelMetadata", &question)
            .await?
            .ok_or(Unknown::Refused)?;
        // A server may know one model by several names (Triton's end at a NUL): an alias would have a past of its own.
        if metadata.name != name {
            return Err(Unknown::Refused);
        }
        let question = pb::ModelConfigRequest { name: name.to_owned(), version: String::new() };
        let config: Option<pb::ModelConfigResponse> =
            self.ask("/inference.GRPCInferenceService/ModelConfig", &question).await?;
        Ok(match config.and_then(|response| response.config) {
            Some(config) => Signature::from_config(&config, metadata.versions),
            None => Signature::from_metadata(&metadata),
        })
    }

    /// An answer; none where the upstream has no such method or model.
    async fn ask<Q: prost::Message, A: prost::Message + Default>(
        &self,
        path: &'static str,
        question: &Q,
    ) -> Result<Option<A>, Unknown> {
        match self.upstream.ask(path, question, WITHIN).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(status)) => match status.code() {
                // What a server says for a model or a method that it does not have differs from server to server; what
                // it says when it cannot answer now does not.
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                    Err(Unknown::Upstream(UpstreamError::Down(status.message().into())))
                }
                _ => Ok(None),
            },
            Err(error) => Err(Unknown::Upstream(error)),
        }
    }

    fn learned(&self, key: &ModelKey) -> Arc<Learned> {
        // A version asked for by another name is the same model still, and so is all that calls taught of it.
        let key = ModelKey { version: String::new(), ..key.clone() };
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= MOST_MODELS && !learned.contains_key(&key) {
            return Arc::default();
        }
        Arc::clone(learned.entry(key).or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ModelKey, Arc<Model>>> {
        // Held for one map access; the upstream is asked outside of it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    fn new(
        key: &ModelKey,
        settings: ModelSettings,
        signature: Signature,
        pictures: [u8; 32],
        learned: Arc<Learned>,
    ) -> Self {
        let has_image =
            signature.image_input(settings.image_input.as_deref(), settings.reading.layout).is_some();
        let treatment = match settings.mode {
            Mode::Off => Treatment::Pass,
            Mode::Enforce if !has_image && settings.image_input.is_some() => Treatment::Misconfigured,
            _ if !has_image => Treatment::Pass,
            Mode::Enforce if !signature.stateful && !signature.decoupled => Treatment::Enforce,
            Mode::Enforce | Mode::Observe => Treatment::Observe,
        };
        let view = match key.signature.as_str() {
            "" => key.name.clone(),
            signature => format!("{}/{signature}", key.name),
        };
        Self {
            key: key.clone(),
            name: key.name.as_str().into(),
            view: view.into(),
            group: settings.group.as_deref().unwrap_or(&key.name).into(),
            judge: Arc::new(Judge::new(settings.rules.clone(), pictures)),
            disguise: Arc::new(Disguise::new(
                settings.scores,
                Key::from_secret(&pictures),
                Arc::clone(&learned.spreads),
            )),
            settings,
            signature,
            treatment,
            learned,
        }
    }

    /// Says once what the operator should know of a model that is not protected as the settings ask.
    fn introduce(&self) {
        let (model, treatment) = (&*self.name, self.treatment);
        match (self.settings.mode, treatment) {
            (Mode::Enforce | Mode::Observe, Treatment::Pass) => {
                tracing::warn!(
                    model,
                    "no image input found: calls are passed through unjudged; name one with image_input"
                );
            }
            (_, Treatment::Misconfigured) => {
                tracing::error!(model, image_input = ?self.settings.image_input, "the model has no such input: calls are refused");
            }
            (Mode::Enforce, Treatment::Observe) => {
                tracing::warn!(model, "a stateful or decoupled model is only observed");
            }
            _ => tracing::info!(model, ?treatment, versions = ?self.signature.versions, "model known"),
        }
    }

    /// Whether its calls are treated as another model's are.
    pub(super) fn is_treated_as(&self, other: &Self) -> bool {
        self.treatment == other.treatment && self.group == other.group && self.settings == other.settings
    }

    /// Why its calls are passed through, for the operator.
    pub(super) fn why_passed(&self) -> &'static str {
        if self.settings.mode == Mode::Off { "mode_off" } else { "no_image_input" }
    }

    /// How its requests are read.
    pub(super) fn how(&self) -> How<'_> {
        How { image_input: self.settings.image_input.as_deref(), reading: self.reading() }
    }

    /// The version that serves a request for `asked`, as far as is known, and which loading of it.
    pub(super) fn version_served(&self, asked: &str) -> String {
        Self::version_of(&self.version_expected(asked), self.generation())
    }

    /// Whether a request for `asked` was to be answered by `version`, as far as the server's metadata shows.
    pub(super) fn expects(&self, asked: &str, version: &str) -> bool {
        self.signature.versions.is_empty() || self.version_expected(asked) == version
    }

    fn version_expected(&self, asked: &str) -> String {
        match self.key.family {
            Family::Kserve if self.signature.versions.is_empty() => self.version_told(asked),
            Family::Kserve => self.signature.version_served(asked),
            // The signature is that of the version asked for, whichever way it was named.
            Family::TfServing => self.signature.versions.first().cloned().unwrap_or_default(),
        }
    }

    /// The version that last answered a request for `asked`, of a server whose metadata names none. One that was never seen to be
    /// asked for separates nothing: some servers take any, and give the same model's answer.
    fn version_told(&self, asked: &str) -> String {
        let told = self.learned.versions.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(asked).or_else(|| told.get("")).cloned().unwrap_or_default()
    }

    /// Takes note that `version` answered a request for `asked`.
    pub(super) fn answered_by(&self, asked: &str, version: &str) {
        if !self.signature.versions.is_empty() {
            return;
        }
        let mut told = self.learned.versions.lock().unwrap_or_else(PoisonError::into_inner);
        told.entry(String::new()).or_insert_with(|| version.to_owned());
        // What a server takes for another version is told by its reply; a version that it does not look at is no version.
        if told.len() < MOST_VERSIONS && told.get("").is_some_and(|newest| newest != version)
            || asked.is_empty()
        {
            told.insert(asked.to_owned(), version.to_owned());
        }
    }

    /// How often the model was seen to be loaded again.
    pub(super) fn generation(&self) -> u64 {
        self.learned.generation.load(Ordering::Relaxed)
    }

    /// A version as views name it: one that was loaded again is another.
    pub(super) fn version_of(version: &str, generation: u64) -> String {
        if generation == 0 {
            version.to_owned()
        } else {
            format!("{version}, loaded again {generation} times")
        }
    }

    /// What its OK replies look like around their message.
    pub(super) fn template(&self) -> &Template {
        &self.learned.template
    }

    /// Takes note that a request with values written so got a reply with values written so.
    pub(super) fn replied(&self, to_typed: bool, typed: bool) {
        self.learned.writing[usize::from(to_typed)].store(1 + u8::from(typed), Ordering::Relaxed);
    }

    /// Whether values are written typed in replies to such a request; none where no reply to one was seen.
    pub(super) fn replies_typed(&self, to_typed: bool) -> Option<bool> {
        match self.learned.writing[usize::from(to_typed)].load(Ordering::Relaxed) {
            0 => None,
            writing => Some(writing == 2),
        }
    }

    /// How its pictures are read: the settings, then the signature, then what calls taught.
    fn reading(&self) -> Reading {
        let input =
            self.signature.image_input(self.settings.image_input.as_deref(), self.settings.reading.layout);
        let of_settings = self.settings.reading;
        let by_signature = input
            .and_then(|input| input.layout.or_else(|| crate::protocol::tensor::Layout::guess(&input.dims)));
        // Bytes say it by their type; what any other type means, its first pictures show.
        let range = of_settings
            .range
            .or_else(|| self.datatype().and_then(Range::certain))
            .or_else(|| self.votes().settled);
        Reading { layout: of_settings.layout.or(by_signature), range, ..of_settings }
    }

    /// The type of its pictures' values.
    fn datatype(&self) -> Option<Datatype> {
        self.signature
            .image_input(self.settings.image_input.as_deref(), self.settings.reading.layout)?
            .datatype
    }

    /// Takes note of a picture whose values span `least` to `most`; the range is settled after enough of them, for good.
    ///
    /// Where too few fit a range safely it stays open.
    pub(super) fn note_span(&self, least: f32, most: f32) {
        let Some(datatype) = self.datatype() else { return };
        let mut votes = self.votes();
        if votes.settled.is_some() {
            return;
        }
        match votes.add(Range::guess(datatype, least, most)) {
            Some((name, range)) => {
                tracing::warn!(
                    model = &*self.name,
                    range = name,
                    "value range settled from the first pictures; set `range` to be sure"
                );
                votes.settled = Some(range);
            }
            None if votes.pictures == PICTURES_TO_SETTLE => tracing::warn!(
                model = &*self.name,
                least,
                most,
                "value range not settled, so the model is only observed; set `range`, or `scale` and `offset`"
            ),
            None => {}
        }
    }

    /// Whether requests of all these forms were answered before.
    pub(super) fn has_accepted(&self, these: &[[u8; 16]]) -> bool {
        let forms = self.forms();
        these.iter().all(|form| forms.known.contains(form))
    }

    /// Remembers that a request of these forms was answered.
    pub(super) fn accepted(&self, these: impl IntoIterator<Item = [u8; 16]>) {
        let mut forms = self.forms();
        these.into_iter().for_each(|form| forms.add(form));
    }

    fn forms(&self) -> std::sync::MutexGuard<'_, Forms> {
        self.learned.forms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn votes(&self) -> std::sync::MutexGuard<'_, RangeVotes> {
        self.learned.range.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
