//! Models `set` and `counter` at the levels between strict and eventual.
//!
//! A set that only grows is decided exactly at level sequential: a read comes after the adds of what it shows and
//! before the adds of what it does not, and any order that keeps this and the sessions explains everything. At level
//! causal it must show all that led to it, and nothing that it led to. A counter is judged by bounds: what surely and
//! what possibly came before a read by its session's order.

use std::collections::{BTreeMap, BTreeSet};

use history::{Function, Operation, Outcome, Value};

use crate::causal::{Broken, Guarantee};
use crate::check::CheckError;
use crate::claims::Claims;
use crate::options::Level;
use crate::order::Order;
use crate::register::{integer, refused};

/// Who added each element of a key.
type Adders<'a> = BTreeMap<(u32, &'a Value), Vec<u32>>;

/// What contradicts the level in the history of a set.
pub(crate) fn set(claims: &Claims<'_>, level: Level) -> Result<Vec<Broken>, CheckError> {
    let mut adders: Adders<'_> = BTreeMap::new();
    let mut reads: Vec<(u32, BTreeSet<&Value>)> = Vec::new();
    for (index, claim) in claims.claims.iter().enumerate() {
        let operation = claim.operation;
        match operation.f {
            Function::Add => adders.entry((claim.key, &operation.input)).or_default().push(index as u32),
            Function::Read if operation.outcome == Outcome::Ok => reads.push((index as u32, elements(operation)?)),
            Function::Read => {}
            _ => return Err(refused(operation, "model set does not know it")),
        }
    }
    let mut order = Order::of(claims);
    for (read, elements) in &reads {
        let key = claims.claims[*read as usize].key;
        for element in elements {
            match adders.get(&(key, *element)).map(Vec::as_slice) {
                None => return Ok(vec![broken("an element that nobody had added", vec![*read])]),
                Some([one]) => order.add(*one, *read),
                Some(_) => {}
            }
        }
        if level >= Level::Sequential {
            let missing = adders.iter().filter(|((of, element), _)| *of == key && !elements.contains(element));
            for add in missing.flat_map(|(_, adds)| adds).filter(|add| took_effect(claims, &reads, **add)) {
                order.add(*read, *add);
            }
        }
    }
    if let Err(circle) = order.settle() {
        return Ok(vec![broken("no order of these operations explains what they show", circle)]);
    }
    if level >= Level::Sequential {
        return Ok(Vec::new());
    }
    let lost = reads.iter().filter_map(|(read, elements)| {
        let key = claims.claims[*read as usize].key;
        let mut missing = adders.iter().filter(|((of, element), _)| *of == key && !elements.contains(element));
        let add = missing.find_map(|(_, adds)| {
            adds.iter().find(|add| claims.claims[**add as usize].must && order.precedes(**add, *read))
        })?;
        let mut evidence = vec![*read];
        evidence.extend(order.path(*add, *read).into_iter().filter(|claim| claim != read));
        Some(broken("an element that led to this read is not in it", evidence))
    });
    Ok(lost.collect())
}

/// Whether it surely took effect: it was acknowledged, or some read shows it.
fn took_effect(claims: &Claims<'_>, reads: &[(u32, BTreeSet<&Value>)], add: u32) -> bool {
    let claim = &claims.claims[add as usize];
    let shown = |(read, elements): &(u32, BTreeSet<&Value>)| {
        claims.claims[*read as usize].key == claim.key && elements.contains(&claim.operation.input)
    };
    claim.must || reads.iter().any(shown)
}

pub(crate) fn elements(operation: &Operation) -> Result<BTreeSet<&Value>, CheckError> {
    match &operation.output {
        Value::Null => Ok(BTreeSet::new()),
        Value::List(list) => Ok(list.iter().collect()),
        _ => Err(refused(operation, "its answer must be a list")),
    }
}

/// What contradicts the level in the history of a counter: a read outside of its bounds.
pub(crate) fn counter(claims: &Claims<'_>) -> Result<Vec<Broken>, CheckError> {
    let mut adds: Vec<(u32, i128)> = Vec::new();
    for (index, claim) in claims.claims.iter().enumerate() {
        match claim.operation.f {
            Function::Read => {}
            Function::Add => adds.push((index as u32, amount(claim.operation)?)),
            _ => return Err(refused(claim.operation, "model counter does not know it")),
        }
    }
    let mut order = Order::of(claims);
    if let Err(circle) = order.settle() {
        return Ok(vec![broken("each of these operations led to the others", circle)]);
    }
    let reads = claims.claims.iter().enumerate().filter(|(_, claim)| claim.operation.f == Function::Read && claim.must);
    let outside = reads.filter_map(|(index, claim)| {
        let read = index as u32;
        let (mut low, mut high) = (0, 0);
        for (add, by) in adds.iter().filter(|(add, _)| claims.claims[*add as usize].key == claim.key) {
            let surely = claims.claims[*add as usize].must && order.precedes(*add, read);
            let never = order.precedes(read, *add);
            low += if surely || (*by < 0 && !never) { *by } else { 0 };
            high += if surely || (*by > 0 && !never) { *by } else { 0 };
        }
        let output = &claim.operation.output;
        let found = if output.is_null() { Some(0) } else { integer(output) };
        let outside = found.is_none_or(|found| found < low || found > high);
        outside.then(|| broken("a number outside of what can have been added before it", vec![read]))
    });
    Ok(outside.collect())
}

pub(crate) fn amount(operation: &Operation) -> Result<i128, CheckError> {
    integer(&operation.input).ok_or_else(|| refused(operation, "its value must be a whole number"))
}

fn broken(what: &'static str, claims: Vec<u32>) -> Broken {
    Broken { guarantee: Guarantee::Causality, what, claims }
}
