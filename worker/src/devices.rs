//! What this host has: processor, memory, graphics processors, and the names of their classes.

use policy::{Capabilities, DeviceRecord};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Instruction sets that decide which kernels an engine uses, weakest first; x86's, then Arm's.
const ISA: [&str; 16] = [
    "avx2",
    "fma",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16", // x86
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve", // Arm
];
/// Those that any host with a later one has too: named in a class only where nothing later is there.
const ISA_COMMON: [&str; 6] = ["avx2", "fma", "avx512f", "amx_tile", "asimd", "asimdhp"];

/// nvidia-smi takes a second or two; with a broken driver it never ends.
const NVIDIA_SMI_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the host. Blocks for as long as nvidia-smi takes, where there is one.
pub fn discover() -> Capabilities {
    let cpuinfo = read("/proc/cpuinfo");
    let uname = rustix::system::uname();
    Capabilities {
        cpu_model: cpu_model(&cpuinfo),
        // Counts what affinity and a cgroup's quota (both versions) leave.
        cores: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        isa: isa(&cpuinfo),
        memory_bytes: memory_total(),
        os: format!("{} {}", os_name(&read("/etc/os-release")), uname.release().to_string_lossy()),
        gpus: nvidia_smi().map_or_else(Vec::new, |text| gpus(&text)),
        engines: Default::default(),
    }
}

/// The host's devices, the processor first, with the class that a profile holds for.
pub fn devices(host: &Capabilities) -> Vec<DeviceRecord> {
    let cpu = DeviceRecord { name: "cpu".to_owned(), class: cpu_class(&host.isa, host.cores), memory_bytes: host.memory_bytes };
    let gpu = |(i, (model, memory_bytes, _)): (usize, &(String, u64, String))| DeviceRecord {
        name: format!("cuda:{i}"),
        class: format!("cuda:{}", slug(model)),
        memory_bytes: *memory_bytes,
    };
    std::iter::once(cpu).chain(host.gpus.iter().enumerate().map(gpu)).collect()
}

/// Bytes of main memory that could be had now, within the cgroup's limit.
pub fn memory_available() -> u64 {
    let free_in_cgroup = match (
        cgroup_number("memory.max", "memory/memory.limit_in_bytes"),
        cgroup_number("memory.current", "memory/memory.usage_in_bytes"),
    ) {
        (Some(max), Some(current)) => max.saturating_sub(current),
        _ => u64::MAX,
    };
    meminfo(&read("/proc/meminfo"), "MemAvailable").unwrap_or(0).min(free_in_cgroup)
}

fn memory_total() -> u64 {
    let limit = cgroup_number("memory.max", "memory/memory.limit_in_bytes").unwrap_or(u64::MAX);
    meminfo(&read("/proc/meminfo"), "MemTotal").unwrap_or(0).min(limit)
}

/// A limit of the control group this process sees as its own root, version 2 or 1; `None` where there is none.
fn cgroup_number(v2: &str, v1: &str) -> Option<u64> {
    let root = Path::new("/sys/fs/cgroup");
    let text = std::fs::read_to_string(root.join(v2)).or_else(|_| std::fs::read_to_string(root.join(v1))).ok()?;
    text.trim().parse().ok()
}

/// `cpu:avx512_vnni+avx512_bf16:2c`: the instruction sets that decide, and the cores.
fn cpu_class(isa: &[String], cores: u32) -> String {
    let deciding: Vec<_> = isa.iter().map(String::as_str).filter(|i| !ISA_COMMON.contains(i)).collect();
    let strongest = || isa.iter().map(String::as_str).rfind(|i| ["avx2", "avx512f", "asimd", "asimdhp"].contains(i));
    let sets = if deciding.is_empty() { strongest().unwrap_or("base").to_owned() } else { deciding.join("+") };
    format!("cpu:{sets}:{cores}c")
}

fn isa(cpuinfo: &str) -> Vec<String> {
    // `flags` on x86, `Features` on Arm; the first processor stands for all.
    let line = cpuinfo.lines().find(|l| l.starts_with("flags") || l.starts_with("Features"));
    let have: BTreeSet<_> = line.and_then(|l| l.split_once(':')).map(|(_, flags)| flags.split_whitespace().collect()).unwrap_or_default();
    ISA.iter().filter(|i| have.contains(**i)).map(|i| (*i).to_owned()).collect()
}

