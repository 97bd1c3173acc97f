//! What requests of Classify, Regress and MultiInference are read as, case by case.

use proptest::prelude::*;

use super::super::testing::{READING, info, metadata, model};
use super::*;
use crate::protocol::query::Family;
use crate::protocol::tensorflow::serving::{
    Class, ClassificationRequest, ClassificationResult, Classifications, ExampleList, ExampleListWithContext,
    InferenceResult, Input, MultiInferenceRequest, Regression, RegressionRequest, RegressionResult,
    inference_result, input, model_spec::VersionChoice,
};
use crate::protocol::tensorflow::{self, BytesList, DataType, Example, FloatList, Int64List, feature};

const KEY: &[u8; 32] = &[7; 32];
const JPEG: &[u8] = b"\xff\xd8\xff\xe0 a picture";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n another";

fn signature() -> Signature {
    let examples = [("inputs", info(DataType::DtString, Some(&[-1])))];
    let scores = [("scores", info(DataType::DtFloat, Some(&[-1, 10])))];
    Signature::from_signature_def(&metadata("classify", &examples, &scores), "serving_default").unwrap()
}

fn bytes(values: &[&[u8]]) -> feature::Kind {
    feature::Kind::BytesList(BytesList {
        value: values.iter().map(|value| Bytes::copy_from_slice(value)).collect(),
    })
}

fn floats(count: usize) -> feature::Kind {
    feature::Kind::FloatList(FloatList { value: vec![0.5; count] })
}

fn integers(count: usize) -> feature::Kind {
    feature::Kind::Int64List(Int64List { value: vec![7; count] })
}

fn example(features: Vec<(&str, feature::Kind)>) -> Example {
    let of = |(name, kind): (&str, _)| (name.to_owned(), tensorflow::Feature { kind: Some(kind) });
    Example { features: Some(tensorflow::Features { feature: features.into_iter().map(of).collect() }) }
}

fn classify(examples: Vec<Example>) -> Bytes {
    let kind = input::Kind::ExampleList(ExampleList { examples });
    let input = Some(Input { kind: Some(kind) });
    ClassificationRequest { model_spec: Some(model("clf", None, "")), input }.encode_to_vec().into()
}

fn classify_with(context: Example, examples: Vec<Example>) -> Bytes {
    let list = ExampleListWithContext { examples, context: Some(context) };
    let input = Some(Input { kind: Some(input::Kind::ExampleListWithContext(list)) });
    ClassificationRequest { model_spec: Some(model("clf", None, "")), input }.encode_to_vec().into()
}

fn read_as(payload: &Bytes, image_input: Option<&str>) -> Result<Arc<dyn Query>, Refusal> {
    let how = How { image_input, reading: READING };
    decode_classify(payload).unwrap().read(payload.clone(), &signature(), how)
}

fn read(payload: &Bytes) -> Result<Arc<dyn Query>, Refusal> {
    read_as(payload, None)
}

/// The picture that one Example is read to hold.
fn picture(own: &Example, context: &Example, chosen: Option<&str>) -> Result<(String, Bytes), Refusal> {
    let [own, context] =
        [own, context].map(|example| features::read(&example.encode_to_vec().into()).unwrap());
    let found = Merged { own: &own, context: &context }.picture(chosen)?;
    Ok((String::from_utf8_lossy(&found.name).into_owned(), found.bytes))
}

#[test]
fn the_model_is_that_of_the_request_or_of_its_first_task() {
    let spec = || model("clf", Some(VersionChoice::VersionLabel("new".into())), "x");
    let classify = ClassificationRequest { model_spec: Some(spec()), input: None }.encode_to_vec().into();
    let regress = RegressionRequest { model_spec: Some(spec()), input: None }.encode_to_vec().into();
    let task = |name: &str, signature: &str| InferenceTask {
        model_spec: Some(model(name, Some(VersionChoice::VersionLabel("new".into())), signature)),
        method_name: "tensorflow/serving/classify".into(),
    };
    let multi = |tasks| Bytes::from(MultiInferenceRequest { tasks, input: None }.encode_to_vec());
    let expected = ModelKey {
        family: Family::TfServing,
        name: "clf".into(),
        version: "label:new".into(),
        signature: "x".into(),
    };
    for decoded in [
        decode_classify(&classify),
        decode_regress(&regress),
        decode_multi_inference(&multi(vec![task("clf", "x"), task("clf", "y")])),
    ] {
        assert_eq!(decoded.unwrap().asks(), expected);
    }
    let others = multi(vec![task("clf", "x"), task("other", "y")]);
    assert!(matches!(decode_multi_inference(&others), Err(Refusal::Malformed(_))));
    assert!(matches!(decode_classify(&Bytes::from_static(b"\xff")), Err(Refusal::Malformed(_))));
}

