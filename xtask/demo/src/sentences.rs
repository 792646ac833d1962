//! Sentences and how alike they are.

use crate::client::{Client, infer, int64};
use std::path::Path;
use tokenizers::{PaddingParams, Tokenizer};

const SENTENCES: [&str; 4] = [
    "A cat sleeps on the sofa.",
    "A kitten naps on the couch.",
    "The rocket left the launch pad.",
    "Interest rates rose again this spring.",
];

/// Tokenises, asks once for all, prints the cosine of every pair.
pub(crate) async fn show(client: &mut Client, tokenizer: &Path) -> anyhow::Result<()> {
    let mut tokenizer = Tokenizer::from_file(tokenizer).map_err(|e| anyhow::anyhow!("{}: {e}", tokenizer.display()))?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    let encodings = tokenizer.encode_batch(SENTENCES.to_vec(), true).map_err(|e| anyhow::anyhow!("tokenizer: {e}"))?;
    let length = encodings.first().map_or(0, |e| e.get_ids().len());
    let shape = vec![i64::try_from(encodings.len())?, i64::try_from(length)?];
    let ids: Vec<i64> = encodings.iter().flat_map(|e| e.get_ids().iter().map(|id| i64::from(*id))).collect();
    let mask: Vec<i64> = encodings.iter().flat_map(|e| e.get_attention_mask().iter().map(|m| i64::from(*m))).collect();
    let tensors = vec![int64("input_ids", shape.clone(), &ids), int64("attention_mask", shape, &mask)];
    let answer = infer(client, "minilm_l6", tensors).await?;
    let embeddings: Vec<&[f32]> =
        answer.outputs.first().map_or(Vec::new(), |o| o.chunks(o.len().div_ceil(SENTENCES.len()).max(1)).collect());
    for (row, (sentence, a)) in SENTENCES.iter().zip(&embeddings).enumerate() {
        let cosines: Vec<String> = embeddings.iter().take(row).map(|b| format!("{:5.2}", dot(a, b))).collect();
        println!("{sentence:<42} {}", cosines.join(" "));
    }
    println!("{}", answer.times);
    let likeness = |i: usize| embeddings.first().zip(embeddings.get(i)).map_or(0.0, |(a, b)| dot(a, b));
    anyhow::ensure!(likeness(1) > likeness(2), "a cat should be more like a kitten than like a rocket");
    Ok(())
}

/// The embeddings have length one, so this is their cosine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
