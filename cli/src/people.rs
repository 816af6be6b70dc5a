//! People's commands: one request against a gateway, its answer as a table or as JSON.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use client::gateway::{Action, Answer, AskError, Condition, Failure, GatewayClient, Reply, Request, Seen};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use wire::http::{Level, RouteAnswer};

use crate::args::{GatewaysArgs, OutputArgs};
use crate::out::{self, Form};
use crate::{EXIT_USAGE, duration};

/// The fleet refused, or there is no such value.
pub const EXIT_REFUSED: u8 = 1;
/// A write may or may not have taken effect.
pub const EXIT_UNKNOWN: u8 = 3;

/// A key, and where to ask.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The key.
    pub key: String,
    /// Its bucket.
    #[arg(long, env = "EVERRING_BUCKET", default_value = "records")]
    pub bucket: String,
    /// The consistency level. Without it: the bucket's own. Weaker ones may be asked for: of an ordered bucket for a
    /// read, of an available bucket for writes too.
    #[arg(long, env = "EVERRING_CONSISTENCY", value_enum, value_name = "LEVEL")]
    pub consistency: Option<Consistency>,
    /// The session to go on with: the token of its last answer, as `--output json` shows it. Without it: a new session.
    #[arg(long, env = "EVERRING_TOKEN", value_name = "TOKEN")]
    pub token: Option<String>,
    /// How long to wait for the answer.
    #[arg(long, env = "EVERRING_DEADLINE", default_value = "5s", value_parser = duration::parse)]
    pub deadline: Duration,
    #[command(flatten)]
    pub gateways: GatewaysArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The consistency levels, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Consistency {
    /// Linearizable.
    Strict,
    /// One total order that agrees with each session's.
    Sequential,
    /// What a session has seen stays visible to it.
    Causal,
    /// Replicas converge.
    Eventual,
}

impl Consistency {
    fn level(self) -> Level {
        match self {
            Consistency::Strict => Level::Strict,
            Consistency::Sequential => Level::Sequential,
            Consistency::Causal => Level::Causal,
            Consistency::Eventual => Level::Eventual,
        }
    }
}

/// `everring get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    #[command(flatten)]
    pub at: KeyArgs,
}

/// What a write demands, and its name.
#[derive(Debug, Args)]
pub struct ConditionArgs {
    /// Write only if the key has this version (the ETag as `get` shows it), or any version: `*`. In an available
    /// bucket: replace what that answer showed.
    #[arg(long, env = "EVERRING_IF_MATCH", value_name = "ETAG", conflicts_with = "create")]
    pub if_match: Option<String>,
    /// Write only if the key has no value.
    #[arg(long)]
    pub create: bool,
    /// The id that makes a repeat of this very write harmless. Without it one is drawn.
    #[arg(long, env = "EVERRING_REQUEST_ID", value_name = "ID")]
    pub request_id: Option<String>,
    /// Write only if no greater fencing token was seen on the key: that of the lock under which this is written.
    #[arg(long, env = "EVERRING_FENCE")]
    pub fence: Option<u64>,
}

/// `everring put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    #[command(flatten)]
    pub at: KeyArgs,
    /// The value; `-` reads it from standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// The file that holds the value.
    #[arg(long, env = "EVERRING_FILE")]
    pub file: Option<PathBuf>,
    /// Its media type.
    #[arg(long, env = "EVERRING_CONTENT_TYPE", default_value = "text/plain; charset=utf-8")]
    pub content_type: String,
    #[command(flatten)]
    pub when: ConditionArgs,
}

/// `everring del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    #[command(flatten)]
    pub at: KeyArgs,
    /// Remove this element of a set, instead of the whole.
    #[arg(long, env = "EVERRING_ELEMENT", value_name = "TEXT", conflicts_with = "field")]
    pub element: Option<String>,
    /// Remove this field of a map, instead of the whole.
    #[arg(long, env = "EVERRING_FIELD", value_name = "NAME")]
    pub field: Option<String>,
    #[command(flatten)]
    pub when: ConditionArgs,
}

/// `everring add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    #[command(flatten)]
    pub at: KeyArgs,
    /// How much; may be negative. An absent value counts as 0.
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub by: i64,
    /// Add this element to a set, instead of to a number.
    #[arg(long, env = "EVERRING_ELEMENT", value_name = "TEXT", conflicts_with_all = ["by", "field"])]
    pub element: Option<String>,
    /// Set this field of a map, to --value.
    #[arg(long, env = "EVERRING_FIELD", value_name = "NAME", conflicts_with = "by", requires = "value")]
    pub field: Option<String>,
    /// The value of --field.
    #[arg(long, env = "EVERRING_VALUE", value_name = "TEXT", requires = "field")]
    pub value: Option<String>,
    #[command(flatten)]
    pub when: ConditionArgs,
}

