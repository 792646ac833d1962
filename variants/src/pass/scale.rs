//! Scales, zero points and rounding, as ONNX Runtime's quantizer computes them (`compute_scale_zp` in its `quant_utils.py`): the same data
//! give the same numbers.

/// How a tensor's values become integers: `q = round(x / scale) + zero`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Size of a step.
    pub scale: f32,
    /// The integer that is 0.
    pub zero: i32,
}

/// For values from `low` to `high`, by integers from `least` to `most`; zero is always exact. Symmetric around zero if asked.
pub fn of_range(low: f32, high: f32, (least, most): (i32, i32), symmetric: bool) -> Scale {
    let (mut low, mut high) = (low.min(0.0), high.max(0.0));
    if symmetric {
        high = low.abs().max(high.abs());
        low = -high;
    }
    let exact = (f64::from(high) - f64::from(low)) / (f64::from(most) - f64::from(least));
    if exact < f64::from(f32::MIN_POSITIVE) || !exact.is_finite() {
        return Scale { scale: 1.0, zero: 0 };
    }
    let zero = if symmetric { (f64::from(least) + f64::from(most)) / 2.0 } else { f64::from(least) - f64::from(low) / exact };
    Scale { scale: exact as f32, zero: (zero.round_ties_even() as i32).clamp(least, most) }
}

/// Symmetric int8 for weights: -127 to 127, or -64 to 64 where the processor adds pairs of products in 16 bits.
pub fn of_weights(values: impl Iterator<Item = f32>, reduce_range: bool) -> Scale {
    let (low, high) = values.fold((0.0f32, 0.0f32), |(low, high), v| (low.min(v), high.max(v)));
    of_range(low, high, if reduce_range { (-64, 64) } else { (-127, 127) }, true)
}

impl Scale {
    /// The integer nearest to `value`, from `least` to `most`; halves go to the even one.
    pub fn quantize(self, value: f32, (least, most): (i32, i32)) -> i32 {
        // `as` saturates, and makes 0 of what is no number.
        ((value / self.scale).round_ties_even() as i32).saturating_add(self.zero).clamp(least, most)
    }
}

/// One scale for all of `values`, or one for each position of `axis` in `dims`.
pub fn weights(values: &[f32], dims: &[i64], axis: Option<usize>, reduce_range: bool) -> Vec<Scale> {
    let Some(axis) = axis else { return vec![of_weights(values.iter().copied(), reduce_range)] };
    let layout = Layout::of(dims, axis);
    let mut ranges = vec![(0.0f32, 0.0f32); layout.channels];
    for (at, value) in values.iter().enumerate() {
        if let Some((low, high)) = ranges.get_mut(layout.channel(at)) {
            (*low, *high) = (low.min(*value), high.max(*value));
        }
    }
    ranges.into_iter().map(|(low, high)| of_weights([low, high].into_iter(), reduce_range)).collect()
}

/// Widens the steps of weights whose bias, in steps of weights times input, would not fit 32 bits (as ONNX Runtime's
/// `_adjust_weight_scale_for_int32_bias`, which doubles and widens a channel's bias as a 32-bit float, a tensor's as one of 64 bits).
pub fn make_room(weights: &mut [Scale], input: Scale, bias: &[f32]) {
    const SPAN: f64 = 4_294_967_294.0; // from -(2^31 - 1) to 2^31 - 1
    let single = weights.len() == 1;
    let of_tensor = 1.0001 * (2.0 * bias.iter().fold(0.0f64, |most, v| most.max(f64::from(v.abs()))));
    for (at, weight) in weights.iter_mut().enumerate() {
        let of_channel = || bias.get(at).map_or(0.0, |v| f64::from(1.0001f32 * (2.0 * v.abs())));
        let least = if single { of_tensor } else { of_channel() } / SPAN;
        let step = f64::from(input.scale) * f64::from(weight.scale);
        if step < least && step > 0.0 {
            weight.scale = (f64::from(weight.scale) * (least / step)) as f32;
        }
    }
}

/// `values` as int8 by `scales`, which are as [`weights`] gives them.
pub fn quantize_weights(values: &[f32], dims: &[i64], axis: Option<usize>, scales: &[Scale]) -> Vec<u8> {
    let layout = axis.map(|axis| Layout::of(dims, axis));
    let channel = |at: usize| layout.as_ref().map_or(0, |layout| layout.channel(at));
    let one = |(at, value): (usize, &f32)| {
        let scale = scales.get(channel(at)).copied().unwrap_or(Scale { scale: 1.0, zero: 0 });
        scale.quantize(*value, (-128, 127)) as i8 as u8
    };
    values.iter().enumerate().map(one).collect()
}

/// Where the positions of one axis lie in a row-major tensor.
struct Layout {
    channels: usize,
    /// Elements between neighbours on the axis.
    stride: usize,
}

impl Layout {
    fn of(dims: &[i64], axis: usize) -> Self {
        let size = |d: &i64| usize::try_from(*d).unwrap_or(0);
        let stride = dims.iter().skip(axis + 1).map(size).product::<usize>().max(1);
        Self { channels: dims.get(axis).map_or(1, size).max(1), stride }
    }

    fn channel(&self, at: usize) -> usize {
        at / self.stride % self.channels
    }
}
