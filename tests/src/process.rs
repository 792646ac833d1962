//! A `sluice` process.

use crate::Kit;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// Longest wait for a line; debug builds on two busy cores are slow.
const LINE_MAX: Duration = Duration::from_secs(60);

/// Killed when dropped. Its standard error is shown when the test fails.
pub struct Sluice {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
    ports: Vec<(String, String)>,
    /// Kept for as long as the process runs.
    _dir: tempfile::TempDir,
    data: Option<tempfile::TempDir>,
}

impl Sluice {
    /// Starts `sluice ARGS` and waits until it listens.
    pub fn start(kit: &Kit, args: &[&str]) -> Self {
        let mut sluice = Self::spawn(kit, args);
        let line = sluice.line("listening:");
        sluice.ports = line.split(", ").map(|p| p.split_once(' ').map(|(n, a)| (n.to_owned(), a.to_owned())).unwrap()).collect();
        sluice
    }

    fn spawn(kit: &Kit, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut child = Command::new(&kit.sluice)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tx, lines) = sync_channel(64);
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(tx.send(line))));
        Self { child, lines, log, ports: Vec::new(), _dir: dir, data: None }
    }

    /// A whole cluster over `models`, waited for until every model is ready or has failed.
    pub fn up(kit: &Kit, models: &Path, args: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut up = Self::up_in(kit, models, data.path(), args);
        up.data = Some(data);
        up
    }

    /// The same with a data directory that outlives it.
    pub fn up_in(kit: &Kit, models: &Path, data: &Path, args: &[&str]) -> Self {
        let (models, data) = (models.to_str().unwrap(), data.to_str().unwrap());
        let fixed =
            ["up", "--models", models, "--data-dir", data, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let up = Self::start(kit, &[&fixed[..], args].concat());
        up.line("ready:");
        up
    }

    /// The rest of the next line that starts with `start`.
    pub fn line(&self, start: &str) -> String {
        let deadline = Instant::now() + LINE_MAX;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(start) => return line[start.len()..].trim().to_owned(),
                Ok(_) => {}
                Err(_) => panic!("no line {start:?}; log:\n{}", self.log()),
            }
        }
    }

    /// Where it listens for `name`: http, grpc, admin, data.
    pub fn port(&self, name: &str) -> &str {
        &self.ports.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no port {name} in {:?}", self.ports)).1
    }

    /// The same as a URL.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}", self.port(name))
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for its end.
    pub fn wait(&mut self, longest: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < longest, "still runs after {longest:?}; log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Bytes of memory it holds.
    pub fn bytes_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Its process id.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Its child processes, by id.
    pub fn children(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        tasks.flatten().flat_map(|task| of(task).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Is it running?
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("log of the process:\n{}", self.log());
        }
    }
}
