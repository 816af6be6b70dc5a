//! What the operations of model `register` claim, free of who asked and in which words.

use history::{Function, Operation, Outcome, Value};

use crate::check::CheckError;

/// The position of the end of an operation that stays open for ever.
pub(crate) const OPEN: u64 = u64::MAX;

/// What an operation does to the value, or observed of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The value was this.
    Read(Value),
    /// The value was not this: a cas that did not apply.
    NotEqual(Value),
    /// The value becomes this, whatever it was.
    Write(Value),
    /// The value was `old` and becomes `new`.
    Cas { old: Value, new: Value },
    /// `by` is added; `seen` is the sum, where the answer told it.
    Add { by: i128, seen: Option<Value> },
    /// `text` is joined to the end; `seen` is the whole, where the answer told it.
    Append { text: String, seen: Option<Value> },
}

impl Action {
    /// Whether it only observes.
    pub(crate) fn only_observes(&self) -> bool {
        matches!(self, Action::Read(_) | Action::NotEqual(_))
    }
}

/// One operation as the search sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub action: Action,
    /// Took effect after this position,
    pub call: u64,
    /// and before this one, or [`OPEN`].
    pub ret: u64,
    /// Whether it surely took effect. One that need not have may be left out of the order.
    pub must: bool,
    /// The index of its operation in the key's history.
    pub source: usize,
}

impl Step {
    /// The same as if its answer had never come.
    pub(crate) fn unanswered(&self) -> Step {
        let mut action = self.action.clone();
        if let Action::Add { seen, .. } | Action::Append { seen, .. } = &mut action {
            *seen = None;
        }
        Step { action, ret: OPEN, must: false, ..*self }
    }
}

/// What the operations of one key claim. Those that claim nothing (failed, unanswered reads) are left out.
pub(crate) fn steps(operations: &[&Operation]) -> Result<Vec<Step>, CheckError> {
    let mut steps = Vec::with_capacity(operations.len());
    for (source, operation) in operations.iter().enumerate() {
        let must = match operation.outcome {
            Outcome::Fail => continue,
            Outcome::Ok => true,
            Outcome::Info => false,
        };
        if let Some(action) = action(operation, must)? {
            let ret = operation.completed_at.unwrap_or(OPEN);
            let over = ending(operation, &action);
            steps.push(Step { action, call: operation.invoked_at, ret, must, source });
            if let Some(action) = over {
                // From then on at any time, once, or never: which clock ends it, and when, is not in the history.
                steps.push(Step { action, call: operation.invoked_at, ret: OPEN, must: false, source });
            }
        }
    }
    spell_numbers(&mut steps);
    Ok(steps)
}

/// How the value that an operation left ends by itself, if it was written to live for a time only.
fn ending(operation: &Operation, action: &Action) -> Option<Action> {
    operation.ttl_ms?;
    match action {
        // A read has a time where it stands for all that was before it.
        Action::Write(value) | Action::Cas { new: value, .. } | Action::Read(value) if !value.is_null() => {
            Some(Action::Cas { old: value.clone(), new: Value::Null })
        }
        _ => None,
    }
}

/// Where numbers are added, a number and the string that spells it are one value: a store of bytes answers "8" where
/// another answers 8. Has to be said of a key's whole history at once, before any part of it is looked at alone.
pub(crate) fn spell_numbers(steps: &mut [Step]) {
    if !steps.iter().any(|step| matches!(step.action, Action::Add { .. })) {
        return;
    }
    let spell = |value: &mut Value| {
        if let Value::Integer(number) = value {
            *value = Value::Text(number.to_string());
        }
    };
    for step in steps {
        match &mut step.action {
            Action::Read(value) | Action::NotEqual(value) | Action::Write(value) => spell(value),
            Action::Cas { old, new } => [old, new].into_iter().for_each(spell),
            Action::Add { seen, .. } | Action::Append { seen, .. } => seen.iter_mut().for_each(spell),
        }
    }
}

pub(crate) fn action(operation: &Operation, answered: bool) -> Result<Option<Action>, CheckError> {
    let input = &operation.input;
    let action = match &operation.f {
        Function::Read => answered.then(|| Action::Read(operation.output.clone())),
        // A conditional write that did not apply: which condition it failed is not in the history.
        Function::Write | Function::Delete if operation.applied == Some(false) => None,
        Function::Write => Some(Action::Write(input.clone())),
        Function::Delete => Some(Action::Write(Value::Null)),
        Function::Cas => match input.as_list() {
            Some([old, _]) if answered && operation.applied == Some(false) => Some(Action::NotEqual(old.clone())),
            Some([old, new]) => Some(Action::Cas { old: old.clone(), new: new.clone() }),
            _ => return Err(refused(operation, "its value must be [old, new]")),
        },
        Function::Add => {
            let by = integer(input).ok_or_else(|| refused(operation, "its value must be a whole number"))?;
            Some(Action::Add { by, seen: seen(operation, answered) })
        }
        Function::Append => {
            let text = match input {
                Value::Text(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                _ => return Err(refused(operation, "its value must be a string")),
            };
            Some(Action::Append { text, seen: seen(operation, answered) })
        }
        Function::Other(_) => return Err(refused(operation, "model register does not know it")),
    };
    Ok(action)
}

/// The error for an operation that the model has no meaning for.
pub(crate) fn refused(operation: &Operation, why: &str) -> CheckError {
    CheckError::Operation { line: operation.invoked_at, f: operation.f.to_string(), why: why.to_owned() }
}

/// The new value in the answer of an add or append. An answer that repeats the argument may be Jepsen's habit of
/// repeating it, so that only one that differs counts as an observation.
fn seen(operation: &Operation, answered: bool) -> Option<Value> {
    let told = answered && !operation.output.is_null() && operation.output != operation.input;
    told.then(|| operation.output.clone())
}

/// A whole number, also when it is spelt out in a string, as a store of bytes answers it.
pub(crate) fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Integer(number) => Some(*number),
        // Only the one usual spelling: "05" is a text.
        Value::Text(text) => text.parse().ok().filter(|number: &i128| number.to_string() == *text),
        _ => None,
    }
}