#[test]
fn the_picture_is_the_named_feature_or_the_only_one_that_begins_like_one() {
    let none = Example::default();
    let one = example(vec![
        ("image/encoded", bytes(&[JPEG])),
        ("image/format", bytes(&[b"jpeg"])),
        ("id", integers(1)),
    ]);
    assert_eq!(picture(&one, &none, None).unwrap(), ("image/encoded".into(), JPEG.into()));
    let two = example(vec![("a", bytes(&[JPEG])), ("b", bytes(&[PNG]))]);
    assert_eq!(picture(&two, &none, Some("b")).unwrap(), ("b".into(), PNG.into()));
    for (name, example, chosen) in [
        ("two pictures", &two, None),
        ("another name", &two, Some("c")),
        ("no value", &example(vec![("a", bytes(&[]))]), Some("a")),
        ("two values", &example(vec![("a", bytes(&[JPEG, JPEG]))]), Some("a")),
        ("two values, unnamed", &example(vec![("a", bytes(&[JPEG, JPEG]))]), None),
        ("floats", &example(vec![("a", floats(12))]), Some("a")),
        ("integers", &example(vec![("a", integers(12))]), Some("a")),
        ("nothing but floats", &example(vec![("a", floats(12))]), None),
        ("bytes of no container", &example(vec![("a", bytes(&[b"\x80\xfe\x02"]))]), None),
        (
            "a decoy beside bytes",
            &example(vec![("a", bytes(&[JPEG])), ("b", bytes(&[b"\x80\xfe\x02"]))]),
            None,
        ),
        ("a decoy beside floats", &example(vec![("a", bytes(&[JPEG])), ("b", floats(784))]), None),
        ("a decoy beside integers", &example(vec![("a", bytes(&[JPEG])), ("b", integers(3072))]), None),
        ("nothing", &none, None),
    ] {
        let found = picture(example, &none, chosen);
        assert!(matches!(found, Err(Refusal::Unreadable { .. })), "{name}: {found:?}");
    }
}

#[test]
fn a_context_stands_in_front_and_an_examples_own_features_win() {
    let context = example(vec![("image", bytes(&[PNG])), ("camera", bytes(&[b"north"]))]);
    let own = example(vec![("image", bytes(&[JPEG]))]);
    assert_eq!(picture(&own, &context, None).unwrap().1, JPEG);
    assert_eq!(picture(&Example::default(), &context, Some("image")).unwrap().1, PNG);
    let query = read(&classify_with(context.clone(), vec![own.clone(), Example::default()])).unwrap();
    assert_eq!(query.rows(), 2);
    assert!(query.has_other_inputs());
    // An empty feature is the example's own to one parser, and nothing to the other.
    let mut empty = own;
    empty.features.as_mut().unwrap().feature.insert("camera".into(), tensorflow::Feature::default());
    assert!(matches!(read(&classify_with(context, vec![empty])), Err(Refusal::Dangerous(_))));
}

#[test]
fn a_context_that_stands_there_twice_is_dangerous() {
    let context = example(vec![("image", bytes(&[JPEG]))]).encode_to_vec();
    let list = SerializedExampleListWithContext {
        examples: vec![Bytes::new()],
        context: vec![context.clone().into(), context.into()],
    };
    let input = Some(SerializedInput { kind: Some(Kind::ExampleListWithContext(list)) });
    let payload = SerializedRequest { model_spec: None, input }.encode_to_vec().into();
    assert!(matches!(read(&payload), Err(Refusal::Dangerous(_))));
}

#[test]
fn text_alone_is_passed_where_no_picture_is_named() {
    let text = || example(vec![("query", bytes(&[b"shoes", b"red"]))]);
    assert!(matches!(read(&classify(vec![text(), text()])), Err(Refusal::Text)));
    assert!(matches!(read_as(&classify(vec![text()]), Some("query")), Err(Refusal::Unreadable { .. })));
    let with_numbers = example(vec![("query", bytes(&[b"shoes"])), ("pixels", floats(12))]);
    assert!(matches!(read(&classify(vec![with_numbers])), Err(Refusal::Unreadable { .. })));
    let picture = example(vec![("image", bytes(&[JPEG]))]);
    assert!(matches!(read(&classify(vec![text(), picture])), Err(Refusal::Unreadable { .. })));
}

#[test]
fn no_rows_are_malformed_and_too_many_dangerous() {
    for payload in [classify(Vec::new()), ClassificationRequest::default().encode_to_vec().into()] {
        assert!(matches!(read(&payload), Err(Refusal::Malformed(_))));
    }
    let many = classify(vec![example(vec![("image", bytes(&[JPEG]))]); 257]);
    assert_eq!(decode_classify(&many).unwrap().most_rows(), 256);
    assert!(matches!(read(&many), Err(Refusal::Dangerous(_))));
}

