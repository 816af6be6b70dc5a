//! The checker against a second one that tries every order: on small histories both must say the same.
//!
//! The second one shares no code with the first: it keeps no frontier, releases nothing, and takes operations as they
//! stand in the history.

use checker::{Model, Options, Verdict, check_operations};
use history::{Function, Operation, Outcome, Process, Value};
use proptest::prelude::*;

/// An operation drawn at random; see [`build`].
#[derive(Clone, Copy, Debug)]
struct Draw {
    f: u8,
    a: u8,
    b: u8,
    outcome: u8,
    start: u8,
    length: u8,
}

fn draws(most: usize) -> impl Strategy<Value = Vec<Draw>> {
    let draw = (0..12u8, 0..6u8, 0..6u8, 0..8u8, 0..16u8, 1..10u8);
    prop::collection::vec(
        draw.prop_map(|(f, a, b, outcome, start, length)| Draw { f, a, b, outcome, start, length }),
        1..=most,
    )
}

#[derive(Clone, Copy)]
enum Mix {
    Values,
    /// Many values, few of them asked about.
    Many,
    Numbers,
    Strings,
    All,
    Sets,
    /// Values that were given a time.
    Mortal,
    /// Swaps away from absent and back, the ways back mostly unknown: what leases are to the search.
    Leases,
}

fn build(draws: &[Draw], mix: Mix) -> Vec<Operation> {
    // Distinct positions in the order of the drawn ones.
    let mut ends: Vec<(u8, usize)> = Vec::new();
    for (index, draw) in draws.iter().enumerate() {
        ends.push((draw.start, 2 * index));
        ends.push((draw.start + draw.length, 2 * index + 1));
    }
    ends.sort_unstable();
    let position = |end: usize| 1 + ends.iter().position(|(_, e)| *e == end).expect("every end is in the list") as u64;
    let mut operations: Vec<Operation> = draws
        .iter()
        .enumerate()
        .map(|(index, draw)| {
            let (f, input, output, applied) = claim(draw, mix);
            let leads_back = matches!(mix, Mix::Leases) && draw.f >= 7;
            let outcome = match draw.outcome {
                0 => Outcome::Info,
                1 => Outcome::Fail,
                2..7 if leads_back => Outcome::Info,
                _ => Outcome::Ok,
            };
            Operation {
                process: Process::Client(index as i64),
                f,
                key: Value::Null,
                input,
                output,
                applied,
                invoked_at: position(2 * index),
                completed_at: (outcome != Outcome::Info).then(|| position(2 * index + 1)),
                invoked_ns: None,
                completed_ns: None,
                outcome,
                level: None,
                trace_id: None,
                request_id: None,
                ttl_ms: (matches!(mix, Mix::Mortal) && draw.length.is_multiple_of(2)).then_some(5),
            }
        })
        .collect();
    operations.sort_by_key(|operation| operation.invoked_at);
    operations
}

fn claim(draw: &Draw, mix: Mix) -> (Function, Value, Value, Option<bool>) {
    let value = |n: u8| match mix {
        Mix::Many => Value::from(i64::from(n)),
        Mix::Mortal => [Value::Null, 1.into(), 2.into(), 3.into(), 4.into(), 1.into()][usize::from(n)].clone(),
        Mix::Leases => Value::from(i64::from(n) + 1),
        Mix::Values => [Value::Null, Value::from(1), Value::from(2), Value::from(1)][usize::from(n % 4)].clone(),
        Mix::Numbers => [Value::Null, 1.into(), 2.into(), 3.into(), 4.into(), "3".into()][usize::from(n)].clone(),
        Mix::Strings => {
            [Value::Null, "a".into(), "b".into(), "ab".into(), "ba".into(), "aa".into()][usize::from(n)].clone()
        }
        Mix::All => [Value::Null, "a".into(), 1.into(), "1".into(), "11".into(), 2.into()][usize::from(n)].clone(),
        Mix::Sets => Value::List((0..3).filter(|bit| n & (1 << bit) != 0).map(i64::from).map(Value::from).collect()),
    };
    let read = (Function::Read, Value::Null, value(draw.a), None);
    let add = |seen: bool| {
        let by = 1 + i64::from(draw.a % 2);
        let output = if seen { value(draw.b) } else { Value::from(by) };
        (Function::Add, Value::from(by), output, None)
    };
    let append = |seen: bool| {
        let text = Value::from(if draw.a.is_multiple_of(2) { "a" } else { "1" });
        let output = if seen { value(draw.b) } else { text.clone() };
        (Function::Append, text, output, None)
    };
    let cas = |applied| (Function::Cas, Value::List(vec![value(draw.a), value(draw.b)]), Value::Null, Some(applied));
    match (mix, draw.f) {
        (Mix::Sets, 0..6) => read,
        (Mix::Leases, 0 | 1) => read,
        (Mix::Leases, 2..7) => (Function::Cas, Value::List(vec![Value::Null, value(draw.a)]), Value::Null, Some(true)),
        (Mix::Leases, _) => (Function::Cas, Value::List(vec![value(draw.a), Value::Null]), Value::Null, Some(true)),
        (Mix::Sets, _) => (Function::Add, Value::from(i64::from(draw.a % 3)), Value::Null, None),
        (Mix::Mortal, 0..3) => read,
        (Mix::Mortal, 3 | 5..8) => (Function::Write, value(draw.a), Value::Null, None),
        (Mix::Mortal, 8..11) => cas(true),
        (Mix::Mortal, 11..) => cas(false),
        (Mix::Many, 0..2) | (Mix::Values | Mix::Numbers | Mix::Strings | Mix::All, 0..4) => read,
        (Mix::Many, 2..4) => (Function::Write, value(draw.a), Value::Null, None),
        (_, 4) => (Function::Delete, Value::Null, Value::Null, None),
        (Mix::Values | Mix::Many, 5..8) | (_, 5) => (Function::Write, value(draw.a), value(draw.a), None),
        (Mix::Values | Mix::Many, 8..10) | (Mix::Numbers | Mix::All, 6) => cas(true),
        (Mix::Values | Mix::Many, _) | (Mix::Numbers | Mix::All, 7) => cas(false),
        (Mix::Numbers, 8..11) => add(false),
        (Mix::Numbers, _) => add(true),
        (Mix::Strings, 6..11) => append(false),
        (Mix::Strings, _) => append(true),
        (Mix::All, 8) => add(true),
        (Mix::All, 9) => add(false),
        (Mix::All, 10) => append(false),
        (Mix::All, _) => append(true),
    }
}