fn cpu_model(cpuinfo: &str) -> String {
    let value = |key: &str| cpuinfo.lines().find(|l| l.starts_with(key))?.split_once(':').map(|(_, v)| v.trim().to_owned());
    // Arm kernels give numbers only.
    let arm = || Some(format!("Arm implementer {} part {}", value("CPU implementer")?, value("CPU part")?));
    value("model name").or_else(arm).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let kilobytes: u64 = text.lines().find(|l| l.starts_with(key))?.split_whitespace().nth(1)?.parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn os_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches('"').to_owned())
}

/// What nvidia-smi says, if it is there, works and comes to an end.
fn nvidia_smi() -> Option<String> {
    let mut child = Command::new("nvidia-smi")
        .args(["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let stdout = child.stdout.take()?;
    let (tx, rx) = mpsc::sync_channel(1); // one answer
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.take(1 << 20).read_to_string(&mut text);
        let _ = tx.send(text);
    });
    let text = rx.recv_timeout(NVIDIA_SMI_TIMEOUT).ok();
    if text.is_none() {
        tracing::warn!(timeout_s = NVIDIA_SMI_TIMEOUT.as_secs(), "nvidia-smi did not answer: no graphics processors are used");
        let _ = child.kill();
    }
    let good = child.wait().is_ok_and(|status| status.success());
    text.filter(|_| good)
}

fn gpus(csv: &str) -> Vec<(String, u64, String)> {
    let line = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (model, mebibytes, driver) = (fields.next()?, fields.next()?, fields.next()?);
        // Unified-memory machines say `[N/A]`: what replicas may use there is main memory.
        let bytes = mebibytes.parse::<u64>().map_or_else(|_| memory_total(), |m| m.saturating_mul(1 << 20));
        Some((model.to_owned(), bytes, driver.to_owned()))
    };
    csv.lines().filter_map(line).collect()
}

fn slug(model: &str) -> String {
    let words: Vec<_> = model.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPYC: &str = "processor : 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 fma avx512f avx512_bf16 avx512_vnni\n";
    const GRAVITON: &str = "processor : 0\nFeatures : fp asimd asimdhp asimddp i8mm bf16 sve\nCPU implementer : 0x41\nCPU part : 0xd40\n";

    #[test]
    fn the_class_names_what_decides_kernels() {
        let check = |cpuinfo: &str, cores, expected: &str| assert_eq!(cpu_class(&isa(cpuinfo), cores), expected);
        check(EPYC, 2, "cpu:avx512_vnni+avx512_bf16:2c");
        check(GRAVITON, 64, "cpu:asimddp+i8mm+bf16+sve:64c");
        check("flags : sse4_2 avx2 fma", 8, "cpu:avx2:8c");
        check("flags : avx2 fma avx512f", 8, "cpu:avx512f:8c");
        check("flags : sse4_2", 1, "cpu:base:1c");
        check("", 1, "cpu:base:1c");
        assert_eq!(cpu_model(EPYC), "AMD EPYC 9R14");
        assert_eq!(cpu_model(GRAVITON), "Arm implementer 0x41 part 0xd40");
    }

    #[test]
    fn graphics_processors_are_devices_after_the_processor() {
        let found = gpus("NVIDIA H100 80GB HBM3, 81559, 550.54.15\nTesla T4, 15360, 550.54.15\nnonsense\n");
        let host = Capabilities { gpus: found, cores: 4, memory_bytes: 1 << 30, ..Capabilities::default() };
        let names: Vec<_> = devices(&host).into_iter().map(|d| (d.name, d.class, d.memory_bytes >> 20)).collect();
        let expected = [("cpu", "cpu:base:4c", 1024), ("cuda:0", "cuda:nvidia-h100-80gb-hbm3", 81559), ("cuda:1", "cuda:tesla-t4", 15360)];
        assert_eq!(names, expected.map(|(n, c, m)| (n.to_owned(), c.to_owned(), m)));
    }

    #[test]
    fn this_host_is_found() {
        let host = discover();
        assert!(host.cores >= 1 && host.memory_bytes > 1 << 20 && !host.cpu_model.is_empty() && !host.os.is_empty(), "{host:?}");
        assert!(memory_available() <= host.memory_bytes);
        println!("{host:?} {:?}", devices(&host));
    }

    #[test]
    fn a_line_of_meminfo_is_kibibytes() {
        assert_eq!(meminfo("MemTotal:       16 kB\nMemAvailable: 8 kB\n", "MemAvailable"), Some(8192));
        assert_eq!(meminfo("", "MemTotal"), None);
    }
}