/// `everring route`.
#[derive(Debug, Args)]
pub struct RouteArgs {
    #[command(flatten)]
    pub at: KeyArgs,
    /// How to find it: the gateway's table of all nodes, or hop by hop over the nodes' finger tables.
    #[arg(long, env = "EVERRING_LOOKUP", value_enum, default_value_t = Lookup::Table)]
    pub lookup: Lookup,
}

/// The ways to find a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lookup {
    /// By the table of all nodes.
    Table,
    /// Over finger tables.
    Fingers,
    /// By a router's directory of keys, confirmed by the owner.
    Index,
    /// From neighbour to neighbour.
    Neighbours,
}

/// `everring get`: the value as it is on standard output; exit status 1 when there is none.
///
/// # Errors
/// No gateway can be asked.
pub fn get(args: GetArgs) -> anyhow::Result<u8> {
    let reply = send(&args.at, request(&args.at, Action::Get))?;
    let Reply::Ok(answer) = reply else { return refused(&args.at, reply) };
    match (answer.seen, args.at.output.output) {
        (Seen::Found, Form::Table) => out::bytes(&answer.body)?,
        (Seen::Siblings, Form::Table) => {
            let siblings = client::gateway::siblings(&answer.body)?;
            let rows = siblings.iter().map(|one| pair(&String::from_utf8_lossy(&one.value), &one.etag));
            out::table(&rows.collect::<Vec<_>>())?;
            let etag = answer.etag.unwrap_or_default();
            eprintln!("everring: {} values side by side; settle them with put --if-match '{etag}'", siblings.len());
        }
        (Seen::Found | Seen::Siblings, Form::Json) => out::json(&described(&args.at, &answer))?,
        _ => {
            eprintln!("everring: there is no value under `{}` in bucket `{}`", args.at.key, args.at.bucket);
            return Ok(EXIT_REFUSED);
        }
    }
    Ok(0)
}

/// `everring put`.
///
/// # Errors
/// No gateway can be asked, or the value cannot be read.
pub fn put(args: PutArgs) -> anyhow::Result<u8> {
    let value = match (&args.file, args.value) {
        (Some(file), _) => std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        (None, Some(dash)) if dash == "-" => {
            let mut value = Vec::new();
            std::io::stdin().read_to_end(&mut value).context("cannot read standard input")?;
            value
        }
        (None, value) => value.unwrap_or_default().into_bytes(),
    };
    let action = Action::Put { value: Bytes::from(value), content_type: Some(args.content_type) };
    write(&args.at, action, args.when)
}

/// `everring del`.
///
/// # Errors
/// No gateway can be asked.
pub fn del(args: DelArgs) -> anyhow::Result<u8> {
    let action = match (args.element, args.field) {
        (Some(element), _) => Action::Remove(Bytes::from(element)),
        (None, Some(field)) => Action::Unset { field },
        (None, None) => Action::Delete,
    };
    write(&args.at, action, args.when)
}

/// `everring add`.
///
/// # Errors
/// No gateway can be asked.
pub fn add(args: AddArgs) -> anyhow::Result<u8> {
    let action = match (args.element, args.field) {
        (Some(element), _) => Action::Insert(Bytes::from(element)),
        (None, Some(field)) => Action::Set { field, value: Bytes::from(args.value.unwrap_or_default()) },
        (None, None) => Action::Add(args.by),
    };
    write(&args.at, action, args.when)
}

/// `everring route`.
///
/// # Errors
/// No gateway answers, or it refuses.
pub fn route(args: RouteArgs) -> anyhow::Result<u8> {
    let client = client(&args.at.gateways)?;
    let lookup = match args.lookup {
        Lookup::Table => "table",
        Lookup::Fingers => "fingers",
        Lookup::Index => "index",
        Lookup::Neighbours => "neighbours",
    };
    let asked = block_on(async { client.route(&args.at.bucket, &args.at.key, Some(lookup)).await })?;
    let route = match asked {
        Ok(route) => route,
        Err(error) => return ask_failed(error),
    };
    match args.at.output.output {
        Form::Json => out::json(&route)?,
        Form::Table => out::table(&route_rows(&route))?,
    }
    Ok(0)
}

