//! Turns `proto/` into Rust modules, with a protobuf compiler written in Rust so that no machine needs one installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["triton/inference.proto"], ["proto"])?;
    // `Bytes` fields share the received message's memory: a tensor is never copied to be looked at.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
