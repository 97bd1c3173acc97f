//! Replies as messages of a stream, byte for byte as Triton writes them (measured on 2.51, `tests/triton/test_stream.py`).

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::protocol::pb::{self, InferParameter, infer_parameter::ParameterChoice};
use crate::protocol::wire;

/// The number of `parameters` in a response.
const PARAMETERS: u32 = 4;

/// The number of `infer_response` in a message of a stream.
const RESPONSE: u32 = 2;

/// A unary reply as a message of a stream: the same bytes, with a parameter that says that nothing follows for this request.
pub fn response(unary: &[u8]) -> Bytes {
    let last = last_response().encode_to_vec();
    let length = unary.len() + last.len();
    let mut message = BytesMut::with_capacity(length + 16);
    encode_key(RESPONSE, WireType::LengthDelimited, &mut message);
    encode_varint(length as u64, &mut message);
    // Fields stand in the order of their numbers, as the server writes them.
    let before: usize = wire::fields(unary)
        .take_while(|field| field.number <= PARAMETERS)
        .map(|field| field.whole.len())
        .sum();
    message.extend_from_slice(&unary[..before]);
    message.extend_from_slice(&last);
    message.extend_from_slice(&unary[before..]);
    message.freeze()
}

/// An error in place of the response to the request `id`; `of_model` names the model where it was the model that gave it.
pub fn error(text: &str, id: &str, of_model: Option<&str>) -> Bytes {
    let mut response = pb::ModelInferResponse { id: id.to_owned(), ..Default::default() };
    if let Some(model) = of_model {
        response =
            pb::ModelInferResponse { model_name: model.to_owned(), id: id.to_owned(), ..last_response() };
    }
    let message =
        pb::ModelStreamInferResponse { error_message: text.to_owned(), infer_response: Some(response) };
    message.encode_to_vec().into()
}

/// What a message of a stream says is wrong, where it is an error that the model itself gave.
pub fn error_of_model(message: &[u8]) -> Option<String> {
    let message = pb::ModelStreamInferResponse::decode(message).ok()?;
    let is_of_model = message.infer_response.is_some_and(|response| !response.parameters.is_empty());
    Some(message.error_message).filter(|error| is_of_model && !error.is_empty())
}

fn last_response() -> pb::ModelInferResponse {
    let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    pb::ModelInferResponse {
        parameters: [("triton_final_response".to_owned(), last)].into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_on_a_stream_is_the_unary_one_marked_as_the_last() {
        let unary = pb::ModelInferResponse {
            model_name: "clf".into(),
            model_version: "1".into(),
            id: "mine".into(),
            raw_output_contents: vec![Bytes::from_static(b"0123")],
            ..Default::default()
        };
        for id in ["mine", ""] {
            let unary = pb::ModelInferResponse { id: id.into(), ..unary.clone() };
            let marked = pb::ModelInferResponse { parameters: last_response().parameters, ..unary.clone() };
            let expected =
                pb::ModelStreamInferResponse { infer_response: Some(marked), ..Default::default() };
            assert_eq!(response(&unary.encode_to_vec()), expected.encode_to_vec());
        }
    }

    #[test]
    fn an_error_on_a_stream_names_its_request() {
        assert_eq!(error("no", "E", None), Bytes::from_static(b"\x0a\x02no\x12\x03\x1a\x01E"));
        assert_eq!(error("no", "", None), Bytes::from_static(b"\x0a\x02no\x12\x00"));
        assert_eq!(error_of_model(&error("no", "E", None)), None);
        assert_eq!(error_of_model(&error("no", "E", Some("clf"))).as_deref(), Some("no"));
        let of_model = pb::ModelStreamInferResponse::decode(error("no", "E", Some("clf"))).unwrap();
        let response = of_model.infer_response.unwrap();
        assert_eq!((response.model_name.as_str(), response.parameters.len()), ("clf", 1));
    }
}
