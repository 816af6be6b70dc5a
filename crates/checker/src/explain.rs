//! From "nothing explains this key" to the few operations that contradict each other.

use std::collections::HashMap;

use history::{Operation, Value};

use crate::options::{Budget, Limit};
use crate::register::{Action, OPEN, Step};
use crate::report::{OffendingOperation, Violation};
use crate::search::{self, Found};

/// How many violated keys of a history are reduced to their smallest part; of the rest the answer that nothing
/// explains is named alone. People read the first few.
pub(crate) const VIOLATIONS_EXPLAINED_MAX: usize = 20;
/// The most steps that one attempt to leave an operation out may cost; one that costs more leaves it in.
const ATTEMPT_STEPS_MAX: u64 = 20_000;
/// The most steps that reducing one key may cost; what has been reached by then is reported.
const REDUCTION_STEPS_MAX: u64 = 1_000_000;

/// Where the search found nothing left.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub at: u64,
    pub source: usize,
}

/// Puts a violation into words and evidence. With `reduced` false the evidence is the last operation alone.
pub(crate) fn violation(
    key: &Value,
    operations: &[&Operation],
    steps: &[Step],
    place: Place,
    reduced: bool,
) -> Violation {
    let mut evidence = Vec::new();
    if reduced {
        let prefix = prefix(steps, place.at);
        // Where the search looked ahead (appends), the prefix alone may not show it.
        let (_, prefix_violated) = attempt(&prefix);
        evidence = Reduction::of(if prefix_violated { prefix } else { steps.to_vec() }).reduce();
    }
    if evidence.is_empty() {
        evidence = steps.iter().filter(|step| step.source == place.source).map(|step| (step.clone(), true)).collect();
    } else if let Some(writer) = replaced_writer(&evidence, steps) {
        evidence.push((writer.clone(), true));
    }
    evidence.sort_by_key(|(step, _)| step.source);
    // The last return of the evidence is the answer that nothing explains.
    let last = evidence.iter().filter(|(step, timed)| *timed && step.ret != OPEN).max_by_key(|(step, _)| step.ret);
    let last = last.map_or(place.source, |(step, _)| step.source);
    let named = evidence
        .iter()
        .map(|(step, timed)| OffendingOperation::new(operations[step.source], *timed))
        .collect::<Vec<_>>();
    let sentence = sentence(key, operations, steps, last, named.len());
    Violation::new(key.clone(), sentence, operations[last].completed_at.unwrap_or(place.at), named)
}

/// The last writer of the value that the last answer tells of, where the reduction left out all its writers: they are
/// not needed for the contradiction, but people want to see where the value came from.
fn replaced_writer<'a>(evidence: &[(Step, bool)], steps: &'a [Step]) -> Option<&'a Step> {
    let (last, _) =
        evidence.iter().filter(|(step, timed)| *timed && step.ret != OPEN).max_by_key(|(step, _)| step.ret)?;
    let asked = match &last.action {
        Action::Read(value) | Action::Cas { old: value, .. } => value,
        _ => return None,
    };
    let sets = |step: &Step| matches!(&step.action, Action::Write(new) | Action::Cas { new, .. } if new == asked);
    if evidence.iter().any(|(step, _)| sets(step)) {
        return None;
    }
    let earlier = steps.iter().filter(|step| sets(step) && step.ret < last.call && step.source != last.source);
    earlier.max_by_key(|step| step.ret)
}

/// The history up to and with `at`: what is still open then has an unknown outcome.
fn prefix(steps: &[Step], at: u64) -> Vec<Step> {
    let mut prefix = Vec::new();
    for step in steps.iter().filter(|step| step.call < at) {
        if step.ret <= at {
            prefix.push(step.clone());
        } else if !step.action.only_observes() {
            prefix.push(step.unanswered());
        }
    }
    prefix
}

