//! Model `counter`: every read lies between what surely was and what may have been added before it.
//!
//! This is a bound, not a decision: two reads may each lie within their bounds and still contradict each other. Model
//! register, which knows add too, decides.

use history::{Function, Operation, Outcome, Value};

use crate::check::{CheckError, Judgement};
use crate::options::Budget;
use crate::register::{integer, refused};
use crate::report::{OffendingOperation, Violation};

pub(crate) fn judge(key: &Value, operations: &[&Operation], budget: &mut Budget<'_>) -> Result<Judgement, CheckError> {
    let [mut gains_begun, mut gains_over, mut losses_begun, mut losses_over] = [const { Vec::new() }; 4];
    for operation in operations.iter().filter(|operation| operation.outcome != Outcome::Fail) {
        match operation.f {
            Function::Read => {}
            Function::Add => {
                let by =
                    integer(&operation.input).ok_or_else(|| refused(operation, "its value must be a whole number"))?;
                let (begun, over) = match by {
                    0.. => (&mut gains_begun, &mut gains_over),
                    _ => (&mut losses_begun, &mut losses_over),
                };
                begun.push((operation.invoked_at, by));
                over.extend(operation.completed_at.map(|end| (end, by)));
            }
            _ => return Err(refused(operation, "model counter does not know it")),
        }
    }
    let [gains_begun, gains_over, losses_begun, losses_over] =
        [gains_begun, gains_over, losses_begun, losses_over].map(Sums::of);
    for read in operations.iter().filter(|read| read.f == Function::Read && read.outcome == Outcome::Ok) {
        if !budget.spend() {
            return Ok(Judgement::Undecided);
        }
        let (begin, end) = (read.invoked_at, read.completed_at.unwrap_or(u64::MAX));
        let low = gains_over.before(begin) + losses_begun.before(end);
        let high = gains_begun.before(end) + losses_over.before(begin);
        let found = if read.output.is_null() { Some(0) } else { integer(&read.output) };
        if found.is_none_or(|found| found < low || found > high) {
            let sentence = format!(
                "the read of key {key} by process {} (line {end}) found {}, outside of {low} to {high}",
                read.process, read.output
            );
            let operations = vec![OffendingOperation::new(read, true)];
            return Ok(Judgement::Violated(Violation::new(key.clone(), sentence, end, operations)));
        }
    }
    Ok(Judgement::Valid)
}

/// Changes by their positions, each with the sum up to and with it.
struct Sums(Vec<(u64, i128)>);

impl Sums {
    fn of(mut changes: Vec<(u64, i128)>) -> Sums {
        changes.sort_unstable();
        let mut sum = 0;
        for (_, change) in &mut changes {
            sum += *change;
            *change = sum;
        }
        Sums(changes)
    }

    /// The sum of the changes before `position`.
    fn before(&self, position: u64) -> i128 {
        let count = self.0.partition_point(|(at, _)| *at < position);
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}
