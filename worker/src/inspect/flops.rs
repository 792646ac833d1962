//! What one run of a node costs, from the shapes of what it took and gave.
//!
//! A multiplication and an addition are two operations, as in the figures published with models. Exact for what decides
//! (convolutions, matrix products, recurrent cells); for the rest a convention, so that a model of such operators alone
//! is not free: one operation per element, whatever the function is. Comparisons count, copies do not.

use std::collections::{BTreeMap, BTreeSet};

/// Dimensions of a tensor, outermost first.
pub(super) type Dims = Vec<u64>;

/// How the cost of an operator follows from shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// Each output element is a sum over the weight but for its first dimension. Weight `[M, C/group, kernel…]`, so the
    /// groups are in its shape. Places of weight and bias among the inputs.
    Conv { weight: usize, bias: Option<usize> },
    /// The same with the parts of input and output exchanged: weight `[C, M/group, kernel…]`.
    ConvTranspose,
    /// Each output element is a sum over the last dimension of the first input.
    MatMul,
    /// `[M, N]` from `A` of M·K elements, transposed or not, and perhaps a third matrix added.
    Gemm,
    /// Per step and row every weight of `W` and `R` once. Gates' functions are not counted: less than a hundredth.
    Recurrent,
    /// By its equation.
    Einsum,
    /// So many per element of the first output.
    PerOutput(u64),
    /// So many per element of the first input. For pooling a convention: windows that overlap count once.
    PerInput(u64),
    /// Per element of the output one for each input but the first.
    Variadic,
    /// Moves or names data, or runs other nodes that are counted themselves.
    Free,
}

#[rustfmt::skip]
fn cost(operator: &str) -> Option<Cost> {
    Some(match operator {
        "Conv" | "FusedConv" => Cost::Conv { weight: 1, bias: Some(2) },
        "ConvInteger" | "DeformConv" => Cost::Conv { weight: 1, bias: None },
        "QLinearConv" => Cost::Conv { weight: 3, bias: Some(8) },
        "ConvTranspose" => Cost::ConvTranspose,
        "MatMul" | "MatMulInteger" | "MatMulIntegerToFloat" | "QLinearMatMul" | "DynamicQuantizeMatMul" | "MatMulNBits" => Cost::MatMul,
        "Gemm" => Cost::Gemm,
        "LSTM" | "GRU" | "RNN" => Cost::Recurrent,
        "Einsum" => Cost::Einsum,
        // Largest, subtract, exponential, sum, divide.
        "Softmax" | "LogSoftmax" => Cost::PerInput(5),
        // Mean, subtract, square, mean, divide, scale, shift.
        "LayerNormalization" | "InstanceNormalization" | "GroupNormalization" => Cost::PerInput(7),
        // Square, mean, divide, scale.
        "SimplifiedLayerNormalization" | "RMSNormalization" => Cost::PerInput(4),
        // Square, sum, divide.
        "LpNormalization" => Cost::PerInput(3),
        // Mean and variance are known before: scale, shift.
        "BatchNormalization" => Cost::PerInput(2),
        // Scale, zero point.
        "QuantizeLinear" | "DequantizeLinear" => Cost::PerOutput(2),
        // And the range before: least, largest.
        "DynamicQuantizeLinear" => Cost::PerInput(4),
        "Sum" | "Max" | "Min" | "Mean" => Cost::Variadic,
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp"
        | "ReduceSumSquare" | "ArgMax" | "ArgMin" | "CumSum" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" | "AveragePool"
        | "MaxPool" | "LpPool" => Cost::PerInput(1),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Neg" | "Abs" | "Sign" | "Reciprocal" | "Sqrt" | "Exp" | "Log" | "Erf" | "Sin" | "Cos"
        | "Tan" | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Ceil" | "Floor" | "Round" | "Clip" | "Relu"
        | "LeakyRelu" | "PRelu" | "ThresholdedRelu" | "Elu" | "Selu" | "Celu" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Swish" | "Tanh"
        | "Softplus" | "Softsign" | "Mish" | "Gelu" | "FastGelu" | "QuickGelu" | "Shrink" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
        | "LessOrEqual" | "And" | "Or" | "Not" | "Xor" | "IsNaN" | "IsInf" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor"
        | "BitwiseNot" => Cost::PerOutput(1),
        "Identity" | "Constant" | "ConstantOfShape" | "Shape" | "Size" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose"
        | "Concat" | "Split" | "Slice" | "Pad" | "Expand" | "Tile" | "Where" | "Gather" | "GatherElements" | "GatherND" | "Scatter"
        | "ScatterElements" | "ScatterND" | "Compress" | "OneHot" | "EyeLike" | "Range" | "NonZero" | "Trilu" | "DepthToSpace"
        | "SpaceToDepth" | "ReverseSequence" | "Cast" | "CastLike" | "BitCast" | "Dropout" | "If" | "Loop" | "Scan" | "Optional"
        | "OptionalGetElement" | "OptionalHasElement" | "SequenceAt" | "SequenceConstruct" | "SequenceEmpty" | "SequenceErase"
        | "SequenceInsert" | "SequenceLength" | "SplitToSequence" | "ConcatFromSequence" | "MemcpyFromHost" | "MemcpyToHost" => Cost::Free,
        _ => return None,
    })
}

