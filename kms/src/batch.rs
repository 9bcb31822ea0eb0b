//! Batches of which some items are refused on the way: they keep their places in the answer.

use strongroom_proto::{Failure, Reason};

/// A check or a result, at its place in the batch; `None` where the token is to answer.
pub(crate) type Places = Vec<Option<Failure>>;

/// Splits a batch into the items that may go to the token and the failures of the others, in their places.
pub(crate) fn split<T>(items: Vec<T>, checks: Vec<Result<(), Failure>>) -> (Vec<T>, Places) {
    let places: Places = checks.into_iter().map(Result::err).collect();
    let good = items.into_iter().zip(&places).filter(|(_, failure)| failure.is_none());
    (good.map(|(item, _)| item).collect(), places)
}

/// Puts the token's results into the places that were left for them.
pub(crate) fn merge<T>(done: Vec<Result<T, Failure>>, places: Places) -> Result<Vec<Result<T, Failure>>, Failure> {
    same_count(done.len(), places.iter().filter(|place| place.is_none()).count())?;
    let mut done = done.into_iter();
    let fill = |place: Option<Failure>| match place {
        Some(failure) => Err(failure),
        None => done.next().unwrap_or_else(|| Err(miscounted())),
    };
    Ok(places.into_iter().map(fill).collect())
}

pub(crate) fn same_count(found: usize, expected: usize) -> Result<(), Failure> {
    if found == expected { Ok(()) } else { Err(miscounted()) }
}

fn miscounted() -> Failure {
    Failure::new(
        Reason::Internal,
        "the token worker answered with another number of results than it was asked for",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_comes_back_in_its_place() {
        let refusal = || Failure::new(Reason::KeyNotFound, "no");
        let (good, places) = split(vec![1u8, 2, 3, 4], vec![Ok(()), Err(refusal()), Ok(()), Err(refusal())]);
        assert_eq!(good, [1, 3]);
        let done = vec![Ok("1"), Err(Failure::new(Reason::EdekInvalid, "bad"))];
        let merged = merge(done, places.clone()).expect("as many as asked for");
        let reasons: Vec<_> = merged
            .iter()
            .map(|result| result.as_ref().err().map(|f| f.reason))
            .collect();
        let (lost, bad) = (Some(Reason::KeyNotFound), Some(Reason::EdekInvalid));
        assert_eq!(reasons, [None, lost, bad, lost]);
        assert_eq!(
            merge(vec![Ok("1")], places).expect_err("one is short").reason,
            Reason::Internal
        );
    }
}
