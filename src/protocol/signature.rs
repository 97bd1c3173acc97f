//! What a model takes and gives: the part of its configuration or metadata that decides how a request is read.

use super::pb;
use super::tensor::{Datatype, Layout};
use super::tensorflow::serving::{GetModelMetadataResponse, SignatureDefMap, model_spec::VersionChoice};
use super::tensorflow::{SignatureDef, TensorInfo};
use super::tf_serving;

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type; none for one that we do not know.
    pub datatype: Option<Datatype>,
    /// Its dimensions without the batch dimension; -1 is any size.
    pub dims: Vec<i64>,
    /// Its layout, where the configuration states one.
    pub layout: Option<Layout>,
    /// Whether a request may leave it out.
    pub optional: bool,
    /// Whether it carries the batch dimension in front of `dims`.
    pub batched: bool,
    /// Whether a row may have any number of dimensions; `dims` says nothing then.
    pub of_any_rank: bool,
}

/// How many rows one request may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batching {
    /// A batch dimension in front of every input and output, of at most this size (`max_batch_size`).
    UpTo(u32),
    /// The dimensions say it all: a leading -1 is a batch dimension.
    ByDims,
}

/// Where a model takes its pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pictures {
    /// In one of its inputs.
    Inputs,
    /// In a feature of TensorFlow's Examples, which all stand in the one input: no signature names their features.
    Features,
}

/// A model's signature. Two equal signatures read every request alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// How rows are counted.
    pub batching: Batching,
    /// The versions that are served, as the server writes them; empty where it has none.
    pub versions: Vec<String>,
    /// A request changes the model's state (sequence batching), so none may be left out.
    pub stateful: bool,
    /// One request may have any number of responses.
    pub decoupled: bool,
    /// Whether the server gave the full configuration, so that an accepted form is known without having been tried.
    pub complete: bool,
    /// Where pictures stand.
    pub pictures: Pictures,
}