/// Operations of one run of `operator`; `None` if that is not known for it, or not for such shapes.
pub(super) fn flops(operator: &str, inputs: &[Dims], outputs: &[Dims], equations: &BTreeSet<String>) -> Option<u64> {
    let given = || outputs.first().map(|dims| elements(dims));
    let taken = || inputs.first().map(|dims| elements(dims));
    let kernel = |at: usize| inputs.get(at).and_then(|weight| weight.get(1..)).map(elements);
    let bias = |at: Option<usize>| at.and_then(|at| inputs.get(at)).and(given()).unwrap_or(0);
    match cost(operator)? {
        Cost::Conv { weight, bias: at } => Some(twice(given()?, kernel(weight)?).saturating_add(bias(at))),
        Cost::ConvTranspose => Some(twice(taken()?, kernel(1)?).saturating_add(bias(Some(2)))),
        Cost::MatMul => Some(twice(given()?, *inputs.first()?.last()?)),
        Cost::Gemm => {
            let depth = taken()?.checked_div(*outputs.first()?.first()?).unwrap_or(0);
            Some(twice(given()?, depth).saturating_add(bias(Some(2))))
        }
        Cost::Recurrent => {
            let steps = elements(inputs.first()?.get(..2)?);
            let weights = elements(inputs.get(1)?).saturating_add(elements(inputs.get(2)?));
            Some(twice(steps, weights))
        }
        Cost::Einsum => einsum(inputs, equations),
        Cost::PerOutput(each) => Some(given()?.saturating_mul(each)),
        Cost::PerInput(each) => Some(taken()?.saturating_mul(each)),
        Cost::Variadic => Some(given()?.saturating_mul(u64::try_from(inputs.len()).ok()?.saturating_sub(1).max(1))),
        Cost::Free => Some(0),
    }
}

fn elements(dims: &[u64]) -> u64 {
    dims.iter().copied().fold(1, u64::saturating_mul)
}

fn twice(a: u64, b: u64) -> u64 {
    a.saturating_mul(b).saturating_mul(2)
}

/// A measurement tells an operator's shapes, not its equation: counts by those of the model's `equations` that these
/// shapes fit, if they agree.
fn einsum(inputs: &[Dims], equations: &BTreeSet<String>) -> Option<u64> {
    let mut fitting = equations.iter().filter_map(|equation| by_equation(equation, inputs));
    let first = fitting.next()?;
    fitting.all(|other| other == first).then_some(first)
}

