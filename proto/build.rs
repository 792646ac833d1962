//! Compiles the protocol files in Rust (protox), so that building Sluice's own protocols needs no protoc.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["protos/inference.proto", "protos/sluice.proto", "protos/health.proto"];
    let descriptors = protox::compile(files, ["protos"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=protos");
    Ok(())
}