/// Whether some order of the operations, leaving out unknown ones at will, explains every answer.
fn some_order_explains(operations: &[&Operation], state: &Value, numbers: bool, set: bool) -> bool {
    if operations.iter().all(|operation| operation.outcome == Outcome::Info) {
        return true;
    }
    for operation in operations {
        // Nothing that was over before it may come after it.
        if operations.iter().any(|other| other.precedes(operation)) {
            continue;
        }
        let rest: Vec<&Operation> =
            operations.iter().copied().filter(|other| !std::ptr::eq(*other, *operation)).collect();
        if operation.outcome == Outcome::Info && some_order_explains(&rest, state, numbers, set) {
            return true;
        }
        let after = if set { step_set(operation, state) } else { step(operation, state, numbers) };
        if after.is_some_and(|after| some_order_explains(&rest, &after, numbers, set)) {
            return true;
        }
    }
    false
}

/// Where numbers are added a string of digits is that number.
fn plain(value: &Value, numbers: bool) -> Value {
    match value {
        Value::Text(text) if numbers => text.parse::<i64>().map_or(value.clone(), Value::from),
        _ => value.clone(),
    }
}

fn step(operation: &Operation, state: &Value, numbers: bool) -> Option<Value> {
    let known = operation.outcome == Outcome::Ok;
    let pair = |i: usize| plain(&operation.input.as_list().expect("a pair")[i], numbers);
    let seen = |after: Value| {
        let told = known && operation.output != operation.input && operation.output != Value::Null;
        (!told || plain(&operation.output, numbers) == after).then_some(after)
    };
    match operation.f {
        Function::Read => (!known || plain(&operation.output, numbers) == *state).then(|| state.clone()),
        Function::Write => Some(plain(&operation.input, numbers)),
        Function::Delete => Some(Value::Null),
        Function::Cas if known && operation.applied == Some(false) => (pair(0) != *state).then(|| state.clone()),
        Function::Cas => (pair(0) == *state).then(|| pair(1)),
        Function::Add => {
            let before = if state.is_null() { 0 } else { state.as_integer()? };
            seen(Value::Integer(before + operation.input.as_integer().expect("a number")))
        }
        Function::Append => {
            let before = match state {
                Value::Null => String::new(),
                Value::Text(text) => text.clone(),
                Value::Integer(number) if numbers => number.to_string(),
                _ => return None,
            };
            seen(plain(&Value::from(before + operation.input.as_text().expect("a string")), numbers))
        }
        Function::Other(_) => None,
    }
}

fn step_set(operation: &Operation, state: &Value) -> Option<Value> {
    let mut elements = state.as_list().unwrap_or_default().to_vec();
    match operation.f {
        Function::Add => {
            elements.push(operation.input.clone());
            elements.sort();
            elements.dedup();
            Some(Value::List(elements))
        }
        _ if operation.outcome == Outcome::Info => Some(state.clone()),
        _ => (operation.output.as_list().unwrap_or_default() == elements).then(|| state.clone()),
    }
}

fn both(draws: &[Draw], mix: Mix) -> (Verdict, bool, Vec<Operation>) {
    let operations = build(draws, mix);
    let set = matches!(mix, Mix::Sets);
    let options = Options { model: if set { Model::Set } else { Model::Register }, ..Options::default() };
    let report = check_operations(&operations, &options).expect("operations of the model");
    let endings = endings(&operations);
    let effective = operations.iter().filter(|operation| operation.outcome != Outcome::Fail);
    let effective: Vec<&Operation> = effective.chain(&endings).collect();
    let numbers = effective.iter().any(|operation| operation.f == Function::Add);
    let expected = some_order_explains(&effective, &Value::Null, numbers, set);
    // Of an operation that was given a time either half may be the evidence.
    if !expected && !set && endings.is_empty() {
        evidence_stands(&report, &operations, numbers);
    }
    (report.verdict, expected, operations)
}

