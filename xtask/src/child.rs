//! Runs other programs: quietly with a progress bar, or in the foreground.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How much of a failed command's output its error repeats.
const TAIL_LINES: usize = 12;

/// A folder that fills while a command runs, and the bytes it will hold at the end: what the bar shows.
pub(crate) struct Growth {
    pub(crate) folder: PathBuf,
    pub(crate) bytes: u64,
}

/// Runs a command to its end behind a progress bar. Its output appears only in the error, the last lines of it.
pub(crate) fn run(mut command: Command, label: &str, growth: Option<&Growth>) -> Result<String> {
    let shown = shown(&command);
    let (mut output, end) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(end.try_clone()?).stderr(end);
    let mut child = command.spawn().with_context(|| format!("cannot run `{shown}`"))?;
    drop(command); // it holds the write end, without which `output` would never end

    let (done, wait) = sync_channel(1); // one message: everything the command wrote
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.read_to_end(&mut bytes);
        let _ = done.send(read.map(|_| String::from_utf8_lossy(&bytes).into_owned()));
    });
    let bar = bar(label, growth)?;
    let output = loop {
        match wait.recv_timeout(Duration::from_millis(100)) {
            Ok(output) => break output?,
            Err(RecvTimeoutError::Timeout) => match growth {
                Some(growth) => bar.set_position(tree_bytes(&growth.folder).min(growth.bytes)),
                None => bar.tick(),
            },
            Err(RecvTimeoutError::Disconnected) => bail!("lost the output of `{shown}`"),
        }
    };
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        bail!("`{shown}` failed ({status}):\n{}", tail(&output));
    }
    Ok(output)
}

/// Runs a command with this terminal and answers its exit code.
pub(crate) fn foreground(command: &mut Command) -> Result<ExitCode> {
    let shown = shown(command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// As [`foreground`], for steps after which nothing goes on if they fail.
pub(crate) fn foreground_ok(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy);
    words.collect::<Vec<_>>().join(" ")
}

fn bar(label: &str, growth: Option<&Growth>) -> Result<ProgressBar> {
    let bar = match growth {
        Some(growth) => {
            ProgressBar::new(growth.bytes).with_style(ProgressStyle::with_template("{msg:24} {bar:30} {bytes}/{total_bytes} {elapsed}")?)
        }
        None => ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{msg:24} {spinner} {elapsed}")?),
    };
    Ok(bar.with_message(label.to_owned()))
}

fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    last.iter().map(|line| format!("  {line}\n")).collect()
}

/// Bytes of all files below a folder. Files come and go while it looks, so what cannot be read counts nothing.
fn tree_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_reported_with_its_words_and_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in $(seq 40); do echo line $i; done; echo bad >&2; exit 3"]);
        let error = run(command, "test", None).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("exit status: 3"), "{error}");
        assert!(error.contains("line 40\n  bad") && !error.contains("line 28\n"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("no-such-program-here"), "test", None).unwrap_err().to_string();
        assert!(error.contains("no-such-program-here"), "{error}");
    }
}
