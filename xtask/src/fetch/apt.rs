//! Packages of Debian, with an apt configuration of our own: the machine's packages and sources stay as they are. Nothing is
//! installed: packages are unpacked into the cache, so no root is needed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Item;
use crate::cache::{Cache, check_sha256, remove_tree, replace_tree};
use crate::child::{self, Growth};
use crate::pins::{Pin, Pins};

/// Debian signs all its releases with keys from one of these; they have the trixie keys on bookworm too.
const KEYRINGS: [&str; 2] = ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// From a newer release than many machines have: bookworm's 3.4 is past its end of life.
pub(super) fn etcd(cache: &Cache, pins: &Pins) -> Result<()> {
    let scratch = cache.scratch("etcd")?;
    unpack(cache, pins, Item::Etcd, &scratch.join("root"))?;
    std::fs::create_dir(scratch.join("bin"))?;
    for program in ["etcd", "etcdctl"] {
        std::fs::rename(scratch.join("root/usr/bin").join(program), scratch.join("bin").join(program))
            .with_context(|| format!("{program} is not in the package"))?;
    }
    replace_tree(&scratch.join("bin"), &cache.etcd(pins.version(Item::Etcd)?))?;
    remove_tree(&scratch)
}

pub(super) fn cpp(cache: &Cache, pins: &Pins) -> Result<()> {
    let scratch = cache.scratch("cpp")?;
    unpack(cache, pins, Item::Cpp, &scratch)?;
    replace_tree(&scratch, &cache.cpp())
}

/// Lays the item's packages over each other in `root`, after downloading those that are not in the cache.
pub(super) fn unpack(cache: &Cache, pins: &Pins, item: Item, root: &Path) -> Result<()> {
    let packages = || pins.of(item).filter(|pin| pin.suite.is_some());
    let missing: Vec<&Pin> = packages().filter(|pin| !cache.downloads().join(&pin.file).exists()).collect();
    if !missing.is_empty() {
        download(cache, item, &missing)?;
    }
    for pin in packages() {
        let path = cache.downloads().join(&pin.file);
        check_sha256(&path, &pin.sha256).context("remove it and fetch again")?;
        let mut command = Command::new("dpkg-deb");
        command.arg("--extract").arg(&path).arg(root);
        child::run(command, &pin.name, None)?;
    }
    Ok(())
}

fn download(cache: &Cache, item: Item, pins: &[&Pin]) -> Result<()> {
    let scratch = cache.scratch("apt")?;
    for folder in ["lists/partial", "archives/partial", "sources", "files"] {
        std::fs::create_dir_all(scratch.join(folder))?;
    }
    std::fs::write(scratch.join("status"), "")?;
    let keyring = KEYRINGS.into_iter().find(|path| Path::new(path).exists());
    let suites: BTreeSet<&str> = pins.iter().filter_map(|pin| pin.suite.as_deref()).collect();
    let sources: Vec<String> = suites.iter().map(|suite| Ok(source(&machine_mirror(suite)?, suite, keyring))).collect::<Result<_>>()?;
    std::fs::write(scratch.join("sources/debian.sources"), sources.join("\n"))?;

    child::run(apt_get(&scratch, "update"), "Debian's package list", None)?;
    let mut command = apt_get(&scratch, "download");
    command.args(pins.iter().map(|pin| format!("{}={}", pin.name, pin.version)));
    command.current_dir(scratch.join("files"));
    let growth = Growth { folder: scratch.join("files"), bytes: pins.iter().map(|pin| pin.bytes).sum() };
    child::run(command, item.name(), Some(&growth))?;
    for pin in pins {
        let got = scratch.join("files").join(&pin.file);
        check_sha256(&got, &pin.sha256)?;
        std::fs::rename(&got, cache.downloads().join(&pin.file))?;
    }
    remove_tree(&scratch)
}

fn apt_get(scratch: &Path, verb: &str) -> Command {
    let at = |name: &str| scratch.join(name).display().to_string();
    let mut command = Command::new("apt-get");
    command.args(["-qq", verb]);
    for (option, value) in [
        ("Dir::State", at("")),
        ("Dir::State::lists", at("lists")),
        ("Dir::State::status", at("status")),
        ("Dir::Cache", at("")),
        ("Dir::Etc::SourceList", "/dev/null".to_owned()),
        ("Dir::Etc::SourceParts", at("sources")),
        // What is downloaded is checked by sha256, and apt's own user may not write into a home folder.
        ("APT::Sandbox::User", "root".to_owned()),
    ] {
        command.arg("-o").arg(format!("{option}={value}"));
    }
    command
}

fn source(mirror: &str, suite: &str, keyring: Option<&str>) -> String {
    let mut text = format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n");
    if let Some(keyring) = keyring {
        text.push_str(&format!("Signed-By: {keyring}\n"));
    }
    text
}

/// Where this machine itself gets its release from (not its security or backports archive, which may live elsewhere, nor a
/// stranger's): the same place has the other releases.
fn machine_mirror(suite: &str) -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let Some(codename) = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")) else {
        bail!("this is fetched from Debian, and this machine is not Debian: /etc/os-release has no VERSION_CODENAME");
    };
    let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let releases = [codename.trim_matches('"'), "stable", suite];
    for file in &files {
        let Ok(text) = std::fs::read_to_string(file) else {
            continue;
        };
        let found = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => mirror_in_stanzas(&text, &releases),
            Some("list") => mirror_in_lines(&text, &releases),
            _ => None,
        };
        if let Some(mirror) = found {
            return Ok(mirror);
        }
    }
    bail!("no line for {codename} main in /etc/apt/sources.list or /etc/apt/sources.list.d");
}

/// The newer form of apt's sources: fields in paragraphs.
fn mirror_in_stanzas(text: &str, releases: &[&str]) -> Option<String> {
    let text: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    text.split("\n\n").find_map(|stanza| {
        let words = |field: &str| -> Vec<&str> {
            let line = stanza.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(field).then_some(value)
            });
            line.unwrap_or_default().split_whitespace().collect()
        };
        let fits = words("Types").contains(&"deb")
            && words("Suites").iter().any(|suite| releases.contains(suite))
            && words("Components").contains(&"main")
            && !words("Enabled").contains(&"no");
        if fits { words("URIs").first().map(|uri| (*uri).to_owned()) } else { None }
    })
}

/// The older form: `deb [options] URI suite component...`, one a line.
fn mirror_in_lines(text: &str, releases: &[&str]) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        (releases.contains(&suite) && words.any(|w| w == "main") && !uri.starts_with("cdrom:")).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_the_machine_uses_for_its_own_release() {
        let stanzas = "Types: deb\nURIs: http://security.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
            # a comment\nTypes: deb\n# another\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /x.gpg\n\nTypes: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n";
        assert_eq!(mirror_in_stanzas(stanzas, &["bookworm", "stable"]).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_in_stanzas(stanzas, &["bullseye"]), None);

        let lines = "# deb http://old.example bookworm main\ndeb cdrom:[x]/ bookworm main\n\
            deb [arch=amd64 signed-by=/x.gpg] http://vendor.example vendor-bookworm main\n\
            deb [arch=amd64] http://mirror.example/debian bookworm contrib main\n";
        assert_eq!(mirror_in_lines(lines, &["bookworm", "stable"]).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(mirror_in_lines(lines, &["bullseye"]), None);
    }
}
