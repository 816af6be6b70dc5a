//! The levels below strict, put together: what is judged by which rules, in which windows, and how it is told.

use history::{Operation, Outcome, Value};

use crate::causal::{self, Broken, Guarantee};
use crate::check::CheckError;
use crate::claims::Claims;
use crate::eventual::{self, Converged};
use crate::explain::VIOLATIONS_EXPLAINED_MAX;
use crate::growing;
use crate::options::{Budget, Level, Model, Options};
use crate::register::refused;
use crate::report::{OffendingOperation, Report, Violation};
use crate::sequential::{self, Found, WINDOW_OPERATIONS};

/// How a window ended.
pub(crate) enum Window {
    Decided(Vec<Violation>),
    Undecided,
}

/// Judges operations that are all in memory; they come by key.
pub(crate) fn judge(
    operations: &[&Operation],
    settled: Option<u64>,
    options: &Options,
    budget: &mut Budget<'_>,
    report: &mut Report,
) -> Result<(), CheckError> {
    if options.model == Model::Lock {
        let refusal = |operation: &&Operation| refused(operation, "model lock is judged at level strict");
        return operations.first().map(refusal).map_or(Ok(()), Err);
    }
    let claims = read(operations, options)?;
    report.left_out += claims.left_out;
    if options.level == Level::Eventual {
        let broken = match eventual::judge(&claims, options.model, settled)? {
            Converged::NothingToJudge => {
                report.undecided.extend(claims.keys.iter().copied().cloned());
                return Ok(());
            }
            Converged::Judged(broken) => broken,
        };
        report.decided = report.keys;
        report.violations.extend(told(&claims, broken));
        return Ok(());
    }
    // Sums and sets cannot be told from a part of their history.
    let (windows, half) = match options.model {
        Model::Register => windows_of(claims.claims.len()),
        _ => (1, 0),
    };
    report.windows = windows;
    for number in 0..windows as usize {
        let (start, end) = (number * half, (number + 2) * half);
        let window = if windows == 1 { claims.clone() } else { claims.restrict(|i| (start..end).contains(&i)) };
        if !take(judge_window(&window, options, budget)?, &claims.keys, report) {
            return Ok(());
        }
    }
    report.decided = report.keys;
    Ok(())
}

/// How many windows, and how many operations make half of one.
fn windows_of(operations: usize) -> (u64, usize) {
    let half = WINDOW_OPERATIONS / 2;
    if operations <= WINDOW_OPERATIONS { (1, half) } else { (operations.div_ceil(half) as u64 - 1, half) }
}

/// Puts a window's result into the report; false once it is enough.
pub(crate) fn take(window: Window, keys: &[&Value], report: &mut Report) -> bool {
    match window {
        Window::Undecided => {
            report.undecided.extend(keys.iter().copied().cloned());
            false
        }
        Window::Decided(violations) => {
            for violation in violations {
                // Windows overlap.
                if !report.violations.contains(&violation) {
                    report.violations.push(violation);
                }
            }
            report.violations.len() < VIOLATIONS_EXPLAINED_MAX
        }
    }
}

/// The claims of a model.
pub(crate) fn read<'a>(operations: &[&'a Operation], options: &Options) -> Result<Claims<'a>, CheckError> {
    match options.model {
        Model::Register => Claims::of(operations),
        _ => Ok(Claims::sessions(operations)),
    }
}

pub(crate) fn judge_window(
    claims: &Claims<'_>,
    options: &Options,
    budget: &mut Budget<'_>,
) -> Result<Window, CheckError> {
    if budget.is_over() {
        return Ok(Window::Undecided);
    }
    let broken = match (options.model, options.level) {
        (Model::Set, level) => growing::set(claims, level)?,
        (Model::Counter, _) => growing::counter(claims)?,
        (_, Level::Sequential) => return Ok(judge_sequential(claims, budget)),
        _ => causal::broken(claims),
    };
    for _ in 0..claims.claims.len() {
        budget.spend();
    }
    Ok(Window::Decided(told(claims, broken)))
}

fn judge_sequential(claims: &Claims<'_>, budget: &mut Budget<'_>) -> Window {
    match sequential::decide(claims, budget) {
        Found::Valid => Window::Decided(Vec::new()),
        Found::Undecided => Window::Undecided,
        Found::Violated => {
            let least = sequential::smallest(claims);
            let all: Vec<u32> = (0..least.claims.len() as u32).collect();
            let what = "no order of these operations, each session's in its own, explains their answers";
            let broken = Broken { guarantee: Guarantee::Causality, what, claims: all };
            Window::Decided(told(&least, vec![broken]))
        }
    }
}

/// Puts contradictions into words and evidence.
fn told(claims: &Claims<'_>, broken: Vec<Broken>) -> Vec<Violation> {
    broken.into_iter().take(VIOLATIONS_EXPLAINED_MAX).map(|broken| tell(claims, &broken)).collect()
}

fn tell(claims: &Claims<'_>, broken: &Broken) -> Violation {
    let operation = |claim: &u32| claims.claims[*claim as usize].operation;
    let first = operation(&broken.claims[0]);
    let line = broken.claims.iter().filter_map(|claim| operation(claim).completed_at).max().unwrap_or(first.invoked_at);
    let who = format!("the {} of key {} by process {}", first.f, first.key, first.process);
    let found = if first.outcome == Outcome::Ok { format!(" found {}", first.output) } else { String::new() };
    let sentence = match broken.guarantee {
        Guarantee::Causality => format!("{}: see {who}{found}", broken.what),
        guarantee => format!("{guarantee} is broken: {who}{found}, {}", broken.what),
    };
    let mut evidence: Vec<&Operation> = broken.claims.iter().map(operation).collect();
    evidence.sort_by_key(|operation| operation.invoked_at);
    evidence.dedup_by_key(|operation| operation.invoked_at);
    let named = evidence.into_iter().map(|operation| OffendingOperation::new(operation, true)).collect();
    Violation::new(first.key.clone(), sentence, line, named)
}

/// A session guarantee that a history breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuaranteeBroken {
    /// Which one.
    pub guarantee: Guarantee,
    /// The observation and what shows that it cannot be.
    pub violation: Violation,
}

/// Which session guarantees the registers of a history break: each observation of a value that had been replaced, by
/// what lies between. An empty answer says that sessions read their writes, read and write monotonically, that writes
/// follow reads, and that nothing else of causality is broken either.
///
/// # Errors An operation has no meaning in model register.
pub fn session_guarantees(operations: &[Operation]) -> Result<Vec<GuaranteeBroken>, CheckError> {
    let all: Vec<&Operation> = operations.iter().collect();
    let claims = Claims::of(&all)?;
    let broken = causal::broken(&claims);
    Ok(broken
        .iter()
        .map(|broken| GuaranteeBroken { guarantee: broken.guarantee, violation: tell(&claims, broken) })
        .collect())
}
