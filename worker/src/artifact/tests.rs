use super::*;
use crate::phase::Phases;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A holder on a free port that offers `files`; its address and what it offers.
async fn holder(folder: &Path, files: &[(&str, &[u8])]) -> (String, ArtifactRecord) {
    let content = folder.join("content");
    std::fs::create_dir_all(&content).unwrap();
    for (name, bytes) in files {
        let path = content.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let artifact = hash_folder(&content).unwrap();
    let artifacts = Arc::new(Artifacts::open(folder).unwrap());
    artifacts.offer(&artifact, &content);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(crate::admin::serve(listener, artifacts, crate::handle::WorkerHandle::default()));
    (address, artifact)
}

#[tokio::test]
async fn an_artifact_travels_whole_and_is_offered_on() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (address, artifact) = holder(from.path(), &[("model.onnx", b"graph"), ("weights/w.bin", &[7; 3_000_000]), ("empty", b"")]).await;
    let artifacts = Artifacts::open(to.path()).unwrap();
    let phases = Phases::default();
    let variant = policy::VariantId::parse("m:1:fp32@ort").unwrap();
    let teller = Teller::new(phases.clone(), variant.clone(), 1);
    let folder = artifacts.folder(&artifact, &["127.0.0.1:1".to_owned(), address], &teller).await.unwrap();
    assert_eq!(hash_folder(&folder).unwrap(), artifact);
    let of: u64 = artifact.files.iter().map(|file| file.bytes).sum();
    let told = phases.borrow()[&variant].1;
    assert!(matches!(told, Phase::Fetching { bytes, of: all } if bytes > 0 && all == of), "{told:?}");
    assert_eq!(artifacts.file(&artifact.files[0].sha256).unwrap(), folder.join(&artifact.files[0].path));
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_nothing_is_left_in_the_artifacts_place() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (address, artifact) = holder(from.path(), &[("model.onnx", b"graph")]).await;
    std::fs::write(from.path().join("content/model.onnx"), b"grapH").unwrap();
    let artifacts = Artifacts::open(to.path()).unwrap();
    let error = artifacts.folder(&artifact, &[address], &Teller::silent()).await.unwrap_err().to_string();
    assert!(error.contains("sha256") && error.contains(artifact.files[0].sha256.as_str()), "{error}");
    assert!(!to.path().join("artifacts").join(artifact.digest.as_str()).exists());
    let nobody = artifacts.folder(&artifact, &[], &Teller::silent()).await.unwrap_err().to_string();
    assert!(nobody.contains("no worker holds it"), "{nobody}");
}

#[tokio::test]
async fn a_broken_off_file_is_gone_on_with_and_a_wrong_start_is_noticed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let (address, artifact) = holder(from.path(), &[("model.onnx", &content)]).await;
    let path = to.path().join("part");
    std::fs::write(&path, &content[..1234]).unwrap();
    fetch_file(&artifact.digest, &artifact.files[0], std::slice::from_ref(&address), &path, &drop).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), content);
    std::fs::write(&path, b"not the start").unwrap();
    assert!(fetch_file(&artifact.digest, &artifact.files[0], std::slice::from_ref(&address), &path, &drop).await.is_err());
    fetch_file(&artifact.digest, &artifact.files[0], &[address], &path, &drop).await.unwrap();
}

#[tokio::test]
async fn a_cached_artifact_that_was_changed_on_disk_is_refused() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (address, artifact) = holder(from.path(), &[("model.onnx", b"graph")]).await;
    let folder = Artifacts::open(to.path()).unwrap().folder(&artifact, &[address], &Teller::silent()).await.unwrap();
    std::fs::write(folder.join("model.onnx"), b"other").unwrap();
    let again = Artifacts::open(to.path()).unwrap(); // a restart knows nothing of the first look
    assert!(again.folder(&artifact, &[], &Teller::silent()).await.unwrap_err().to_string().contains("cached files"));
}

#[test]
fn an_artifacts_digest_depends_on_every_byte_and_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.onnx"), b"abc").unwrap();
    let first = hash_folder(dir.path()).unwrap();
    assert_eq!(first.files[0].sha256.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    std::fs::write(dir.path().join("model.onnx"), b"abd").unwrap();
    assert_ne!(hash_folder(dir.path()).unwrap().digest, first.digest);
    std::fs::write(dir.path().join("model.onnx"), b"abc").unwrap();
    std::fs::write(dir.path().join("weights.bin"), b"").unwrap();
    assert_ne!(hash_folder(dir.path()).unwrap().digest, first.digest);
    std::fs::remove_file(dir.path().join("weights.bin")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("weights.bin")).unwrap();
    assert_eq!(hash_folder(dir.path()).unwrap().digest, first.digest, "a link is no part of it");
}

#[tokio::test]
async fn a_list_that_leads_out_of_the_folder_or_is_not_the_artifacts_is_refused() {
    let to = tempfile::tempdir().unwrap();
    let artifacts = Artifacts::open(to.path()).unwrap();
    let file = |path: &str| ArtifactFile { path: path.into(), sha256: Digest::new("0".repeat(64)).unwrap(), bytes: 1 };
    for path in ["../x", "/etc/x", "a/../../x", "", "."] {
        let files = vec![file(path)];
        let digest = digest_of(Sha256::new_with_prefix(ArtifactRecord::manifest(&files))).unwrap();
        let error = artifacts.folder(&ArtifactRecord { digest, files }, &[], &Teller::silent()).await.unwrap_err().to_string();
        assert!(error.contains("outside its folder"), "{path:?}: {error}");
    }
    let other = ArtifactRecord { digest: Digest::new("1".repeat(64)).unwrap(), files: vec![file("model.onnx")] };
    assert!(artifacts.folder(&other, &[], &Teller::silent()).await.unwrap_err().to_string().contains("list of files"));
}
