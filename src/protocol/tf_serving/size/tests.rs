//! What is said of a request's memory before it is decoded.

use prost::Message;

use super::super::testing::{raw, tensor, text, typed};
use super::*;
use crate::protocol::tensorflow::serving::{PredictRequest, SerializedExampleList};
use crate::protocol::tensorflow::{DataType, TensorProto};

fn request(tensors: Vec<TensorProto>) -> Vec<u8> {
    let inputs = tensors.into_iter().enumerate().map(|(at, tensor)| (at.to_string(), tensor)).collect();
    PredictRequest { inputs, ..PredictRequest::default() }.encode_to_vec()
}

#[test]
fn content_costs_next_to_nothing_beyond_itself() {
    let tensor = raw(DataType::DtUint8, &[1, 224, 224, 3], &vec![7; 150_528]);
    assert!(predict(&request(vec![tensor])) < 12_000);
}

#[test]
fn typed_values_cost_what_they_take() {
    for (dtype, size) in super::super::testing::NUMBERS {
        let tensor = typed(dtype, &[1000], &vec![1; 1000 * size]);
        assert!(predict(&request(vec![tensor])) >= 2 * 1000 * size, "{dtype:?}");
    }
    // One by one, as old clients write them.
    let unpacked: Vec<u8> = [0x58, 0x01].repeat(1000);
    let whole = [&[0x12, 0xd5, 0x0f, 0x0a, 0x00, 0x12, 0xd0, 0x0f][..], &unpacked].concat();
    assert_eq!(PredictRequest::decode(&whole[..]).unwrap().inputs[""].bool_val.len(), 1000);
    assert!(predict(&whole) >= 3 * 1000);
    let elements = vec![&b""[..]; 1000];
    assert!(predict(&request(vec![text(&[1000], &elements)])) >= 1000 * 4 * size_of::<bytes::Bytes>());
    assert!(
        predict(&request(vec![raw(DataType::DtString, &[1000], &[0; 1000])]))
            >= 1000 * size_of::<bytes::Bytes>()
    );
    let dims = request(vec![tensor(DataType::DtFloat, &vec![1; 1000])]);
    assert!(predict(&dims) >= 1000 * 2 * size_of::<crate::protocol::tensorflow::tensor_shape_proto::Dim>());
}

#[test]
fn repeated_values_are_counted_up_to_what_is_made_at_all() {
    let one = |side| TensorProto { float_val: vec![1.0], ..tensor(DataType::DtFloat, &[side, side]) };
    assert!(predict(&request(vec![one(1000)])) >= 4_000_000);
    assert!(predict(&request(vec![one(1000), one(1000)])) >= 8_000_000);
    let most = predict(&request(vec![one(1 << 31)]));
    assert!((MOST_FILLED as usize..MOST_FILLED as usize + 20_000).contains(&most));
    // A value in two parts is merged: each part alone counts little.
    let part = |dims: &[i64]| tensor(DataType::DtFloat, dims).encode_to_vec();
    let entry =
        [part(&[1000]), part(&[1000])].map(|part| [&[0x12, part.len() as u8][..], &part].concat()).concat();
    assert!(predict(&[&[0x12, entry.len() as u8][..], &entry].concat()) >= 4_000_000);
}

#[test]
fn many_empty_things_cost_what_they_take() {
    let empty_inputs = [0x12, 0x00].repeat(1000);
    assert!(predict(&empty_inputs) >= 1000 * 2 * size_of::<TensorProto>());
    let list = SerializedExampleList { examples: vec![bytes::Bytes::new(); 1000] }.encode_to_vec();
    let in_list = |list: &[u8]| {
        let mut input = Vec::new();
        prost::encoding::encode_key(1, WireType::LengthDelimited, &mut input);
        prost::encoding::encode_varint(list.len() as u64, &mut input);
        input.extend(list);
        let mut request = Vec::new();
        prost::encoding::encode_key(2, WireType::LengthDelimited, &mut request);
        prost::encoding::encode_varint(input.len() as u64, &mut request);
        request.extend(input);
        request
    };
    assert!(example(&in_list(&list)) >= 1000 * 4 * size_of::<bytes::Bytes>());
    // An Example of a thousand empty features: each an entry of a map.
    let features = [0x0a, 0x00].repeat(1000);
    let of_features = [&[0x0a, 0xd3, 0x0f, 0x0a, 0xd0, 0x0f][..], &features].concat();
    assert!(example(&in_list(&of_features)) >= 1000 * 200);
}

#[test]
fn what_does_not_parse_ends_the_count() {
    for payload in [&[0xff; 40][..], &[]] {
        assert_eq!((predict(payload), example(payload)), (0, 0));
    }
}
