//! Two sounds made here, window by window, with the state that the model hands back carried by the client.

use crate::client::{Client, fp32, infer, int64};

const RATE: i64 = 16_000;
/// Samples of a window at 16 kHz.
const WINDOW: usize = 512;
/// Samples of the window before that the model wants in front.
const CONTEXT: usize = 64;
/// Values of the model's state: 2 × 1 × 128.
const STATE: usize = 256;
const WINDOWS: usize = 31;

pub(crate) async fn show(client: &mut Client) -> anyhow::Result<()> {
    let silence = |_: usize| 0.0f32;
    for (name, sample) in [("silence", &silence as &dyn Fn(usize) -> f32), ("a buzz like a vowel", &vowel)] {
        let (probability, times) = probability(client, sample).await?;
        println!("{name:<24} speech {:5.1} % on average over one second", probability * 100.0);
        println!("{times} (the last of {WINDOWS} windows)");
    }
    Ok(())
}

/// A 120 Hz buzz through three resonances of an open vowel, louder and softer four times a second.
fn vowel(index: usize) -> f32 {
    let t = index as f32 / RATE as f32;
    let tone = |harmonic: f32| {
        let hz = 120.0 * harmonic;
        let near = |formant: f32, width: f32| (-((hz - formant) / width).powi(2)).exp();
        (near(700.0, 130.0) + 0.6 * near(1_220.0, 150.0) + 0.3 * near(2_600.0, 220.0)) * (std::f32::consts::TAU * hz * t).sin()
    };
    let syllable = 0.55 - 0.45 * (std::f32::consts::TAU * 4.0 * t).cos();
    (1u8..30).map(|h| tone(f32::from(h))).sum::<f32>() * syllable * 0.2
}

async fn probability(client: &mut Client, sample: &dyn Fn(usize) -> f32) -> anyhow::Result<(f32, String)> {
    let (mut state, mut context) = (vec![0.0; STATE], vec![0.0; CONTEXT]);
    let (mut sum, mut times) = (0.0, String::new());
    for window in 0..WINDOWS {
        let start = window.saturating_mul(WINDOW);
        context.extend((start..start.saturating_add(WINDOW)).map(sample));
        let tensors = vec![
            fp32("input", vec![1, i64::try_from(context.len())?], &context),
            fp32("state", vec![2, 1, 128], &state),
            int64("sr", vec![], &[RATE]),
        ];
        let answer = infer(client, "silero_vad", tensors).await?;
        let mut outputs = answer.outputs.into_iter();
        sum += outputs.next().and_then(|o| o.first().copied()).unwrap_or(0.0);
        state = outputs.next().unwrap_or_default();
        context.drain(..WINDOW);
        times = answer.times;
    }
    Ok((sum / WINDOWS as f32, times))
}