/// A product of two tensors: every combination of indices once, and where an index is summed over, an addition each.
fn by_equation(equation: &str, inputs: &[Dims]) -> Option<u64> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (terms, output) = match equation.split_once("->") {
        Some((terms, output)) => (terms, Some(output)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = terms.split(',').collect();
    if terms.len() != 2 || inputs.len() != 2 || !terms.iter().all(|term| term.chars().all(char::is_alphabetic)) {
        return None;
    }
    let (mut sizes, mut repeated) = (BTreeMap::new(), false);
    for (term, dims) in terms.iter().zip(inputs) {
        if term.chars().count() != dims.len() {
            return None;
        }
        for (index, size) in term.chars().zip(dims) {
            match sizes.insert(index, *size) {
                Some(other) if other != *size => return None,
                Some(_) => repeated = true,
                None => {}
            }
        }
    }
    // Without an output, indices that appear twice are summed over.
    let sums = output.map_or(repeated, |output| sizes.keys().any(|index| !output.contains(*index)));
    let combinations = sizes.values().copied().fold(1, u64::saturating_mul);
    Some(combinations.saturating_mul(if sums { 2 } else { 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(operator: &str, inputs: &[&[u64]], output: &[u64], expected: Option<u64>) {
        let equations = ["bij,bjk->bik", "ij,j->ij", "bh...,c", ",,"].map(str::to_owned).into();
        let inputs: Vec<Dims> = inputs.iter().map(|dims| dims.to_vec()).collect();
        assert_eq!(flops(operator, &inputs, &[output.to_vec()], &equations), expected, "{operator} {inputs:?}");
    }

    #[test]
    fn products_count_two_for_each_multiplication() {
        // 3x3 over 8 channels for each of 16 * 10 * 10 elements; then in two groups; then with a bias.
        check("Conv", &[&[1, 8, 12, 12], &[16, 8, 3, 3]], &[1, 16, 10, 10], Some(2 * 1600 * 72));
        check("Conv", &[&[1, 8, 12, 12], &[16, 4, 3, 3]], &[1, 16, 10, 10], Some(2 * 1600 * 36));
        check("Conv", &[&[1, 8, 12, 12], &[16, 8, 3, 3], &[16]], &[1, 16, 10, 10], Some(2 * 1600 * 72 + 1600));
        check("QLinearConv", &[&[1, 8, 12, 12], &[], &[], &[16, 8, 3, 3], &[], &[], &[], &[]], &[1, 16, 10, 10], Some(2 * 1600 * 72));
        check("ConvTranspose", &[&[1, 8, 5, 5], &[8, 4, 2, 2]], &[1, 4, 10, 10], Some(2 * 200 * 16));
        check("MatMul", &[&[7, 2, 3], &[7, 3, 5]], &[7, 2, 5], Some(2 * 7 * 2 * 3 * 5));
        check("MatMul", &[&[3], &[3]], &[], Some(2 * 3));
        check("Gemm", &[&[2, 3], &[3, 5]], &[2, 5], Some(2 * 2 * 3 * 5));
        check("Gemm", &[&[3, 2], &[5, 3], &[5]], &[2, 5], Some(2 * 2 * 3 * 5 + 10)); // both transposed
        check("LSTM", &[&[6, 2, 3], &[1, 16, 3], &[1, 16, 4]], &[6, 1, 2, 4], Some(2 * 6 * 2 * (48 + 64)));
        check("Einsum", &[&[7, 2, 3], &[7, 3, 5]], &[7, 2, 5], Some(2 * 7 * 2 * 3 * 5));
        check("Einsum", &[&[2, 3], &[3]], &[2, 3], Some(6));
    }

    #[test]
    fn the_rest_counts_elements_or_nothing_or_is_not_known() {
        check("Add", &[&[1, 4], &[3, 1]], &[3, 4], Some(12));
        check("Sum", &[&[4], &[4], &[4]], &[4], Some(8));
        check("ReduceMean", &[&[3, 4]], &[3], Some(12));
        check("Softmax", &[&[3, 4]], &[3, 4], Some(60));
        check("Reshape", &[&[3, 4]], &[12], Some(0));
        check("NoSuchOperator", &[&[3]], &[3], None);
        check("Einsum", &[&[2, 3, 4], &[9, 9, 9]], &[1], None);
    }

    #[test]
    fn impossible_shapes_end_in_a_number_or_none() {
        let shapes: [&[u64]; 5] = [&[], &[0], &[0, 0], &[u64::MAX; 4], &[1, u64::MAX, 3]];
        let operators = ["Conv", "QLinearConv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "Einsum", "Add", "Softmax", "Sum", "Reshape"];
        for operator in operators {
            assert!(flops(operator, &[], &[], &BTreeSet::new()).is_none_or(|n| n == 0));
            for (a, b) in shapes.iter().flat_map(|a| shapes.iter().map(move |b| (a.to_vec(), b.to_vec()))) {
                let _ = flops(operator, &[a.clone(), b.clone(), a.clone()], &[b], &["a,b->c".to_owned(), "é".to_owned()].into());
            }
        }
    }
}
