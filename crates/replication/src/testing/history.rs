//! What clients asked and were told, and whether some order explains it. No knowledge of how it came about.

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// Whose; each client is a session, and asks one thing after the other.
    pub client: u8,
    /// Which key.
    pub key: u8,
    /// What is written: a value, or nothing to delete; of a read none.
    pub writes: Option<Option<u8>>,
    /// Whether it is written only where there is no value.
    pub creates: bool,
    /// Whether it is a write or a strict read.
    pub strict: bool,
    /// Its place among all that was asked and told.
    pub asked: u8,
    /// The same of its answer, and what was told.
    pub told: Option<(u8, Told)>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Told {
    /// A read's value, or none.
    Value(Option<u8>),
    /// The write is done.
    Done,
    /// It was not, for there was a value.
    Exists,
    /// Surely nothing happened.
    Refused,
}

/// Which orders count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Of writes and strict reads: real time.
    Strict,
    /// Of all operations: each client's own.
    Sequential,
}

/// Whether an order that counts explains every answer. What was not answered may or may not have happened.
pub(super) fn is_explained(history: &[Asked], level: Level) -> bool {
    let counts = |asked: &&Asked| level == Level::Sequential || asked.strict;
    let refused = |asked: &&Asked| matches!(asked.told, Some((_, Told::Refused)));
    let silent_read = |asked: &&Asked| asked.told.is_none() && asked.writes.is_none();
    let left: Vec<&Asked> =
        history.iter().filter(|a| counts(a)).filter(|a| !refused(a)).filter(|a| !silent_read(a)).collect();
    assert!(left.len() <= u16::BITS as usize, "histories are short");
    goes_on(&left, 0, &mut Vec::new(), level)
}

/// Whether the operations that `taken` leaves can follow in some order, the keys holding `held`.
fn goes_on(all: &[&Asked], taken: u16, held: &mut Vec<(u8, Option<u8>)>, level: Level) -> bool {
    let is_left = |at: usize| taken & (1 << at) == 0;
    if (0..all.len()).all(|at| !is_left(at) || all[at].told.is_none()) {
        return true;
    }
    for at in (0..all.len()).filter(|at| is_left(*at)) {
        let next = all[at];
        let before = |other: &Asked| match level {
            Level::Strict => other.told.is_some_and(|(told, _)| told < next.asked),
            Level::Sequential => other.client == next.client && other.asked < next.asked,
        };
        if (0..all.len()).any(|other| other != at && is_left(other) && before(all[other])) {
            continue;
        }
        let value = held.iter().rev().find(|(key, _)| *key == next.key).and_then(|(_, value)| *value);
        match next.writes {
            Some(written) => {
                let exists = next.creates && value.is_some();
                if next.told.is_some_and(|(_, told)| exists != (told == Told::Exists)) {
                    continue;
                }
                held.push((next.key, if exists { value } else { written }));
                let explained = goes_on(all, taken | (1 << at), held, level);
                held.pop();
                if explained {
                    return true;
                }
            }
            None => {
                let fits = next.told.is_some_and(|(_, told)| told == Told::Value(value));
                if fits && goes_on(all, taken | (1 << at), held, level) {
                    return true;
                }
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(client: u8, key: u8, value: Option<u8>, asked: u8, told: Option<u8>) -> Asked {
        let told = told.map(|at| (at, Told::Done));
        Asked { client, key, writes: Some(value), creates: false, strict: true, asked, told }
    }

    fn read(client: u8, key: u8, strict: bool, (asked, told): (u8, u8), value: Option<u8>) -> Asked {
        let told = Some((told, Told::Value(value)));
        Asked { client, key, writes: None, creates: false, strict, asked, told }
    }

    #[test]
    fn a_stale_read_is_sequential_and_not_strict() {
        let stale = |strict| [write(0, 0, Some(1), 0, Some(1)), read(1, 0, strict, (2, 3), None)];
        assert!(!is_explained(&stale(true), Level::Strict));
        assert!(is_explained(&stale(true), Level::Sequential));
        assert!(is_explained(&stale(false), Level::Strict), "a sequential read promises nothing about real time");
    }

    #[test]
    fn message_passing_must_not_fail() {
        let writes = [write(0, 0, Some(1), 0, Some(1)), write(0, 1, Some(2), 2, Some(3))];
        let reads = [read(1, 1, false, (4, 5), Some(2)), read(1, 0, false, (6, 7), None)];
        assert!(!is_explained(&[writes, reads].concat(), Level::Sequential));
    }

    #[test]
    fn a_deleted_value_that_comes_back_is_explained_by_nothing() {
        let history = [
            write(0, 0, Some(1), 0, Some(1)),
            read(1, 0, true, (2, 3), Some(1)),
            write(0, 0, None, 4, Some(5)),
            read(1, 0, true, (6, 7), None),
            read(1, 0, true, (8, 9), Some(1)),
        ];
        assert!(!is_explained(&history, Level::Strict));
        assert!(!is_explained(&history, Level::Sequential));
        assert!(is_explained(&history[..4], Level::Strict));
    }

    #[test]
    fn of_two_creations_one_acts() {
        let create = |client, asked, told| Asked { creates: true, ..write(client, 0, Some(client), asked, told) };
        let mut both = [create(0, 0, Some(2)), create(1, 1, Some(3))];
        assert!(!is_explained(&both, Level::Strict));
        both[1].told = Some((3, Told::Exists));
        assert!(is_explained(&both, Level::Strict));
    }

    #[test]
    fn what_was_not_answered_may_have_happened_or_not_and_what_was_refused_has_not() {
        let open = |value| [write(0, 0, Some(1), 0, None), read(1, 0, true, (1, 2), value)];
        assert!(is_explained(&open(Some(1)), Level::Strict) && is_explained(&open(None), Level::Strict));
        let mut refused = open(Some(1));
        refused[0].told = Some((3, Told::Refused));
        assert!(!is_explained(&refused, Level::Strict));
    }
}
