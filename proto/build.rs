//! Compiles the protocol files in Rust (protox), so that building Sluice's own protocols needs no protoc.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let public = ["protos/inference.proto", "protos/health.proto"];
    let ours = ["protos/sluice.proto"];
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let all = protox::compile(public.into_iter().chain(ours), ["protos"])?;
    std::fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(protox::compile(public, ["protos"])?)?;
    // Ours uses messages of the protocol: the ones generated above, not a second copy.
    let beside = out.join("ours");
    std::fs::create_dir_all(&beside)?;
    let builder = tonic_prost_build::configure().bytes(".").out_dir(beside).extern_path(".inference", "crate::inference");
    builder.compile_fds(protox::compile(ours, ["protos"])?)?;
    println!("cargo:rerun-if-changed=protos");
    Ok(())
}
