//! The litmus tests against gateways of a live fleet: sessions run each test's small program on fresh keys, again and
//! again, and what their reads show is counted.
//!
//! A round of which a request was not answered counts for nothing, nor does one that read several values side by side:
//! the outcome in question names one value a read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use checker::litmus::{self, Litmus, Placing, Step};
use client::gateway::{Action, Answer, GatewayClient, Reply, Request, Seen};
use futures_util::future::join_all;
use stdx::Prng;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wire::http::Level;

use crate::conduct::{self, Place};
use crate::traffic::Pace;
use crate::verifier::judged_as;

/// What to run.
#[derive(Clone, Debug)]
pub struct LitmusConfig {
    /// Gateways; the sessions of a round prefer different ones.
    pub gateways: Vec<String>,
    /// How long to ask.
    pub duration: Duration,
    /// Rounds at a time.
    pub lanes: usize,
    /// Rounds begun in a second, in all lanes together; 0 for the next one as soon as one has ended, which takes all
    /// that a fleet can give.
    pub rate: u32,
    /// Names the run: its keys and its pauses.
    pub seed: u64,
    /// How long a session waits for an answer.
    pub deadline: Duration,
}

/// What the requests of a round ask for, and in which buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// All are at this level, in the bucket that keeps it.
    Level(Level),
    /// Some variables are kept in an ordered bucket and read at level sequential, the others in an available one at
    /// level causal; each session has one token for both.
    Across(Placing),
}

impl Column {
    /// All.
    pub const ALL: [Column; 6] = [
        Column::Level(Level::Strict),
        Column::Level(Level::Sequential),
        Column::Level(Level::Causal),
        Column::Level(Level::Eventual),
        Column::Across(Placing::EvenOrdered),
        Column::Across(Placing::OddOrdered),
    ];

    /// The level's name, or which variables are where.
    pub fn name(self) -> &'static str {
        match self {
            Column::Level(level) => level.name(),
            Column::Across(placing) => placing.name(),
        }
    }

    /// What it promises.
    fn promises(self) -> checker::Level {
        match self {
            Column::Level(level) => judged_as(level),
            Column::Across(_) => checker::Level::Causal,
        }
    }

    /// The tests that are played so.
    fn tests(self) -> &'static [Litmus] {
        match self {
            Column::Level(_) => litmus::ALL,
            Column::Across(_) => litmus::ACROSS,
        }
    }

    /// The bucket of a variable, and the level that a request on it names.
    fn asks(self, variable: u8, is_read: bool) -> (&'static str, Option<Level>) {
        let level = match self {
            Column::Level(level) => level,
            Column::Across(placing) if placing.is_ordered(variable) => Level::Sequential,
            Column::Across(_) => Level::Causal,
        };
        let bucket = Place::of(level, None).bucket;
        // A write of an ordered bucket has no level to name.
        (bucket, (is_read || bucket == conduct::AVAILABLE).then_some(level))
    }
}

/// What one test has shown in one column.
#[derive(Clone, Debug)]
pub struct LitmusRow {
    /// What its requests ask for, and where.
    pub column: Column,
    /// The test.
    pub test: &'static Litmus,
    /// Rounds of which every request was answered by one value or none.
    pub rounds: u64,
    /// Of these, how many showed the outcome in question.
    pub outcomes: u64,
    /// Rounds that do not count.
    pub unclear: u64,
    /// The first round that showed the outcome: its keys' common part and the traces of its reads.
    pub first: Option<(String, Vec<String>)>,
}

impl LitmusRow {
    fn new(column: Column, test: &'static Litmus) -> LitmusRow {
        LitmusRow { column, test, rounds: 0, outcomes: 0, unclear: 0, first: None }
    }

    /// Whether the outcome is forbidden.
    pub fn is_forbidden(&self) -> bool {
        !self.test.allowed_at(self.column.promises())
    }