/// `everring explain`: put together from the route by table, the route by fingers, the ring and a strict read.
///
/// # Errors
/// No gateway answers, or it refuses.
pub fn explain(args: KeyArgs) -> anyhow::Result<u8> {
    let client = client(&args.gateways)?;
    let request = request(&args, Action::Get);
    let (table, fingers, ring, read) = block_on(async {
        let by = |lookup| client.route(&args.bucket, &args.key, Some(lookup));
        (by("table").await, by("fingers").await, client.ring().await, client.send(&request).await)
    })?;
    let (table, ring) = match (table, ring) {
        (Ok(table), Ok(ring)) => (table, ring),
        (Err(error), _) | (_, Err(error)) => return ask_failed(error),
    };
    let alive = |name: &str| ring.members.iter().any(|member| member.name == name && member.alive);
    let replicas: Vec<Value> = table.replicas.iter().map(|name| json!({"name": name, "alive": alive(name)})).collect();
    let fingers = fingers.map_err(|error| stdx::error_chain(&error));
    let present = match &read {
        Reply::Ok(answer) => described(&args, answer),
        Reply::Failed(failure) | Reply::Unknown(failure) => json!({"code": failure.code, "detail": failure.detail}),
    };
    match args.output.output {
        Form::Json => {
            let fingers = fingers.map_or_else(|why| json!({"error": why}), |route| json!(route));
            out::json(&json!({"table": table, "fingers": fingers, "replicas": replicas, "present": present}))?;
        }
        Form::Table => {
            let mut rows = route_rows(&table);
            for name in &table.replicas {
                rows.push(pair("replica", format!("{name} {}", if alive(name) { "alive" } else { "not reached" })));
            }
            rows.push(pair("by fingers", fingers.map_or_else(|why| why, |route| hops_text(&route))));
            rows.extend(present_rows(&read));
            out::table(&rows)?;
        }
    }
    Ok(0)
}

fn write(at: &KeyArgs, action: Action, when: ConditionArgs) -> anyhow::Result<u8> {
    let condition = match (when.create, when.if_match) {
        (true, _) => Condition::Absent,
        (false, Some(any)) if any == "*" => Condition::Exists,
        (false, Some(etag)) => Condition::Matches(quoted(etag)),
        (false, None) => Condition::Always,
    };
    let adds = !matches!(action, Action::Put { .. } | Action::Delete);
    let request = Request { condition, fence: when.fence, ..request(at, action) };
    let request_id = when.request_id.unwrap_or(request.request_id);
    let reply = send(at, Request { request_id, ..request })?;
    let Reply::Ok(answer) = reply else { return refused(at, reply) };
    if answer.seen == Seen::FencedOff {
        let detail = answer.problem().map_or_else(|| "a greater token was seen".to_owned(), |problem| problem.detail);
        eprintln!("everring: fenced-off: {detail}; nothing was changed: another holds the lock by now");
        return Ok(EXIT_REFUSED);
    }
    if answer.seen == Seen::ConditionFailed {
        let etag = answer.etag.as_deref().map_or("it has no value".to_owned(), |etag| format!("its version is {etag}"));
        eprintln!("everring: not written: the condition does not hold for `{}`, {etag}; read it, and decide", at.key);
        return Ok(EXIT_REFUSED);
    }
    match at.output.output {
        Form::Json => out::json(&described(at, &answer))?,
        Form::Table => {
            if adds {
                out::line(&String::from_utf8_lossy(&answer.body))?;
            }
            eprintln!("{} {}  {}", word(answer.seen), at.key, answer.etag.unwrap_or_default());
        }
    }
    Ok(0)
}

/// An ETag's quotes are easily lost in a shell.
fn quoted(etag: String) -> String {
    if etag.starts_with('"') { etag } else { format!("\"{etag}\"") }
}

fn request(at: &KeyArgs, action: Action) -> Request {
    let level = at.consistency.map(Consistency::level);
    Request { deadline: at.deadline, level, token: at.token.clone(), ..Request::new(&at.bucket, &at.key, action) }
}

fn send(at: &KeyArgs, request: Request) -> anyhow::Result<Reply> {
    let client = client(&at.gateways)?;
    block_on(async { client.send(&request).await })
}

/// A client of the gateways.
///
/// # Errors
/// None of the addresses can be used.
pub fn client(gateways: &GatewaysArgs) -> anyhow::Result<GatewayClient> {
    Ok(GatewayClient::new(&gateways.gateway)?)
}

/// Runs a command's calls.
///
/// # Errors
/// The system gives no threads.
pub fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build().context("the system gives no threads")?;
    Ok(runtime.block_on(work))
}

