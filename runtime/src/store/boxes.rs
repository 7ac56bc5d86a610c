//! Parts of row-major tensors as runs of consecutive elements.

/// A list of intervals `[start, end)` for each dimension.
pub(super) type Part = [Vec<(u64, u64)>];

/// Elements of a part, or what is wrong with it.
pub(super) fn elements(shape: &[u64], part: &Part) -> Result<u64, String> {
    if shape.len() != part.len() {
        return Err(format!("has {} lists of intervals for {} dimensions", part.len(), shape.len()));
    }
    let mut all = 1u64;
    for (dim, (size, intervals)) in shape.iter().zip(part).enumerate() {
        let mut count = 0u64;
        for &(start, end) in intervals {
            if start > end || end > *size {
                return Err(format!("has the interval {start}..{end} of dimension {dim}, which has {size} elements"));
            }
            count = count.saturating_add(end - start);
        }
        all = all.checked_mul(count).ok_or("has more elements than fit in memory")?;
    }
    Ok(all)
}

/// Calls `visit(first element in the tensor, first element in the part, elements)` for the longest consecutive runs, in
/// the part's order. The part was checked by [`elements`].
pub(super) fn runs<E>(shape: &[u64], part: &Part, visit: &mut impl FnMut(u64, u64, u64) -> Result<(), E>) -> Result<(), E> {
    // dimensions that are whole from some point on make single runs of what is outside
    let whole = |dim: &usize| part[*dim].len() == 1 && part[*dim][0] == (0, shape[*dim]);
    let outer = (0..shape.len()).rev().find(|dim| !whole(dim)).map_or(0, |dim| dim + 1);
    if part[..outer].iter().any(|intervals| intervals.iter().all(|(start, end)| start == end)) || shape[outer..].contains(&0) {
        return Ok(());
    }
    let inside: u64 = shape[outer..].iter().product();
    walk(&shape[..outer], &part[..outer], inside, 0, &mut 0, visit)
}

fn walk<E>(
    shape: &[u64],
    part: &Part,
    inside: u64,
    first: u64,
    done: &mut u64,
    visit: &mut impl FnMut(u64, u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    let Some(intervals) = part.first() else {
        visit(first, *done, inside)?;
        *done += inside;
        return Ok(());
    };
    let stride: u64 = shape[1..].iter().product::<u64>() * inside;
    for &(start, end) in intervals {
        if part.len() == 1 {
            let run = (end - start) * stride;
            if run > 0 {
                visit(first + start * stride, *done, run)?;
                *done += run;
            }
        } else {
            for index in start..end {
                walk(&shape[1..], &part[1..], inside, first + index * stride, done, visit)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(shape: &[u64], part: &Part) -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        runs(shape, part, &mut |from, to, len| {
            all.push((from, to, len));
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(all.iter().map(|run| run.2).sum::<u64>(), elements(shape, part).unwrap());
        all
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        assert_eq!(collect(&[], &[]), [(0, 0, 1)]);
        assert_eq!(collect(&[4, 5], &[vec![(0, 4)], vec![(0, 5)]]), [(0, 0, 20)]);
        assert_eq!(collect(&[4, 5], &[vec![(1, 3)], vec![(0, 5)]]), [(5, 0, 10)]);
        assert_eq!(collect(&[2, 5], &[vec![(0, 2)], vec![(1, 3)]]), [(1, 0, 2), (6, 2, 2)]);
        assert_eq!(collect(&[8], &[vec![(0, 2), (6, 8)]]), [(0, 0, 2), (6, 2, 2)]);
        assert_eq!(collect(&[3, 2, 2], &[vec![(2, 3), (0, 1)], vec![(0, 2)], vec![(0, 2)]]), [(8, 0, 4), (0, 4, 4)]);
        assert_eq!(collect(&[3, 4], &[vec![(0, 3)], vec![]]), []);
        assert_eq!(collect(&[3, 0], &[vec![(0, 3)], vec![(0, 0)]]), []);
        assert_eq!(collect(&[0, 3], &[vec![(0, 0)], vec![(0, 3)]]), []);
    }

    #[test]
    fn bad_parts_are_told() {
        assert!(elements(&[4], &[vec![(0, 5)]]).unwrap_err().contains("0..5 of dimension 0, which has 4"));
        assert!(elements(&[4], &[vec![(3, 2)]]).is_err());
        assert!(elements(&[4], &[]).is_err());
        assert!(elements(&[u64::MAX, u64::MAX], &[vec![(0, u64::MAX)], vec![(0, u64::MAX)]]).is_err());
    }
}