    /// Whether a promise was broken.
    pub fn is_broken(&self) -> bool {
        self.is_forbidden() && self.outcomes > 0
    }
}

/// The longest pause of a session before each of its requests: without pauses, sessions that begin together rarely
/// meet.
const PAUSE_MAX: Duration = Duration::from_millis(3);

/// What a round has come to.
enum Shown {
    /// All its reads, in the order of the sessions, and their traces.
    Whole { values: Vec<u8>, traces: Vec<String> },
    /// Something was not answered, or not by one value.
    Unclear,
}

/// Runs every test at every level, and those across buckets, in turn until the time is over.
///
/// # Errors
/// No gateway is given.
pub async fn run(config: &LitmusConfig) -> Result<Vec<LitmusRow>, client::gateway::AskError> {
    let client = GatewayClient::new(&config.gateways)?;
    let rows: Vec<LitmusRow> = Column::ALL
        .into_iter()
        .flat_map(|column| column.tests().iter().map(move |test| LitmusRow::new(column, test)))
        .collect();
    let cases: Arc<Vec<(Column, &'static Litmus)>> = Arc::new(rows.iter().map(|row| (row.column, row.test)).collect());
    let rows = Arc::new(Mutex::new(rows));
    let end = Instant::now() + config.duration;
    let lanes = (0..config.lanes.max(1)).map(|lane| {
        let (client, rows, cases, config) = (client.clone(), Arc::clone(&rows), Arc::clone(&cases), config.clone());
        tokio::spawn(async move {
            let mut prng = Prng::from_seed(config.seed.wrapping_add(lane as u64));
            // Lanes begin at different tests, so that a short run tries all of them.
            let mut at = lane * cases.len() / config.lanes.max(1);
            let mut round = 0_u64;
            let mut pace = Pace::shared(config.rate, config.lanes, lane);
            loop {
                pace.next().await;
                if Instant::now() >= end {
                    return;
                }
                let keys = format!("litmus/{:x}/{lane}/{round}", config.seed);
                let shown = play(&client, &config, cases[at % cases.len()], &keys, &mut prng).await;
                note(&mut rows.lock().await[at % cases.len()], shown, keys);
                at += 1;
                round += 1;
            }
        })
    });
    for ended in join_all(lanes).await {
        // A lane that broke an assertion must not pass for one that saw nothing.
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let rows = rows.lock().await.clone();
    Ok(rows)
}

fn note(row: &mut LitmusRow, shown: Shown, keys: String) {
    match shown {
        Shown::Unclear => row.unclear += 1,
        Shown::Whole { values, traces } => {
            row.rounds += 1;
            if values == row.test.outcome {
                row.outcomes += 1;
                row.first.get_or_insert((keys, traces));
            }
        }
    }
}

/// One round of a test.
async fn play(
    client: &GatewayClient,
    config: &LitmusConfig,
    (column, test): (Column, &'static Litmus),
    keys: &str,
    prng: &mut Prng,
) -> Shown {
    let first_gateway = prng.index(config.gateways.len());
    let sessions: Vec<_> = test
        .sessions
        .iter()
        .enumerate()
        .map(|(at, steps)| Session {
            client: client.preferring((first_gateway + at) % config.gateways.len()),
            steps,
            column,
            keys: keys.to_owned(),
            deadline: config.deadline,
            prng: prng.fork(),
        })
        .map(Session::run)
        .collect();
    let ended = if test.one_after_another {
        let mut ended = Vec::new();
        for session in sessions {
            ended.push(session.await);
        }
        ended
    } else {
        join_all(sessions).await
    };
    let (mut values, mut traces) = (Vec::new(), Vec::new());
    for reads in ended {
        let Some(reads) = reads else { return Shown::Unclear };
        for (value, trace) in reads {
            values.push(value);
            traces.extend(trace);
        }
    }
    Shown::Whole { values, traces }
}

struct Session {
    client: GatewayClient,
    steps: &'static [Step],
    column: Column,
    keys: String,
    deadline: Duration,
    prng: Prng,
}

impl Session {
    /// What its reads showed, each with its trace; none if a request was not answered clearly.
    async fn run(mut self) -> Option<Vec<(u8, Option<String>)>> {
        let (mut reads, mut token) = (Vec::new(), None);
        for step in self.steps {
            let pause = PAUSE_MAX.mul_f64(self.prng.unit());
            tokio::time::sleep(pause).await;
            let (variable, action) = match step {
                Step::Write(variable, value) => {
                    let value = Bytes::from(value.to_string());
                    (variable, Action::Put { value, content_type: None })
                }
                Step::Read(variable) => (variable, Action::Get),
            };
            let is_read = action == Action::Get;
            let (bucket, level) = self.column.asks(*variable, is_read);
            let mut request = Request::new(bucket, &format!("{}/{variable}", self.keys), action);
            request.level = level;
            request.token = token.take();
            request.deadline = self.deadline;
            let Reply::Ok(answer) = self.client.send(&request).await else { return None };
            if is_read {
                reads.push((value_of(&answer)?, answer.trace_id.clone()));
            }
            token = answer.token;
        }
        Some(reads)
    }
}

/// The one value that a read has shown; 0 is none.
fn value_of(answer: &Answer) -> Option<u8> {
    match answer.seen {
        Seen::Absent => Some(0),
        Seen::Found => std::str::from_utf8(&answer.body).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(column: Column, name: &str) -> LitmusRow {
        let test = column.tests().iter().find(|test| test.name == name).expect("it is one of all");
        LitmusRow::new(column, test)
    }

    #[test]
    fn an_outcome_is_counted_and_the_first_one_kept() {
        let mut row = row(Column::Level(Level::Sequential), "MP");
        let whole = |values: &[u8]| Shown::Whole { values: values.to_vec(), traces: vec!["t".to_owned()] };
        note(&mut row, whole(&[1, 1]), "a".to_owned());
        note(&mut row, Shown::Unclear, "b".to_owned());
        assert!(!row.is_broken());
        note(&mut row, whole(&[1, 0]), "c".to_owned());
        note(&mut row, whole(&[1, 0]), "d".to_owned());
        assert_eq!((row.rounds, row.outcomes, row.unclear), (3, 2, 1));
        assert_eq!(row.first.as_ref().map(|(keys, _)| keys.as_str()), Some("c"));
        assert!(row.is_broken(), "the flag was seen and the data not, at level sequential");
    }

    #[test]
    fn what_a_level_allows_breaks_nothing() {
        let mut stale = row(Column::Level(Level::Sequential), "stale");
        stale.outcomes = 5;
        assert!(!stale.is_forbidden() && !stale.is_broken());
        let mut lost = row(Column::Level(Level::Causal), "RYW");
        lost.outcomes = 1;
        assert!(lost.is_broken());
        assert!(!row(Column::Level(Level::Eventual), "RYW").is_forbidden());
    }

    #[test]
    fn across_buckets_each_variable_is_asked_where_it_is_kept() {
        let asks = |placing, variable, is_read| Column::Across(placing).asks(variable, is_read);
        for (placing, ordered, available) in [(Placing::EvenOrdered, 0, 1), (Placing::OddOrdered, 1, 0)] {
            assert_eq!(asks(placing, ordered, true), (conduct::BUCKET, Some(Level::Sequential)));
            assert_eq!(asks(placing, ordered, false), (conduct::BUCKET, None), "its writes are strict");
            assert_eq!(asks(placing, available, true), (conduct::AVAILABLE, Some(Level::Causal)));
            assert_eq!(asks(placing, available, false), (conduct::AVAILABLE, Some(Level::Causal)));
            let mut missed = row(Column::Across(placing), "MP");
            assert!(missed.is_forbidden() && !missed.is_broken());
            missed.outcomes = 1;
            assert!(missed.is_broken(), "the flag in one bucket was seen, and the data in the other not");
        }
    }
}