impl Signature {
    /// From Triton's `ModelConfig`, with the served versions from `ModelMetadata`.
    pub fn from_config(config: &pb::ModelConfig, versions: Vec<String>) -> Self {
        let limit = u32::try_from(config.max_batch_size).unwrap_or(0);
        let batching = if limit > 0 { Batching::UpTo(limit) } else { Batching::ByDims };
        let inputs = config.input.iter().map(|input| {
            let layout = match input.format() {
                pb::model_input::Format::Nhwc => Some(Layout::Nhwc),
                pb::model_input::Format::Nchw => Some(Layout::Nchw),
                pb::model_input::Format::None => None,
            };
            let plain = !input.allow_ragged_batch && !input.is_shape_tensor;
            spec(
                &input.name,
                Datatype::of_config(input.data_type()),
                &input.dims,
                batching,
                layout,
                input.optional,
                plain,
            )
        });
        let outputs = config.output.iter().map(|output| {
            spec(
                &output.name,
                Datatype::of_config(output.data_type()),
                &output.dims,
                batching,
                None,
                false,
                true,
            )
        });
        Self {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            batching,
            versions,
            stateful: config.sequence_batching.is_some(),
            decoupled: config.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled),
            complete: true,
            pictures: Pictures::Inputs,
        }
    }

    /// From `ModelMetadata` alone, where the server has no `ModelConfig`: shapes hold the batch dimension as a leading -1.
    pub fn from_metadata(metadata: &pb::ModelMetadataResponse) -> Self {
        let tensor = |tensor: &pb::model_metadata_response::TensorMetadata| {
            let datatype = Datatype::of_name(&tensor.datatype);
            spec(&tensor.name, datatype, &tensor.shape, Batching::ByDims, None, false, true)
        };
        Self {
            inputs: metadata.inputs.iter().map(tensor).collect(),
            outputs: metadata.outputs.iter().map(tensor).collect(),
            batching: Batching::ByDims,
            versions: metadata.versions.clone(),
            stateful: false,
            decoupled: false,
            complete: false,
            pictures: Pictures::Inputs,
        }
    }

    /// From TensorFlow Serving's metadata of one version, for the signature called `name`; none where the model has none of that
    /// name. A leading -1 is the batch dimension, but of a picture of any size.
    pub fn from_signature_def(metadata: &GetModelMetadataResponse, name: &str) -> Option<Self> {
        let described = metadata.metadata.get("signature_def")?;
        if described.type_url.rsplit('/').next() != Some("tensorflow.serving.SignatureDefMap") {
            return None;
        }
        let signatures: SignatureDefMap = prost::Message::decode(&described.value[..]).ok()?;
        let signature = signatures.signature_def.get(name)?;
        let inputs = signature.inputs.iter().map(|(alias, info)| {
            let optional = signature.defaults.contains_key(alias);
            dense(alias, info, optional, info.is_sized_picture())
        });
        let outputs = signature.outputs.iter().map(|(alias, info)| dense(alias, info, false, false));
        let version = metadata.model_spec.as_ref().and_then(|spec| spec.version_choice.as_ref());
        let versions = match version {
            Some(VersionChoice::Version(version)) => vec![version.to_string()],
            Some(VersionChoice::VersionLabel(_)) | None => Vec::new(),
        };
        let takes_examples =
            matches!(&signature.method_name[..], CLASSIFY | REGRESS) && signature.inputs.len() == 1;
        Some(Self {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            batching: Batching::ByDims,
            versions,
            stateful: false,
            decoupled: false,
            complete: signature.is_predictable(),
            pictures: if takes_examples { Pictures::Features } else { Pictures::Inputs },
        })
    }

    /// Whether every input and output carries the batch dimension, so that rows can be taken apart and put together.
    pub fn splits(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).all(|tensor| tensor.batched)
    }

    /// The version that a request for `asked` is served by, as far as is known: the newest where none is asked for.
    pub fn version_served(&self, asked: &str) -> String {
        if !asked.is_empty() {
            return canonical_version(asked, &self.versions);
        }
        let newest = self.versions.iter().max_by_key(|version| version.parse::<u64>().unwrap_or(0));
        newest.cloned().unwrap_or_default()
    }

    /// The input that holds the picture: the one named `chosen`, else the first that is shaped like one.
    ///
    /// Where none is, the first that takes one BYTES element a row: an encoded picture, or text (see [`Refusal::Text`](super::query::Refusal::Text)).
    /// Where the settings say that pictures are matrices (`HW`), the first matrix. Of Examples, whose features no signature names,
    /// it is the input that holds them.
    pub fn image_input(&self, chosen: Option<&str>, layout: Option<Layout>) -> Option<&TensorSpec> {
        match chosen {
            _ if self.pictures == Pictures::Features => self.inputs.first(),
            Some(name) => self.inputs.iter().find(|input| input.name == name),
            None if layout == Some(Layout::Hw) => self.inputs.iter().find(|input| input.is_a_matrix()),
            None => {
                let shaped = self.inputs.iter().find(|input| input.looks_like_an_image());
                shaped.or_else(|| self.inputs.iter().find(|input| input.takes_one_element()))
            }
        }
    }
}

impl TensorSpec {
    /// Three dimensions of which the first or the last counts 1 or 3 channels, or any; not text, not truth values.
    fn looks_like_an_image(&self) -> bool {
        let channels = |dim: i64| matches!(dim, -1 | 1 | 3 | 4);
        let dims = without_ones(&self.dims);
        matches!(dims, [first, _, last] if self.holds_numbers() && (channels(*first) || channels(*last)))
    }

    /// Two dimensions: a grey picture, or anything else of rows and columns.
    fn is_a_matrix(&self) -> bool {
        let ones = self.dims.iter().take_while(|dim| **dim == 1).count();
        self.holds_numbers() && (2..=2 + ones).contains(&self.dims.len())
    }