#[test]
fn the_picture_of_each_row_is_decoded() {
    let (file, levels) = super::super::testing::png();
    let query = read(&classify(vec![example(vec![("image", bytes(&[&file]))]); 2])).unwrap();
    assert_eq!(query.image(1).unwrap().rgb(), levels);
    assert!(query.decode_bytes() > 0);
}

#[test]
fn a_picture_that_does_not_decode_is_unreadable() {
    let query = read(&classify(vec![example(vec![("image", bytes(&[JPEG]))])])).unwrap();
    assert!(matches!(query.image(0), Err(Refusal::Unreadable { input, .. }) if input == "image"));
}

#[test]
fn other_features_are_the_other_inputs() {
    let row = |camera: &[u8]| example(vec![("camera", bytes(&[camera])), ("image", bytes(&[JPEG]))]);
    let digests = read(&classify(vec![row(b"a"), row(b"b"), row(b"a")])).unwrap().other_inputs(KEY);
    assert!(digests[0] == digests[2] && digests[0] != digests[1]);
    let alone = || example(vec![("image", bytes(&[JPEG]))]);
    let query = read(&classify(vec![alone(), alone()])).unwrap();
    assert!(!query.has_other_inputs() && query.other_inputs(KEY) == [0, 0]);
    let of_context = |camera: &[u8]| {
        let context = example(vec![("camera", bytes(&[camera]))]);
        read(&classify_with(context, vec![alone(), alone()])).unwrap().other_inputs(KEY)
    };
    assert!(of_context(b"a")[0] == of_context(b"a")[1] && of_context(b"a") != of_context(b"b"));
}

#[test]
fn the_request_for_some_rows_holds_those_rows_and_what_we_do_not_know() {
    let row = |at: u8| example(vec![("image", bytes(&[&[JPEG, &[at]].concat()]))]);
    let unknown = [0x9a, 0x06, 0x01, 0x61];
    let payload: Bytes = [&classify(vec![row(0), row(1), row(2)])[..], &unknown].concat().into();
    let sent = read(&payload).unwrap().for_rows(&[0, 2], &signature());
    let expected: Bytes = [&classify(vec![row(0), row(2)])[..], &[]].concat().into();
    let decoded = |payload: &[u8]| ClassificationRequest::decode(payload).unwrap();
    assert_eq!(decoded(&sent), decoded(&expected));
    assert!(sent.windows(4).any(|window| window == unknown));
    let context = example(vec![("camera", bytes(&[b"north"]))]);
    let payload = classify_with(context.clone(), vec![row(0), row(1)]);
    let sent = read(&payload).unwrap().for_rows(&[1], &signature());
    assert_eq!(decoded(&sent), decoded(&classify_with(context, vec![row(1)])));
    assert_eq!(read(&payload).unwrap().for_all_rows(&signature()), None);
}

fn spec() -> ModelSpec {
    model("clf", Some(VersionChoice::Version(3)), "serving_default")
}

fn classes(rows: usize) -> ClassificationResult {
    let class = |score: usize| Class { label: format!("class {score}"), score: score as f32 };
    let row = |row: usize| Classifications { classes: (0..row).map(class).collect() };
    ClassificationResult { classifications: (0..rows).map(row).collect() }
}

fn values(rows: usize) -> RegressionResult {
    RegressionResult { regressions: (0..rows).map(|row| Regression { value: row as f32 }).collect() }
}

fn both(rows: usize) -> MultiInferenceResponse {
    use inference_result::Result::{ClassificationResult, RegressionResult};
    let result = |result| InferenceResult { model_spec: Some(spec()), result: Some(result) };
    MultiInferenceResponse {
        results: vec![result(ClassificationResult(classes(rows))), result(RegressionResult(values(rows)))],
    }
}

