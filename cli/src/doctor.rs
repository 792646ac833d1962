//! `doctor`: what this machine has, what is missing, and what to do about it.

use crate::args::Doctor;
use crate::telemetry::say;
use registry::{EtcdConfig, RegistryConfig};
use std::process::ExitCode;

/// Ports of `up` and a gateway.
const PORTS: [u16; 3] = [8000, 8001, 8002];

pub(crate) async fn run(args: Doctor) -> anyhow::Result<ExitCode> {
    let mut missing = 0u32;
    let mut line = |good: bool, text: String| {
        missing = missing.saturating_add(u32::from(!good));
        say(&format!("{} {text}", if good { "ok  " } else { "!!  " }));
    };
    #[cfg(feature = "worker")]
    engines(&args, &mut line);
    for port in PORTS {
        match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
            Ok(_) => line(true, format!("port {port} is free")),
            Err(error) => line(false, format!("port {port}: {error}; choose others with --http, --grpc and --admin")),
        }
    }
    if !args.etcd.is_empty() {
        let config = EtcdConfig::new(args.etcd.clone());
        let answer = match registry::open(RegistryConfig::Etcd(config)) {
            Ok(registry) => registry.list("/sluice/v1/").await.map(|l| l.entries.len()),
            Err(error) => Err(error),
        };
        match answer {
            Ok(records) => line(true, format!("etcd at {} answers ({records} records of Sluice)", args.etcd.join(","))),
            Err(error) => line(false, format!("etcd: {error}")),
        }
    }
    Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(feature = "worker")]
fn engines(args: &Doctor, line: &mut dyn FnMut(bool, String)) {
    let host = worker::devices::discover();
    line(true, format!("processor {} · {} cores · {}", host.cpu_model, host.cores, host.isa.join(" ")));
    line(true, format!("memory {} MiB · {}", host.memory_bytes >> 20, host.os));
    match host.gpus.as_slice() {
        [] => line(true, "no NVIDIA GPU found (nvidia-smi): models run on the processor".to_owned()),
        gpus => gpus.iter().for_each(|(model, memory, driver)| line(true, format!("GPU {model} · {} MiB · driver {driver}", memory >> 20))),
    }
    match crate::role::library::open(args.onnxruntime.as_deref()) {
        Ok(runtime) => line(
            true,
            format!("ONNX Runtime {} at {} · {}", runtime.version(), runtime.path().display(), runtime.available_providers().join(", ")),
        ),
        Err(error) => line(false, error.to_string()),
    }
    match crate::role::library::find_openvino(args.openvino.as_deref()) {
        Ok(found) => line(true, format!("OpenVINO {} at {}", found.version, found.path.display())),
        Err(error) => line(args.openvino.is_none(), error.to_string()),
    }
}