    fn holds_numbers(&self) -> bool {
        !matches!(self.datatype, None | Some(Datatype::Bytes | Datatype::Bool))
    }

    /// BYTES of which each row may hold a single element.
    fn takes_one_element(&self) -> bool {
        self.datatype == Some(Datatype::Bytes) && self.dims.iter().all(|dim| matches!(dim, -1 | 1))
    }

    /// Whether Triton's classification extension takes this output: numbers, not too many of them.
    pub fn has_classes(&self) -> bool {
        const MOST: i64 = 1_000_000;
        let numbers = !matches!(
            self.datatype,
            None | Some(Datatype::Bytes | Datatype::Bool | Datatype::Fp16 | Datatype::Bf16)
        );
        let known = self.dims.iter().all(|dim| (1..=MOST).contains(dim));
        let count = |product: i64, dim: &i64| product.saturating_mul(*dim);
        numbers && known && self.dims.iter().fold(1, count) <= MOST
    }

    /// Whether a shape without its batch dimension is one that this tensor takes.
    pub fn takes(&self, shape: &[i64]) -> bool {
        let fits = |(&dim, &size): (&i64, &i64)| if dim == -1 { size >= 0 } else { dim == size };
        self.of_any_rank || (self.dims.len() == shape.len() && self.dims.iter().zip(shape).all(fits))
    }
}

/// What the method of a signature is called that takes Examples.
const CLASSIFY: &str = "tensorflow/serving/classify";
const REGRESS: &str = "tensorflow/serving/regress";

impl SignatureDef {
    /// Whether TensorFlow Serving takes Predict calls for it.
    fn is_predictable(&self) -> bool {
        matches!(&self.method_name[..], "tensorflow/serving/predict" | CLASSIFY | REGRESS)
    }
}

impl TensorInfo {
    fn sizes(&self) -> Option<Vec<i64>> {
        let shape = self.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank)?;
        Some(shape.dim.iter().map(|dim| dim.size).collect())
    }

    /// A single picture of any size rather than a batch of something else: [-1, -1, 3].
    fn is_sized_picture(&self) -> bool {
        self.dtype() != super::tensorflow::DataType::DtString
            && matches!(self.sizes().as_deref(), Some([-1, -1, 1 | 3 | 4]))
    }
}

/// An input or output of a SavedModel.
fn dense(alias: &str, info: &TensorInfo, optional: bool, is_single: bool) -> TensorSpec {
    let sizes = info.sizes();
    let (batched, dims) = match sizes.as_deref() {
        None => (true, &[][..]),
        Some([-1, row @ ..]) if !is_single => (true, row),
        Some(dims) => (false, dims),
    };
    TensorSpec {
        name: alias.to_owned(),
        datatype: tf_serving::datatype_of(info.dtype()),
        dims: dims.to_vec(),
        layout: None,
        optional,
        batched,
        of_any_rank: sizes.is_none(),
    }
}

/// A picture's own dimensions: a model without a batch dimension may have one of size 1 in front of them.
fn without_ones(dims: &[i64]) -> &[i64] {
    match dims {
        [1, rest @ ..] if rest.len() >= 3 => without_ones(rest),
        _ => dims,
    }
}

/// `asked` as the server writes it. Triton reads the number that a text begins with, so "01", " 1" and "1x" are all version 1;
/// a server with versions of other names has them in its list.
pub(super) fn canonical_version(asked: &str, versions: &[String]) -> String {
    if versions.iter().any(|version| version == asked) {
        return asked.to_owned();
    }
    let text = asked.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let text = text.strip_prefix('+').unwrap_or(text);
    let digits = &text[..text.bytes().take_while(u8::is_ascii_digit).count()];
    digits.parse::<i64>().map_or_else(|_| asked.to_owned(), |version| version.to_string())
}

