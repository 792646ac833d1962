//! Shapes on both sides of a configuration's `reshape`: what a client sees and what the graph sees.

use crate::Shape;

/// `actual`, a shape that fits `from`, as it looks in `to`: the first open dimension of `to` (-1) gets the size of the first
/// open one of `from`, and so on. A batch dimension is open on both sides, so it stays. Goes either way: client to graph for
/// an input, graph to client for an output.
///
/// `None` when `actual` does not fit `from`, the sides do not have equally many open dimensions, or the elements would not be
/// as many as before.
pub fn reshape(from: &[i64], to: &[i64], actual: &[i64]) -> Option<Shape> {
    let fits = |(want, got): (&i64, &i64)| *got >= 0 && (*want < 0 || want == got);
    if from.len() != actual.len() || !from.iter().zip(actual).all(fits) {
        return None;
    }
    let mut open = from.iter().zip(actual).filter(|(want, _)| **want < 0).map(|(_, got)| *got);
    let shape: Shape = to.iter().map(|want| if *want < 0 { open.next() } else { Some(*want) }).collect::<Option<_>>()?;
    let left = open.next().is_some();
    (!left && elements(&shape)? == elements(actual)?).then_some(shape)
}

fn elements(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1i64, |n, d| n.checked_mul(*d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(from: &[i64], to: &[i64], actual: &[i64], expected: Option<&[i64]>) {
        assert_eq!(reshape(from, to, actual).as_deref(), expected, "{actual:?} of {from:?} as {to:?}");
    }

    #[test]
    fn open_dimensions_are_mapped_in_order() {
        // Triton's own examples: a scalar per row, an added dimension, open ones among fixed ones.
        check(&[-1, 1], &[-1], &[3, 1], Some(&[3]));
        check(&[-1], &[-1, 1, 1], &[4], Some(&[4, 1, 1]));
        check(&[-1, 4, -1, 4], &[-1, 16, -1], &[2, 4, 7, 4], Some(&[2, 16, 7]));
        check(&[2, 2], &[4], &[2, 2], Some(&[4]));
        check(&[1], &[], &[1], Some(&[]));
        check(&[-1, 0], &[-1, 0, 5], &[3, 0], Some(&[3, 0, 5]));
    }

    #[test]
    fn what_does_not_fit_is_nobodys_shape() {
        check(&[-1, 2], &[-1, 2], &[3], None);
        check(&[-1, 2], &[-1, 2], &[3, 3], None);
        check(&[-1, 2], &[-1, 2], &[-1, 2], None);
        check(&[-1, -1], &[-1, 4], &[3, 4], None);
        check(&[-1, 4], &[-1, -1], &[3, 4], None);
        check(&[-1, 4], &[-1, 5], &[3, 4], None);
        check(&[-1, 4], &[-1, 2, 2], &[i64::MAX, 4], None);
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same(rows in 0i64..100, open in 0i64..100, a in 1i64..9, b in 1i64..9) {
            let (client, graph) = ([-1, a, -1, b], [-1, a * b, -1]);
            let there = reshape(&client, &graph, &[rows, a, open, b]).unwrap();
            prop_assert_eq!(&there[..], &[rows, a * b, open]);
            let back = reshape(&graph, &client, &there);
            prop_assert_eq!(back.as_deref(), Some(&[rows, a, open, b][..]));
        }
    }
}