/// What is said when there is no answer.
fn refused(at: &KeyArgs, reply: Reply) -> anyhow::Result<u8> {
    let (failure, exit) = match reply {
        Reply::Ok(_) => return Ok(0),
        Reply::Failed(failure) if failure.code == "unreachable" => (failure, EXIT_USAGE),
        Reply::Failed(failure) => (failure, EXIT_REFUSED),
        Reply::Unknown(failure) => (failure, EXIT_UNKNOWN),
    };
    let Failure { code, detail, trace_id, .. } = &failure;
    let trace = trace_id.as_ref().map(|id| format!(" (trace {id})")).unwrap_or_default();
    let advice = match (code.as_str(), exit) {
        ("unreachable", _) => format!("no gateway at {} answers; {NO_GATEWAY}", at.gateways.gateway.join(", ")),
        (_, EXIT_UNKNOWN) => "it may have been written, or may yet be; read the key to see".to_owned(),
        ("deadline", _) => "nothing was changed; try again, or give it longer with --deadline".to_owned(),
        _ => "nothing was changed".to_owned(),
    };
    eprintln!("everring: {code}: {detail}{trace}; {advice}");
    Ok(exit)
}

const NO_GATEWAY: &str = "start a fleet with `everring up`, or name its gateway with --gateway URL or EVERRING_GATEWAY";

/// Tells why there is no answer.
///
/// # Errors
/// Nobody answers.
pub fn ask_failed(error: AskError) -> anyhow::Result<u8> {
    match error {
        AskError::Unreachable { .. } => bail!("{error}; {NO_GATEWAY}"),
        AskError::Refused { .. } => {
            eprintln!("everring: {error}");
            Ok(EXIT_REFUSED)
        }
        AskError::NotUnderstood(_) => bail!("{error}; is there an Everring gateway at this address?"),
    }
}

fn word(seen: Seen) -> &'static str {
    match seen {
        Seen::Found => "found",
        Seen::Siblings => "siblings",
        Seen::Absent => "absent",
        Seen::Created => "created",
        Seen::Replaced => "replaced",
        Seen::Deleted => "deleted",
        Seen::ConditionFailed => "condition-failed",
        Seen::FencedOff => "fenced-off",
        Seen::Granted => "granted",
        Seen::Held => "held",
    }
}

/// An answer as JSON; a body that is no text goes as base64.
fn described(at: &KeyArgs, answer: &Answer) -> Value {
    let (text, base64) = match std::str::from_utf8(&answer.body) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(BASE64.encode(&answer.body))),
    };
    json!({
        "bucket": at.bucket,
        "key": at.key,
        "outcome": word(answer.seen),
        "value": text,
        "value_base64": base64,
        "etag": answer.etag,
        "content_type": answer.content_type,
        "receipt": answer.receipt.as_ref().map(ToString::to_string),
        "token": answer.token,
        "trace_id": answer.trace_id,
        "gateway": answer.gateway,
        "attempts": answer.attempts,
    })
}

fn pair(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

fn route_rows(route: &RouteAnswer) -> Vec<Vec<String>> {
    vec![
        pair("identifier", &route.identifier),
        pair("owner", &route.owner),
        pair("replicas", route.replicas.join(" ")),
        pair("epoch", route.epoch.to_string()),
        pair("found", hops_text(route)),
    ]
}

fn hops_text(route: &RouteAnswer) -> String {
    let asked: Vec<String> =
        route.hops.iter().map(|hop| format!("{} ({:.1} ms)", hop.node, hop.us as f64 / 1e3)).collect();
    let way = if asked.is_empty() { "asked nobody".to_owned() } else { format!("asked {}", asked.join(", then ")) };
    let agrees = if route.agrees_with_view { "" } else { "; DIFFERS from the view" };
    format!("{} by {}, {way}{agrees}", route.owner, route.lookup)
}

fn present_rows(read: &Reply) -> Vec<Vec<String>> {
    match read {
        Reply::Ok(answer) => {
            let value = match answer.seen {
                Seen::Found => format!("{} bytes", answer.body.len()),
                Seen::Siblings => "several, side by side".to_owned(),
                _ => "none".to_owned(),
            };
            vec![
                pair("value", value),
                pair("version", answer.etag.clone().unwrap_or_else(|| "-".to_owned())),
                pair("receipt", answer.receipt.as_ref().map_or("-".to_owned(), ToString::to_string)),
                pair("trace", answer.trace_id.clone().unwrap_or_else(|| "-".to_owned())),
            ]
        }
        Reply::Failed(failure) | Reply::Unknown(failure) => {
            vec![pair("value", format!("could not be read: {}: {}", failure.code, failure.detail))]
        }
    }
}