proptest! {
    #[test]
    fn replies_taken_apart_and_put_together_are_themselves(rows in 1..6usize) {
        let row = || example(vec![("image", bytes(&[JPEG]))]);
        let payload = classify(vec![row(); rows]);
        let how = || How { image_input: None, reading: READING };
        let input = ClassificationRequest::decode(&payload[..]).unwrap().input;
        let multi: Bytes = MultiInferenceRequest { tasks: Vec::new(), input }.encode_to_vec().into();
        let calls = [
            (decode_classify(&payload), &payload, ClassificationResponse { result: Some(classes(rows)), model_spec: Some(spec()) }.encode_to_vec()),
            (decode_regress(&payload), &payload, RegressionResponse { result: Some(values(rows)), model_spec: Some(spec()) }.encode_to_vec()),
            (decode_multi_inference(&multi), &multi, both(rows).encode_to_vec()),
        ];
        for (request, payload, whole) in calls {
            let query = request.unwrap().read(payload.clone(), &signature(), how()).unwrap();
            let told = query.told(whole.clone().into(), rows).unwrap();
            prop_assert_eq!(&told.version, "3");
            prop_assert_eq!(told.reply.unwrap(), None);
            let kept = told.rows.unwrap();
            prop_assert_eq!(kept.len(), rows);
            prop_assert_eq!(query.assemble(kept, None).unwrap(), &whole[..]);
            prop_assert!(query.told(whole.into(), rows + 1).unwrap().rows.is_err());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        mut payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            Just(classify(vec![example(vec![("image", bytes(&[JPEG])), ("size", integers(3))]); 2]).to_vec()),
            Just(classify_with(example(vec![("size", floats(3))]), vec![example(vec![("image", bytes(&[PNG]))])]).to_vec()),
        ],
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        chosen in prop_oneof![Just(None), Just(Some("image"))],
    ) {
        for (at, byte) in changes {
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
        }
        let payload = Bytes::from(payload);
        super::super::size::example(&payload);
        for request in [decode_classify(&payload), decode_regress(&payload), decode_multi_inference(&payload)] {
            let how = How { image_input: chosen, reading: READING };
            if let Ok(Ok(query)) = request.map(|request| request.read(payload.clone(), &signature(), how)) {
                for row in 0..query.rows() {
                    let _ = query.image(row);
                }
                let _ = (query.other_inputs(KEY), query.validity(KEY), query.for_rows(&[0], &signature()), query.decode_bytes());
            }
        }
    }
}

#[test]
fn each_call_and_signature_has_a_form_of_its_own_and_none_that_of_plain_tensors() {
    let payload = classify(vec![example(vec![("image", bytes(&[JPEG]))])]);
    let how = || How { image_input: None, reading: READING };
    let form = |request: Result<Box<dyn Request>, Refusal>, payload: &Bytes| {
        request.unwrap().read(payload.clone(), &signature(), how()).unwrap().form(KEY)
    };
    let input = ClassificationRequest::decode(&payload[..]).unwrap().input;
    let other = ClassificationRequest { model_spec: Some(model("clf", None, "x")), input: input.clone() };
    let other = Bytes::from(other.encode_to_vec());
    let task =
        |method: &str| InferenceTask { model_spec: Some(model("clf", None, "")), method_name: method.into() };
    let tasks = |tasks| Bytes::from(MultiInferenceRequest { tasks, input: input.clone() }.encode_to_vec());
    let (one, two) = (task("tensorflow/serving/classify"), task("tensorflow/serving/regress"));
    let single = tasks(vec![one.clone()]);
    let (both, swapped) = (tasks(vec![one.clone(), two.clone()]), tasks(vec![two, one]));
    let mut forms = vec![
        0,
        form(decode_classify(&payload), &payload),
        form(decode_regress(&payload), &payload),
        form(decode_classify(&other), &other),
        form(decode_multi_inference(&single), &single),
        form(decode_multi_inference(&both), &both),
        form(decode_multi_inference(&swapped), &swapped),
    ];
    forms.sort_unstable();
    forms.dedup();
    assert_eq!(forms.len(), 7);
}

#[test]
fn validity_covers_everything_but_pixels() {
    let of = |features| read(&classify(vec![example(features)])).unwrap().validity(KEY);
    let same = of(vec![("image", bytes(&[JPEG]))]);
    assert_eq!(of(vec![("image", bytes(&[b"\xff\xd8\xff another"]))]), same);
    for features in [
        vec![("image", bytes(&[PNG]))],
        vec![("picture", bytes(&[JPEG]))],
        vec![("image", bytes(&[JPEG])), ("size", integers(1))],
    ] {
        assert_ne!(of(features), same);
    }
    let query = read(&classify(vec![example(vec![("image", bytes(&[JPEG]))])])).unwrap();
    assert!(!query.is_accepted_by(&signature()), "a signature says nothing of features");
}

#[test]
fn the_work_of_examples_is_pictures_and_other_values_and_no_names() {
    let row = |name: &str, count| example(vec![("picture", bytes(&[JPEG])), (name, floats(count))]);
    let burden = |payload| read_as(&payload, Some("picture")).unwrap().burden();
    let two = burden(classify(vec![row("a", 3), row("a", 3)]));
    // Packed as they are written: two bytes before the numbers of a list.
    assert_eq!(two, Burden { tensors: 2 * (2 + 12), files: 2 * JPEG.len(), pixels: 0 });
    assert_eq!(burden(classify(vec![row(&"a".repeat(9000), 3), row("b", 3)])), two);
    assert_eq!(burden(classify(vec![row("a", 3), row("a", 4)])).tensors, two.tensors + 4);
    let context = example(vec![("weights", floats(10))]);
    assert_eq!(
        burden(classify_with(context, vec![row("a", 3), row("a", 3)])).tensors,
        two.tensors + 2 * (2 + 40),
        "with every row"
    );
}
