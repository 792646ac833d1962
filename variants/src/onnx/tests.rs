use super::*;
use std::path::PathBuf;

#[test]
fn a_model_written_back_is_the_same_bytes() {
    let Some(models) = std::env::var_os("SLUICE_TEST_MODELS").map(PathBuf::from) else { return };
    let mut files = vec![models];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "onnx") {
            let Ok(model) = Model::read(&path) else { continue };
            seen += usize::from(model.encode() == std::fs::read(&path).unwrap());
        }
    }
    assert!(seen > 10, "{seen} files came back the same");
}

#[test]
fn weights_beside_the_model_are_read_as_if_they_were_in_it_and_written_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..1000u16).map(f32::from).collect();
    let graph = pb::GraphProto { initializer: vec![make("w", &[1000], &values), make("s", &[], &[1.0])], ..Default::default() };
    let whole = Model { proto: pb::ModelProto { graph: Some(graph), ..Default::default() } };
    let mut outside = whole.clone();
    external::put_out(outside.graph_mut(), dir.path(), "model.onnx.data").unwrap();
    assert!(outside.graph().initializer[0].raw_data.is_none() && outside.graph().initializer[1].raw_data.is_some());
    std::fs::write(dir.path().join("model.onnx"), outside.encode()).unwrap();
    assert_eq!(Model::read(&dir.path().join("model.onnx")).unwrap(), whole);

    for (key, value, said) in
        [("location", "../secret", "in the model's folder"), ("offset", "999999", "are wanted"), ("length", "x", "no number")]
    {
        let mut bad = outside.clone();
        let tensor = &mut bad.graph_mut().initializer[0];
        tensor.external_data.iter_mut().filter(|e| e.key() == key).for_each(|e| e.value = Some(value.to_owned()));
        std::fs::write(dir.path().join("model.onnx"), bad.encode()).unwrap();
        let error = Model::read(&dir.path().join("model.onnx")).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn what_is_no_model_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    for bytes in [&b""[..], b"no protobuf", &[0xff; 64]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Model::read(&path), Err(VariantError::NotOnnx { .. })), "{bytes:?}");
    }
    assert!(matches!(Model::read(&dir.path().join("nowhere")), Err(VariantError::File { .. })));
}
