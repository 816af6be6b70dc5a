//! Histories of a simulated atomic register a key: linearizable by construction, for tests and for the benchmark.
//!
//! Clients are stepped at random; every operation takes effect at one moment between its invocation and its
//! completion. Some have an unknown outcome: they take effect much later, or never, and their client goes on under a
//! new process number.

use std::collections::BTreeMap;

use history::{Event, EventKind, Function, Process, Value};
use stdx::Prng;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Operations in all.
    pub operations: u64,
    /// Clients that work side by side, 1 or more.
    pub clients: u64,
    /// Keys, each asked for alike, 1 or more.
    pub keys: u64,
    /// Of 1,000 operations, how many end with an unknown outcome.
    pub unknown_per_mille: u64,
    /// Of 1,000 operations, how many surely fail.
    pub failed_per_mille: u64,
    /// The mix of operations.
    pub mix: Mix,
}

/// How often each operation is drawn, in shares of their sum, which must not be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub reads: u64,
    /// Writes, each of a value of its own.
    pub writes: u64,
    /// Conditional writes; about half of them know the value.
    pub cas: u64,
    /// Deletes.
    pub deletes: u64,
    /// Additions of 1 to 3.
    pub adds: u64,
    /// Appends, each of a string of its own.
    pub appends: u64,
}

impl Settings {
    /// The yardstick: 100,000 operations of 20 clients on 200 keys, 1 % unknown.
    pub fn yardstick() -> Settings {
        Settings {
            operations: 100_000,
            clients: 20,
            keys: 200,
            unknown_per_mille: 10,
            failed_per_mille: 5,
            mix: Mix { reads: 50, writes: 30, cas: 15, deletes: 5, ..Mix::default() },
        }
    }
}

/// Generates the history that the settings and `prng` name.
pub fn history(settings: Settings, prng: &mut Prng) -> Vec<Event> {
    let mut events = Vec::new();
    generate(settings, prng, &mut |event| events.push(event));
    events
}

/// The same, event by event: what is kept meanwhile does not grow with the history.
pub fn generate(settings: Settings, prng: &mut Prng, sink: &mut dyn FnMut(Event)) {
    let mut world = World {
        settings,
        prng,
        sink,
        state: BTreeMap::new(),
        late: Vec::new(),
        unique: 0,
        processes: settings.clients,
    };
    let mut clients: Vec<Client> =
        (0..settings.clients).map(|process| Client { process, stage: Stage::Idle }).collect();
    let mut left = settings.operations;
    while left > 0 || clients.iter().any(|client| !matches!(client.stage, Stage::Idle)) {
        let index = world.prng.index(clients.len());
        if left == 0 && matches!(clients[index].stage, Stage::Idle) {
            continue;
        }
        left -= world.step(&mut clients[index]);
        world.late_effect();
    }
}

struct Client {
    process: u64,
    stage: Stage,
}

enum Stage {
    Idle,
    Asked(Request),
    Answered(Event),
}

#[derive(Clone)]
struct Request {
    f: Function,
    key: Value,
    value: Value,
}

struct World<'a> {
    settings: Settings,
    prng: &'a mut Prng,
    sink: &'a mut dyn FnMut(Event),
    state: BTreeMap<Value, Value>,
    /// Requests of unknown outcome that have yet to take effect.
    late: Vec<Request>,
    unique: u64,
    processes: u64,
}

