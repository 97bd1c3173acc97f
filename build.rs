//! Turns `proto/` into Rust modules, with a protobuf compiler written in Rust so that no machine needs one installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "triton/inference.proto",
        "tensorflow/tensor.proto",
        "tensorflow/example.proto",
        "tensorflow/signature.proto",
        "tensorflow_serving/model.proto",
        "tensorflow_serving/predict.proto",
        "tensorflow_serving/example.proto",
        "tensorflow_serving/serialized.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    // `Bytes` fields share the received message's memory: a tensor is never copied to be looked at.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