/// What ends values that were given a time: later than their operation began, or never.
fn endings(operations: &[Operation]) -> Vec<Operation> {
    let mut endings = Vec::new();
    for operation in operations.iter().filter(|o| o.ttl_ms.is_some() && o.outcome != Outcome::Fail) {
        let value = match (&operation.f, operation.input.as_list()) {
            (Function::Write, _) => &operation.input,
            // Of one without an answer nobody knows whether it was applied.
            (Function::Cas, Some([_, new]))
                if operation.outcome == Outcome::Info || operation.applied != Some(false) =>
            {
                new
            }
            // The value that a read found was given that time.
            (Function::Read, _) if operation.outcome == Outcome::Ok => &operation.output,
            _ => continue,
        };
        if !value.is_null() {
            let (f, input) = (Function::Cas, Value::List(vec![value.clone(), Value::Null]));
            let (outcome, completed_at, ttl_ms) = (Outcome::Info, None, None);
            endings.push(Operation { f, input, outcome, completed_at, ttl_ms, ..operation.clone() });
        }
    }
    endings
}

/// What a violation names contradicts itself without the rest: brute force says so too.
fn evidence_stands(report: &checker::Report, operations: &[Operation], numbers: bool) {
    for violation in &report.violations {
        let mut part = Vec::new();
        for named in &violation.operations {
            let mut operation = operations
                .iter()
                .find(|operation| operation.invoked_at == named.invoked_line)
                .expect("an operation of the history")
                .clone();
            if !named.timing_matters {
                (operation.outcome, operation.completed_at, operation.invoked_at) = (Outcome::Info, None, 0);
            } else if operation.completed_at.is_some_and(|end| end > violation.line) {
                // Open when the last answer came: that it was answered later is no part of the contradiction.
                (operation.outcome, operation.completed_at) = (Outcome::Info, None);
            }
            part.push(operation);
        }
        let part: Vec<&Operation> = part.iter().collect();
        assert!(!some_order_explains(&part, &Value::Null, numbers, false), "{violation:#?}\n{}", show(operations));
    }
}

fn agree(draws: &[Draw], mix: Mix) -> Result<(), TestCaseError> {
    let (verdict, expected, operations) = both(draws, mix);
    let expected = if expected { Verdict::Valid } else { Verdict::Violated };
    prop_assert_eq!(verdict, expected, "{}", show(&operations));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_agree(draws in draws(7)) {
        agree(&draws, Mix::Values)?;
    }

    #[test]
    fn many_values_agree(draws in draws(8)) {
        agree(&draws, Mix::Many)?;
    }

    #[test]
    fn numbers_agree(draws in draws(7)) {
        agree(&draws, Mix::Numbers)?;
    }

    #[test]
    fn strings_agree(draws in draws(7)) {
        agree(&draws, Mix::Strings)?;
    }

    #[test]
    fn a_mix_of_everything_agrees(draws in draws(6)) {
        agree(&draws, Mix::All)?;
    }

    #[test]
    fn values_with_a_time_agree(draws in draws(6)) {
        agree(&draws, Mix::Mortal)?;
    }

    #[test]
    fn leases_agree(draws in draws(8)) {
        agree(&draws, Mix::Leases)?;
    }

    #[test]
    fn sets_agree(draws in draws(7)) {
        agree(&draws, Mix::Sets)?;
    }
}

const MIXES: [Mix; 8] =
    [Mix::Values, Mix::Many, Mix::Numbers, Mix::Strings, Mix::All, Mix::Sets, Mix::Mortal, Mix::Leases];

/// The comparison is worth something only if both verdicts occur often.
#[test]
fn the_drawn_histories_are_of_both_kinds() {
    let mut prng = stdx::Prng::from_seed(1);
    for mix in MIXES {
        let mut valid = 0;
        for _ in 0..1000 {
            let count = 2 + prng.below(6);
            let draws: Vec<Draw> = (0..count)
                .map(|_| Draw {
                    f: prng.below(12) as u8,
                    a: prng.below(6) as u8,
                    b: prng.below(6) as u8,
                    outcome: prng.below(8) as u8,
                    start: prng.below(16) as u8,
                    length: 1 + prng.below(9) as u8,
                })
                .collect();
            let (verdict, expected, operations) = both(&draws, mix);
            assert_eq!(verdict == Verdict::Valid, expected, "{}", show(&operations));
            valid += u32::from(expected);
        }
        assert!((100..=900).contains(&valid), "{valid} of 1000 are valid");
    }
}

/// A history on a few lines, for the message of a failed comparison.
fn show(operations: &[Operation]) -> String {
    let mut text = String::new();
    for o in operations {
        text += &format!(
            "{:?} [{}, {:?}] {} {} -> {} {:?}\n",
            o.outcome, o.invoked_at, o.completed_at, o.f, o.input, o.output, o.applied
        );
    }
    text
}