/// What trying to explain `steps` cost, and whether it surely cannot be done.
fn attempt(steps: &[Step]) -> (u64, bool) {
    let limit = Limit::steps(ATTEMPT_STEPS_MAX);
    let mut budget = Budget::new(&limit);
    let found = search::search(steps, &mut budget);
    (budget.steps(), matches!(found, Found::Unexplained { .. }))
}

/// Leaves out of a contradiction what it does not need.
///
/// Leaving out an observation is sound: what explains all answers explains fewer. Leaving out an effect is not, a
/// read of it would then seem invented; so it is *loosened* instead: it may take effect at any time, or never,
/// and a cas whatever the value was. Every
/// history that can be explained can still be so with an operation loosened. A loosened one whose value nothing in
/// the rest asks about is then left out for good, and so is one that cannot have been there when the rest asked: each
/// question was answered before it began, or asked after another effect that began after its end was over. Whatever
/// order explains the rest with it, explains the rest without it, since nothing asks between it and the next effect.
struct Reduction {
    steps: Vec<Step>,
    tight: Vec<bool>,
    spent: u64,
}

impl Reduction {
    fn of(steps: Vec<Step>) -> Reduction {
        Reduction { tight: vec![true; steps.len()], steps, spent: 0 }
    }

    /// The steps that are left, and whether their timing matters.
    fn reduce(mut self) -> Vec<(Step, bool)> {
        // Observations first: they vanish, where a loosened effect that some of them still ask about would stay.
        for observations_only in [true, false] {
            let mut chunk = self.steps.len().div_ceil(2).max(1);
            loop {
                let mut any = false;
                // From the front: what is oldest matters least.
                for start in (0..self.steps.len()).step_by(chunk) {
                    any |= self.loosen(start..(start + chunk).min(self.steps.len()), observations_only);
                }
                if chunk > 1 {
                    chunk = chunk.div_ceil(2);
                } else if !any || self.spent > REDUCTION_STEPS_MAX {
                    break;
                }
            }
        }
        let all = self.loosened(&self.tight);
        let timed: Vec<usize> =
            self.steps.iter().zip(&self.tight).filter(|(_, tight)| **tight).map(|(step, _)| step.source).collect();
        // Loosened effects that nothing asks about explain nothing to the reader either.
        let noticed: Vec<usize> = crate::problem::Problem::new(&all).ops.iter().map(|op| op.source).collect();
        let left = self.steps.into_iter().filter(|step| noticed.contains(&step.source));
        left.map(|step| (timed.contains(&step.source), step)).map(|(timed, step)| (step, timed)).collect()
    }

    fn loosen(&mut self, range: std::ops::Range<usize>, observations_only: bool) -> bool {
        let mut tight = self.tight.clone();
        for index in range {
            tight[index] &= observations_only && !self.steps[index].action.only_observes();
        }
        if self.spent > REDUCTION_STEPS_MAX || tight == self.tight {
            return false;
        }
        let (cost, violated) = attempt(&self.loosened(&tight));
        self.spent += cost;
        if violated {
            self.tight = tight;
        }
        violated
    }

    fn loosened(&self, tight: &[bool]) -> Vec<Step> {
        let mut loosened = Vec::new();
        let gone = self.gone(tight);
        for ((step, tight), gone) in self.steps.iter().zip(tight).zip(gone) {
            if *tight {
                loosened.push(step.clone());
            } else if !step.action.only_observes() && !gone {
                let mut step = Step { call: 0, ..step.unanswered() };
                if let Action::Cas { new, .. } = step.action {
                    step.action = Action::Write(new);
                }
                loosened.push(step);
            }
        }
        loosened
    }
}