fn spec(
    name: &str,
    datatype: Option<Datatype>,
    dims: &[i64],
    batching: Batching,
    layout: Option<Layout>,
    optional: bool,
    plain: bool,
) -> TensorSpec {
    let leading = dims.len() > 1 && dims[0] == -1;
    let (batched, dims) = match batching {
        Batching::UpTo(_) => (plain, dims),
        // [-1, -1, 3] is a picture of any size; [-1, 32, 32, 3] is a batch of them. [-1] of BYTES is a batch of single elements.
        Batching::ByDims if leading && (dims.len() != 3) => (plain, &dims[1..]),
        Batching::ByDims if dims == [-1] && datatype == Some(Datatype::Bytes) => (plain, &dims[1..]),
        Batching::ByDims => (false, dims),
    };
    TensorSpec {
        name: name.to_owned(),
        datatype,
        dims: dims.to_vec(),
        layout,
        optional,
        batched,
        of_any_rank: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tensorflow::serving::ModelSpec;
    use crate::protocol::tensorflow::{DataType, TensorShapeProto, tensor_shape_proto::Dim};

    fn config(max_batch_size: i32, input: &[i64], output: &[i64]) -> Signature {
        let input = pb::ModelInput {
            name: "image".into(),
            data_type: pb::DataType::TypeUint8.into(),
            dims: input.to_vec(),
            ..Default::default()
        };
        let output = pb::ModelOutput {
            name: "scores".into(),
            data_type: pb::DataType::TypeFp32.into(),
            dims: output.to_vec(),
        };
        let config = pb::ModelConfig {
            max_batch_size,
            input: vec![input],
            output: vec![output],
            ..Default::default()
        };
        Signature::from_config(&config, vec!["1".into(), "10".into(), "9".into()])
    }

    #[test]
    fn rows_split_only_where_everything_carries_the_batch_dimension() {
        assert!(config(16, &[32, 32, 3], &[10]).splits());
        assert!(config(0, &[-1, 32, 32, 3], &[-1, 10]).splits());
        assert!(!config(0, &[-1, 32, 32, 3], &[10]).splits());
        assert!(!config(0, &[32, 32, 3], &[10]).splits());
    }

    #[test]
    fn the_newest_version_serves_those_who_name_none() {
        let signature = config(16, &[32, 32, 3], &[10]);
        assert_eq!(signature.version_served(""), "10");
        for writing in ["1", "01", " 1", "+1", "1x", "1.0"] {
            assert_eq!(signature.version_served(writing), "1", "{writing:?}");
        }
        assert_eq!(signature.version_served("x"), "x");
    }

    #[test]
    fn a_picture_is_told_by_its_channels() {
        for (dims, is_picture) in [
            (&[32, 32, 3][..], true),
            (&[3, 224, 224], true),
            (&[-1, -1, 3], true),
            (&[28, 28, 1], true),
            (&[10], false),
            (&[16, 16, 16], false),
            (&[1, 224, 224, 3], true),
            (&[1, 1, 28, 28], true),
            (&[3, 3], false),
        ] {
            assert_eq!(config(8, dims, &[10]).image_input(None, None).is_some(), is_picture, "{dims:?}");
        }
    }

    fn info(dtype: DataType, dims: &[i64]) -> TensorInfo {
        let dim = dims.iter().map(|&size| Dim { size, name: String::new() }).collect();
        let tensor_shape = Some(TensorShapeProto { dim, unknown_rank: false });
        TensorInfo { dtype: dtype.into(), tensor_shape, ..TensorInfo::default() }
    }

    /// What TensorFlow Serving says of version 3 of a model whose signature `x` takes `input`.
    fn metadata(method: &str, input: TensorInfo) -> GetModelMetadataResponse {
        let signature = SignatureDef {
            inputs: [("image".to_owned(), input)].into(),
            outputs: [("scores".to_owned(), info(DataType::DtFloat, &[-1, 10]))].into(),
            method_name: method.into(),
            ..SignatureDef::default()
        };
        let map = SignatureDefMap { signature_def: [("x".to_owned(), signature)].into() };
        let described = prost_types::Any {
            type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".into(),
            value: prost::Message::encode_to_vec(&map),
        };
        let spec = ModelSpec { version_choice: Some(VersionChoice::Version(3)), ..ModelSpec::default() };
        GetModelMetadataResponse {
            model_spec: Some(spec),
            metadata: [("signature_def".to_owned(), described)].into(),
        }
    }

    #[test]
    fn a_saved_models_signature_is_that_of_its_name() {
        let metadata = metadata("tensorflow/serving/predict", info(DataType::DtUint8, &[-1, 32, 32, 3]));
        let signature = Signature::from_signature_def(&metadata, "x").unwrap();
        assert_eq!(signature.versions, ["3"]);
        assert!(signature.complete && signature.splits() && signature.pictures == Pictures::Inputs);
        let image = signature.image_input(None, None).unwrap();
        assert_eq!(
            (image.datatype, &image.dims[..], image.batched),
            (Some(Datatype::Uint8), &[32, 32, 3][..], true)
        );
        assert!(!image.optional);
        assert_eq!(Signature::from_signature_def(&metadata, "y"), None);
        let mut other = metadata;
        other.metadata.get_mut("signature_def").unwrap().type_url = "type.googleapis.com/other".into();
        assert_eq!(Signature::from_signature_def(&other, "x"), None);
        assert_eq!(Signature::from_signature_def(&GetModelMetadataResponse::default(), "x"), None);
    }

    #[test]
    fn a_leading_dimension_of_any_size_counts_rows_but_of_one_picture_of_any_size() {
        for (dtype, dims, batched, row) in [
            (DataType::DtUint8, &[-1, 32, 32, 3][..], true, &[32, 32, 3][..]),
            (DataType::DtUint8, &[-1, -1, -1, 3], true, &[-1, -1, 3]),
            (DataType::DtUint8, &[-1, -1, 3], false, &[-1, -1, 3]),
            (DataType::DtUint8, &[-1, 28, 28], true, &[28, 28]),
            (DataType::DtUint8, &[1, 32, 32, 3], false, &[1, 32, 32, 3]),
            (DataType::DtString, &[-1], true, &[]),
            (DataType::DtString, &[-1, 1], true, &[1]),
            (DataType::DtString, &[], false, &[]),
        ] {
            let metadata = metadata("tensorflow/serving/predict", info(dtype, dims));
            let signature = Signature::from_signature_def(&metadata, "x").unwrap();
            let input = &signature.inputs[0];
            assert_eq!((input.batched, &input.dims[..]), (batched, row), "{dtype:?} {dims:?}");
        }
    }

    #[test]
    fn a_rank_that_is_not_known_takes_any_shape() {
        let mut input = info(DataType::DtFloat, &[]);
        input.tensor_shape = Some(TensorShapeProto { unknown_rank: true, ..TensorShapeProto::default() });
        let signature =
            Signature::from_signature_def(&metadata("tensorflow/serving/predict", input), "x").unwrap();
        let input = &signature.inputs[0];
        assert!(input.of_any_rank && input.batched && input.takes(&[32, 32, 3]) && input.takes(&[]));
        assert!(
            signature.image_input(None, None).is_none()
                && signature.image_input(Some("image"), None).is_some()
        );
    }

    #[test]
    fn a_signature_that_takes_examples_holds_its_pictures_in_their_features() {
        for (method, examples, complete) in [
            ("tensorflow/serving/classify", true, true),
            ("tensorflow/serving/regress", true, true),
            ("tensorflow/serving/predict", false, true),
            ("my/own", false, false),
        ] {
            let metadata = metadata(method, info(DataType::DtString, &[-1]));
            let signature = Signature::from_signature_def(&metadata, "x").unwrap();
            assert_eq!(
                (signature.pictures == Pictures::Features, signature.complete),
                (examples, complete),
                "{method}"
            );
            assert_eq!(signature.image_input(Some("image/encoded"), None).is_some(), examples, "{method}");
        }
    }
}
