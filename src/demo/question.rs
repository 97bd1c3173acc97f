//! What the embedded model server takes for a question, and what it says to anything else: a Triton's codes and words.

use tonic::Status;

use super::model::VALUES;
use super::server::{IMAGE, INPUT, MAX_BATCH, MODEL, OUTPUT, VERSION};
use crate::protocol::pb;

/// Whether there is such a model.
pub(super) fn known(name: &str, version: &str) -> Result<(), Status> {
    if name != MODEL {
        return Err(Status::not_found(format!("Request for unknown model: '{name}' is not found")));
    }
    match version.parse::<i64>() {
        _ if version.is_empty() || version == VERSION => Ok(()),
        Ok(number) if number < 0 => Err(Status::invalid_argument(format!(
            "invalid model version specified '{version}' , version should be an integral value > 0"
        ))),
        Ok(_) => Err(Status::not_found(format!(
            "Request for unknown model: '{MODEL}' version {version} is not found"
        ))),
        Err(_) => Err(Status::invalid_argument(format!(
            "failed to get model version from specified version string '{version}' (details: stol), version \
             should be an integral value > 0"
        ))),
    }
}

/// The pictures' values, or why there are none.
pub(super) fn read(request: &pb::ModelInferRequest) -> Result<Vec<f32>, Status> {
    known(&request.model_name, &request.model_version)?;
    let refuse = |text: String| Status::invalid_argument(text);
    for output in &request.outputs {
        if output.parameters.contains_key("classification") {
            return Err(Status::unimplemented("the demo's model server gives no classification"));
        }
    }
    let id = if request.id.is_empty() { "<id_unknown>" } else { &request.id };
    let core = |text: String| Status::invalid_argument(format!("[request id: {id}] {text}"));
    let input = match request.inputs.as_slice() {
        [input] => input,
        [] => {
            return Err(core(format!(
                "expected 1 inputs but got 0 inputs for model '{MODEL}'. Got input(s) [], but missing required \
                 input(s) ['{INPUT}']. Please provide all required input(s)."
            )));
        }
        [_, second, ..] => {
            return Err(refuse(format!("unexpected inference input '{}' for model '{MODEL}'", second.name)));
        }
    };
    let data = data(request, input)?;
    if let Some(output) = request.outputs.iter().find(|output| output.name != OUTPUT) {
        return Err(refuse(format!("unexpected inference output '{}' for model '{MODEL}'", output.name)));
    }
    if input.name != INPUT {
        return Err(refuse(format!("unexpected inference input '{}' for model '{MODEL}'", input.name)));
    }
    let Some((rows, dims)) = input.shape.split_first() else {
        return Err(core(format!(
            "input '{INPUT}' has no shape but model requires batch dimension for '{MODEL}'"
        )));
    };
    if *rows > MAX_BATCH {
        return Err(core(format!("inference request batch-size must be <= {MAX_BATCH} for '{MODEL}'")));
    }
    if input.datatype != "FP32" {
        return Err(core(format!(
            "inference input '{INPUT}' data-type is '{}', but model '{MODEL}' expects 'FP32'",
            input.datatype
        )));
    }
    if dims != IMAGE {
        let got: Vec<String> = input.shape.iter().map(i64::to_string).collect();
        return Err(core(format!(
            "unexpected shape for input '{INPUT}' for model '{MODEL}'. Expected [-1,32,32,3], got [{}].",
            got.join(",")
        )));
    }
    let expected = rows.max(&1) * 4 * VALUES as i64;
    let found = match &data {
        Data::Raw(bytes) => bytes.len(),
        Data::Typed(values) => 4 * values.len(),
    };
    if *rows < 1 || found as i64 != expected {
        return Err(core(format!(
            "input byte size mismatch for input '{INPUT}' for model '{MODEL}'. Expected {expected}, got {found}"
        )));
    }
    Ok(match data {
        Data::Raw(bytes) => bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect(),
        Data::Typed(values) => values.to_vec(),
    })
}