impl Reduction {
    /// Which effects, of those that are not tight, cannot have been there when any question was asked.
    fn gone(&self, tight: &[bool]) -> Vec<bool> {
        if self.steps.iter().any(|step| matches!(step.action, Action::Add { .. } | Action::Append { .. })) {
            return vec![false; self.steps.len()];
        }
        // Questions by the value that they are about, `None` for those that any other value answers.
        let mut questions: HashMap<Option<&Value>, Vec<(u64, u64)>> = HashMap::new();
        let mut replacing: Vec<(u64, u64)> = Vec::new();
        for (step, tight) in self.steps.iter().zip(tight) {
            let (value, times) = match &step.action {
                Action::Cas { old, .. } if *tight => (Some(old), (step.call, step.ret)),
                Action::Read(value) if *tight => (Some(value), (step.call, step.ret)),
                Action::NotEqual(_) if *tight => (None, (step.call, step.ret)),
                _ => continue,
            };
            questions.entry(value).or_default().push(times);
        }
        let effects = self.steps.iter().zip(tight).filter(|(step, tight)| **tight && step.must);
        replacing
            .extend(effects.filter(|(step, _)| !step.action.only_observes()).map(|(step, _)| (step.call, step.ret)));
        // Of the effects that begin from here on, the earliest end.
        replacing.sort_unstable();
        for index in (1..replacing.len()).rev() {
            replacing[index - 1].1 = replacing[index].1.min(replacing[index - 1].1);
        }
        let is_gone = |step: &Step| {
            let (Action::Write(new) | Action::Cas { new, .. }) = &step.action else { return false };
            let next = replacing.partition_point(|(call, _)| *call <= step.ret);
            let replaced = replacing.get(next).map_or(OPEN, |(_, end)| *end);
            let mut asked = [Some(new), None].into_iter().filter_map(|value| questions.get(&value)).flatten();
            asked.all(|(call, ret)| *ret < step.call || *call > replaced)
        };
        self.steps.iter().zip(tight).map(|(step, tight)| !tight && is_gone(step)).collect()
    }
}

/// What is wrong, as far as it has a name; `last` is the operation whose answer nothing explains.
fn sentence(key: &Value, operations: &[&Operation], steps: &[Step], last: usize, parts: usize) -> String {
    let operation = operations[last];
    let line = operation.completed_at.unwrap_or(operation.invoked_at);
    let who = format!("{} of key {key} by process {} (line {line})", operation.f, operation.process);
    let Some(step) = steps.iter().find(|step| step.source == last) else {
        return format!("the answer to the {who} has no explanation");
    };
    let grows = steps.iter().any(|step| matches!(step.action, Action::Add { .. } | Action::Append { .. }));
    let asked = match &step.action {
        Action::Read(value) | Action::Cas { old: value, .. } if !grows => value,
        _ => return format!("no order of these {parts} operations explains the answer to the {who}"),
    };
    let sets = |step: &&Step| match &step.action {
        Action::Write(new) | Action::Cas { new, .. } => new == asked && step.source != last,
        _ => false,
    };
    let found = match step.action {
        Action::Read(_) => format!("the {who} found {asked}"),
        _ => format!("the {who} was told that it had replaced {asked}"),
    };
    let writers: Vec<&Step> = steps.iter().filter(sets).collect();
    if writers.is_empty() && !asked.is_null() {
        return format!("{found}, which no operation had written, unless one that failed");
    }
    if !asked.is_null() && writers.iter().all(|writer| writer.call > step.ret) {
        return format!("{found}, which was written only later");
    }
    // Every write of it was over before another one that surely took effect began, and that one before this began.
    let replaced = steps.iter().filter(|by| by.must && by.ret < step.call && !by.action.only_observes());
    let replaced = replaced.filter(|by| !sets(by) && writers.iter().all(|w| w.ret < by.call || w.call > step.ret));
    match replaced.max_by_key(|by| by.ret) {
        Some(by) => {
            let (f, process) = (&operations[by.source].f, &operations[by.source].process);
            format!("{found}, which the {f} by process {process} (line {}) had replaced before it began", by.ret)
        }
        None => format!("{found}, and no order of these {parts} operations explains it"),
    }
}