impl World<'_> {
    /// Moves a client on by one stage; answers how many operations that began.
    fn step(&mut self, client: &mut Client) -> u64 {
        match std::mem::replace(&mut client.stage, Stage::Idle) {
            Stage::Idle => {
                let request = self.request();
                self.push(client.process, EventKind::Invoke, &request, request.value.clone(), None);
                client.stage = Stage::Asked(request);
                return 1;
            }
            Stage::Asked(request) => client.stage = self.ask(client, request),
            Stage::Answered(event) => (self.sink)(event),
        }
        0
    }

    fn ask(&mut self, client: &mut Client, request: Request) -> Stage {
        let draw = self.prng.below(1000);
        if draw < self.settings.unknown_per_mille {
            self.push(client.process, EventKind::Info, &request, request.value.clone(), None);
            match self.prng.below(3) {
                0 => {
                    self.apply(&request);
                }
                1 => self.late.push(request),
                _ => {}
            }
            client.process = self.processes;
            self.processes += 1;
            return Stage::Idle;
        }
        let failed = draw < self.settings.unknown_per_mille + self.settings.failed_per_mille;
        let answer = if failed { None } else { self.apply(&request) };
        let (kind, value, applied) = match answer {
            Some((value, applied)) => (EventKind::Ok, value, applied),
            None => (EventKind::Fail, request.value.clone(), None),
        };
        Stage::Answered(event(client.process, kind, &request, value, applied))
    }

    fn late_effect(&mut self) {
        if !self.late.is_empty() && self.prng.one_in(200) {
            let index = self.prng.index(self.late.len());
            let request = self.late.swap_remove(index);
            self.apply(&request);
        }
    }

    fn request(&mut self) -> Request {
        let key = Value::from(format!("records/k{}", self.prng.below(self.settings.keys)));
        let mix = self.settings.mix;
        let shares = [
            (mix.reads, Function::Read),
            (mix.writes, Function::Write),
            (mix.cas, Function::Cas),
            (mix.deletes, Function::Delete),
            (mix.adds, Function::Add),
            (mix.appends, Function::Append),
        ];
        let mut draw = self.prng.below(shares.iter().map(|(share, _)| share).sum());
        let mut f = Function::Read;
        for (share, function) in shares {
            f = function;
            if draw < share {
                break;
            }
            draw -= share;
        }
        self.unique += 1;
        let own = Value::from(format!("v{}", self.unique));
        let value = match f {
            Function::Write | Function::Append => own,
            Function::Cas => {
                let known = self.prng.one_in(2);
                let old = if known { self.state.get(&key).cloned() } else { Some(Value::from("v1")) };
                Value::List(vec![old.unwrap_or_default(), own])
            }
            Function::Add => Value::from(1 + self.prng.below(3) as i64),
            _ => Value::Null,
        };
        Request { f, key, value }
    }

    /// Lets a request take effect; its answer, unless it cannot be done.
    fn apply(&mut self, request: &Request) -> Option<(Value, Option<bool>)> {
        let state = self.state.entry(request.key.clone()).or_default();
        let mut applied = None;
        match (&request.f, &request.value) {
            (Function::Read, _) => return Some((state.clone(), None)),
            (Function::Cas, Value::List(pair)) => {
                applied = Some(*state == pair[0]);
                if applied == Some(true) {
                    state.clone_from(&pair[1]);
                }
            }
            (Function::Delete, _) => *state = Value::Null,
            (Function::Add, Value::Integer(by)) => {
                *state = match state {
                    Value::Null => Value::Integer(*by),
                    Value::Integer(number) => Value::Integer(*number + by),
                    _ => return None,
                }
            }
            (Function::Append, Value::Text(text)) => {
                *state = match state {
                    Value::Null => Value::Text(text.clone()),
                    Value::Text(before) => Value::Text(format!("{before}{text}")),
                    _ => return None,
                }
            }
            (_, value) => state.clone_from(value),
        }
        Some((request.value.clone(), applied))
    }

    fn push(&mut self, process: u64, kind: EventKind, request: &Request, value: Value, applied: Option<bool>) {
        (self.sink)(event(process, kind, request, value, applied));
    }
}

fn event(process: u64, kind: EventKind, request: &Request, value: Value, applied: Option<bool>) -> Event {
    let mut event = Event::new(Process::Client(process as i64), kind, request.f.clone(), request.key.clone(), value);
    event.applied = applied;
    if kind == EventKind::Invoke {
        event.level = Some("strict".to_owned());
    }
    event
}
