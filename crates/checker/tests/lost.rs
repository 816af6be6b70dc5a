//! Acknowledged updates that are not there once everything has settled: counted and named, and never of a store that
//! kept its word.

mod support;

use checker::{LostWrites, Model, lost_once_settled};
use support::jsonl;

const SETTLED: &str = "\n\"nemesis\" info settled k {}\n";

/// What is lost of a history whose final reads, after everything has settled, show `finals`.
fn lost(model: Model, before: &str, finals: &[&str]) -> LostWrites {
    let mut script = format!("{before}{SETTLED}");
    for (at, shown) in finals.iter().enumerate() {
        let process = 90 + at;
        script += &format!("{process} invoke read k\n{process} ok read k {shown}\n");
    }
    let history = history::read(jsonl(&script).as_bytes()).expect("a readable history");
    lost_once_settled(&history, model).expect("operations of the model")
}

/// How many are lost, and the lines of those that are named.
fn of_one(result: &LostWrites) -> (u64, Vec<u64>) {
    assert!(result.lost.len() <= 1, "{result:?}");
    let lines = |key: &checker::LostKey| key.suspects.iter().map(|suspect| suspect.invoked_line).collect();
    result.lost.first().map_or((0, Vec::new()), |key| (key.at_least, lines(key)))
}

/// Two sessions write; a third sees both, and takes their place; a fourth has seen nothing.
const REGISTER: &str = "0 invoke write k \"a\"
    0 ok write k \"a\"
    1 invoke write k \"b\"
    1 ok write k \"b\"
    2 invoke read k
    2 ok read k [\"a\",\"b\"]
    2 invoke write k \"c\"
    2 ok write k \"c\"
    3 invoke write k \"d\"
    3 ok write k \"d\"";

#[test]
fn a_write_that_is_shown_or_replaced_is_not_lost() {
    let found = lost(Model::Register, REGISTER, &["[\"c\",\"d\"]", "[\"d\",\"c\"]"]);
    assert_eq!((found.acknowledged, of_one(&found).0, found.unread.len()), (4, 0, 0), "{found:?}");
}

#[test]
fn a_write_that_is_neither_is_lost_and_the_worst_read_counts() {
    let found = lost(Model::Register, REGISTER, &["[\"c\",\"d\"]", "[\"c\"]"]);
    assert_eq!(of_one(&found), (1, vec![9]), "{found:?}");
    assert_eq!(found.lost[0].suspects[0].trace_id.as_deref(), Some("trace-9"));
    assert_eq!(of_one(&lost(Model::Register, REGISTER, &["[]"])), (2, vec![7, 9]), "c took the place of a and b");
    let back = lost(Model::Register, REGISTER, &["[\"a\",\"d\"]"]);
    assert_eq!(of_one(&back), (1, vec![7]), "what c had replaced is there instead of it");
}

#[test]
fn a_deletion_whose_value_is_back_is_lost() {
    let deleted = format!("{REGISTER}\n2 invoke delete k\n2 ok delete k");
    assert_eq!(of_one(&lost(Model::Register, &deleted, &["[\"d\"]"])).0, 0);
    assert_eq!(of_one(&lost(Model::Register, &deleted, &["[\"c\",\"d\"]"])), (1, vec![11]));
    let unknown = format!("{REGISTER}\n2 invoke delete k\n2 info delete k");
    for shown in ["[\"d\"]", "[\"c\",\"d\"]"] {
        assert_eq!(of_one(&lost(Model::Register, &unknown, &[shown])).0, 0, "it may have acted or not: {shown}");
    }
}

#[test]
fn a_write_of_unknown_outcome_is_never_lost() {
    let script = "0 invoke write k \"a\"\n0 info write k \"a\"\n1 invoke read k\n1 ok read k [\"a\"]";
    for shown in ["[]", "[\"a\"]"] {
        let found = lost(Model::Register, script, &[shown]);
        assert_eq!((found.acknowledged, of_one(&found).0), (0, 0), "{found:?}");
    }
}

#[test]
fn of_one_value_that_which_was_replaced_tells() {
    let script = "0 invoke write k \"a\"
        0 ok write k \"a\"
        0 invoke write k \"b\"
        0 ok write k \"b\"
        1 invoke write k \"c\"
        1 ok write k \"c\"";
    assert_eq!(of_one(&lost(Model::Register, script, &["\"c\""])).0, 0, "the last writer may be either");
    assert_eq!(of_one(&lost(Model::Register, script, &["\"b\""])).0, 0);
    assert_eq!(of_one(&lost(Model::Register, script, &["\"a\""])), (1, vec![3]));
    assert_eq!(of_one(&lost(Model::Register, script, &["null"])).0, 2, "b and c; a was replaced");
}

#[test]
fn each_acknowledged_element_that_is_missing_is_lost() {
    let script = "0 invoke add k \"a\"
        0 ok add k \"a\"
        1 invoke add k \"b\"
        1 ok add k \"b\"
        2 invoke add k \"c\"
        2 info add k \"c\"";
    for whole in ["[\"a\",\"b\"]", "[\"b\",\"a\",\"c\"]"] {
        let found = lost(Model::Set, script, &[whole]);
        assert_eq!((found.acknowledged, of_one(&found).0), (2, 0), "{found:?}");
    }
    assert_eq!(of_one(&lost(Model::Set, script, &["[\"a\",\"b\"]", "[\"b\",\"c\"]"])), (1, vec![1]));
    assert_eq!(of_one(&lost(Model::Set, script, &["[]"])), (2, vec![1, 3]));
}

#[test]
fn a_counter_lacks_as_few_additions_as_explain_it() {
    let script = "0 invoke add k 5
        0 ok add k 5
        1 invoke add k 2
        1 ok add k 2
        2 invoke add k 3
        2 info add k 3";
    for whole in ["7", "10"] {
        let found = lost(Model::Counter, script, &[whole]);
        assert_eq!((found.acknowledged, of_one(&found).0), (2, 0), "{found:?}");
    }
    assert_eq!(of_one(&lost(Model::Counter, script, &["5"])), (1, Vec::new()), "which is not known");
    assert_eq!(of_one(&lost(Model::Counter, script, &["1"])).0, 2);
    assert_eq!(of_one(&lost(Model::Counter, script, &["null"])).0, 2);
}

#[test]
fn a_key_that_nobody_read_at_the_end_is_named() {
    let found = lost(Model::Set, "0 invoke add k \"a\"\n0 ok add k \"a\"", &[]);
    assert_eq!((found.lost.len(), found.unread.len()), (0, 1), "{found:?}");
}