enum Data<'a> {
    Raw(&'a [u8]),
    Typed(&'a [f32]),
}

fn data<'a>(
    request: &'a pb::ModelInferRequest,
    input: &'a pb::model_infer_request::InferInputTensor,
) -> Result<Data<'a>, Status> {
    let name = &input.name;
    let Some(contents) = &input.contents else {
        return request.raw_input_contents.first().map(|bytes| Data::Raw(bytes)).ok_or_else(|| {
            Status::invalid_argument(format!(
                "unable to find data for input tensor '{name}' for model '{MODEL}' in request."
            ))
        });
    };
    if !request.raw_input_contents.is_empty() {
        return Err(Status::invalid_argument(format!(
            "contents field must not be specified when using raw_input_contents for '{name}' for model '{MODEL}'"
        )));
    }
    let others = [
        ("BOOL", contents.bool_contents.len()),
        ("INT32", contents.int_contents.len()),
        ("INT64", contents.int64_contents.len()),
        ("UINT32", contents.uint_contents.len()),
        ("UINT64", contents.uint64_contents.len()),
        ("FP64", contents.fp64_contents.len()),
        ("BYTES", contents.bytes_contents.len()),
    ];
    match others.iter().find(|(_, values)| *values > 0) {
        Some((other, _)) => Err(Status::invalid_argument(format!(
            "unexpected explicit tensor data for input tensor '{name}' for model '{MODEL}' of type '{other}', \
             expected datatype 'FP32'"
        ))),
        None => Ok(Data::Typed(&contents.fp32_contents)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
    use tonic::Code;

    fn question(rows: i64) -> pb::ModelInferRequest {
        pb::ModelInferRequest {
            model_name: MODEL.to_owned(),
            inputs: vec![InferInputTensor {
                name: INPUT.to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![rows, 32, 32, 3],
                ..Default::default()
            }],
            raw_input_contents: vec![Bytes::from(vec![0; rows as usize * 4 * VALUES])],
            ..Default::default()
        }
    }

    #[test]
    fn batches_of_every_allowed_size_are_read() {
        for rows in [1, 2, MAX_BATCH] {
            assert_eq!(read(&question(rows)).unwrap().len(), rows as usize * VALUES);
        }
        let mut typed = question(1);
        typed.raw_input_contents.clear();
        let fp32_contents = vec![0.25; VALUES];
        typed.inputs[0].contents = Some(pb::InferTensorContents { fp32_contents, ..Default::default() });
        assert_eq!(read(&typed).unwrap(), vec![0.25; VALUES]);
    }

    #[test]
    fn every_refusal_has_the_code_and_words_of_a_triton() {
        type Change = fn(&mut pb::ModelInferRequest);
        let cases: [(Change, Code, &str); 14] = [
            (
                |r| r.model_name = "nope".into(),
                Code::NotFound,
                "Request for unknown model: 'nope' is not found",
            ),
            (|r| r.model_version = "9".into(), Code::NotFound, "'lenet' version 9 is not found"),
            (
                |r| r.model_version = "-1".into(),
                Code::InvalidArgument,
                "invalid model version specified '-1'",
            ),
            (|r| r.model_version = "x".into(), Code::InvalidArgument, "version string 'x' (details: stol)"),
            (
                |r| r.inputs.clear(),
                Code::InvalidArgument,
                "[request id: <id_unknown>] expected 1 inputs but got 0",
            ),
            (
                |r| r.inputs[0].name = "imag".into(),
                Code::InvalidArgument,
                "unexpected inference input 'imag'",
            ),
            (|r| r.raw_input_contents.clear(), Code::InvalidArgument, "unable to find data for input tensor"),
            (
                |r| r.inputs[0].contents = Some(pb::InferTensorContents::default()),
                Code::InvalidArgument,
                "contents field must not",
            ),
            (|r| r.inputs[0].shape.clear(), Code::InvalidArgument, "has no shape but model requires batch"),
            (|r| r.inputs[0].shape[0] = 33, Code::InvalidArgument, "batch-size must be <= 32 for 'lenet'"),
            (
                |r| r.inputs[0].datatype = "UINT8".into(),
                Code::InvalidArgument,
                "data-type is 'UINT8', but model",
            ),
            (|r| r.inputs[0].shape[1] = 16, Code::InvalidArgument, "Expected [-1,32,32,3], got [1,16,32,3]."),
            (|r| r.inputs[0].shape[0] = 2, Code::InvalidArgument, "Expected 24576, got 12288"),
            (
                |r| r.outputs = vec![InferRequestedOutputTensor { name: "no".into(), ..Default::default() }],
                Code::InvalidArgument,
                "unexpected inference output 'no' for model 'lenet'",
            ),
        ];
        for (change, code, words) in cases {
            let mut request = question(1);
            change(&mut request);
            let status = read(&request).unwrap_err();
            assert_eq!(status.code(), code, "{words}");
            assert!(status.message().contains(words), "expected {words:?}, found {:?}", status.message());
        }
    }
}
