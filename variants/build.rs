//! Compiles ONNX's own protocol file in Rust (protox): bytes stay slices of the file they were read from.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let set = protox::compile(["protos/onnx.proto"], ["protos"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(set)?;
    println!("cargo:rerun-if-changed=protos");
    Ok(())
}
