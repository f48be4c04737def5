//! Wishes for an agent, in batches of which each fits into one message.

use pc_switcher_contract::BytePath;

/// Bytes of paths in one batch after which another begins.
const LONG: usize = 1 << 20;

/// Cuts wishes into batches of at most so many.
pub(crate) fn batches<'a, T>(
    wants: &'a [T],
    most: usize,
    path: impl Fn(&T) -> &BytePath + 'a,
) -> impl Iterator<Item = &'a [T]> {
    let (mut count, mut bytes) = (0, 0);
    wants.chunk_by(move |want, _| {
        (count, bytes) = (count + 1, bytes + path(want).as_bytes().len());
        let fits = count < most && bytes < LONG;
        if !fits {
            (count, bytes) = (0, 0);
        }
        fits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_neither_many_nor_long() {
        let sizes =
            |wants: &[BytePath], most| batches(wants, most, |want| want).map(<[_]>::len).collect::<Vec<_>>();
        let short: Vec<BytePath> = (0..25).map(|at| format!("{at}").as_str().into()).collect();
        assert_eq!(sizes(&short, 10), [10, 10, 5]);
        assert_eq!(sizes(&[], 10), [0; 0]);
        let deep: Vec<BytePath> = (0..300).map(|_| "d/".repeat(5000).as_str().into()).collect();
        let parts = sizes(&deep, 500);
        assert!(
            parts.iter().all(|part| part * 10_000 < 2 * LONG) && parts.iter().sum::<usize>() == 300,
            "{parts:?}"
        );
        assert!(parts.len() > 1);
    }
}
