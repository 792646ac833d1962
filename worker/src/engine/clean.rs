//! Texts of others, fit to be shown to strangers.

use std::path::Path;

/// `text` in one line, with absolute paths of this host cut to their last part. Names of graph nodes begin with a slash
/// too, so only what starts in an existing top folder counts as a path.
pub(crate) fn without_paths(text: &str, model: Option<&Path>) -> String {
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(folder) = model.and_then(Path::parent).and_then(Path::to_str).filter(|f| f.len() > 1) {
        text = text.replace(&format!("{folder}/"), "");
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('/') {
        let (before, from) = rest.split_at(at);
        clean.push_str(before);
        let end = from.find([' ', '\'', '"', '`', ',', ';', ':', ')', ']', '>']).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let starts_word = !clean.ends_with(|c: char| c.is_alphanumeric() || ".-_".contains(c));
        let kept = if starts_word && is_path(word) { word.rsplit('/').next().unwrap_or_default() } else { word };
        clean.push_str(kept);
        rest = after;
    }
    clean.push_str(rest);
    clean
}

fn is_path(word: &str) -> bool {
    let top = word.trim_start_matches('/').split('/').next().unwrap_or_default();
    !top.is_empty() && (top == "onnxruntime_src" || Path::new("/").join(top).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_host_are_cut_and_names_of_nodes_are_kept() {
        let check =
            |text: &str, expected: &str| assert_eq!(without_paths(text, Some(Path::new("/data/my models/m/1/model.onnx"))), expected);
        check("Load model from /data/my models/m/1/model.onnx failed", "Load model from model.onnx failed");
        check("see /usr/lib/x.so: cannot open\n\tit", "see x.so: cannot open it");
        check("'/tmp/a b.onnx'", "'a b.onnx'");
        check("running Conv node. Name:'/layer1/conv1/Conv'", "running Conv node. Name:'/layer1/conv1/Conv'");
        check("/onnxruntime_src/core/graph/model.cc:181 Model()", "model.cc:181 Model()");
        check("a/b and 1/2", "a/b and 1/2");
        check("/", "/");
    }
}
