//! Every span, attribute and metric name of the fleet, once.
//!
//! `observability/conventions.md` lists them for people who query; a test holds the two against each other. Names of
//! the OpenTelemetry semantic conventions are used where they fit, ours begin with `everring.` or `chaos.`. No name
//! holds a key or an id of a request: those are attributes, and keys appear only by their keyed hash.

use std::fmt;

/// One name with what `conventions.md` says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Which table it stands in.
    pub sort: Sort,
    /// The name, or for spans its template.
    pub value: &'static str,
    /// A span's kind, an attribute's type, or a metric's type and unit.
    pub form: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// What a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// A span.
    Span,
    /// An attribute of spans, or of the resource.
    Attribute,
    /// A metric, without the suffixes that OpenMetrics adds.
    Metric,
}

/// Declares the constants and, from the same lines, [`ALL`].
macro_rules! names {
    ($($sort:ident { $(#[doc = $meaning:literal] $constant:ident = $value:literal, $form:literal;)* })*) => {
        $($(#[doc = $meaning] pub const $constant: &str = $value;)*)*
        /// Every name.
        pub const ALL: &[Name] = &[
            $($(Name { sort: Sort::$sort, value: $value, form: $form, meaning: $meaning.trim_ascii() },)*)*
        ];
    };
}

names! {
    Span {
        /// One HTTP request, at its server or at its client.
        HTTP = "{http.request.method} {http.route}", "SERVER, CLIENT";
        /// One attempt of a gateway at a storage node.
        DB = "{db.operation.name} {db.collection.name}", "CLIENT";
        /// A storage node coordinates one operation.
        COORDINATE = "coordinate {db.operation.name}", "SERVER";
        /// A ballot is promised, at the coordinator or at the replica.
        PREPARE = "prepare", "CLIENT, SERVER";
        /// A value is accepted, at the coordinator or at the replica.
        ACCEPT = "accept", "CLIENT, SERVER";
        /// What a replica has accepted is asked for.
        QUERY = "query", "CLIENT, SERVER";
        /// The state of an available key is sent to another home, and is on its disk.
        STORE = "store", "CLIENT, SERVER";
        /// The owner of a key is looked for; each hop is a child.
        LOOKUP = "lookup {everring.lookup.strategy}", "INTERNAL";
        /// One hop of a lookup.
        LOOKUP_HOP = "lookup hop", "CLIENT, SERVER";
        /// One fault, from the injection until it has healed.
        CHAOS_FAULT = "chaos {chaos.fault.kind}", "INTERNAL";
    }
    Attribute {
        /// The role of the process, such as everring-gateway.
        SERVICE_NAME = "service.name", "string, resource";
        /// The process: its name with its incarnation or process id.
        SERVICE_INSTANCE_ID = "service.instance.id", "string, resource";
        /// The version of the program.
        SERVICE_VERSION = "service.version", "string, resource";
        /// Always everring.
        SERVICE_NAMESPACE = "service.namespace", "string, resource";
        /// The method.
        HTTP_REQUEST_METHOD = "http.request.method", "string";
        /// The route's template, never the path itself.
        HTTP_ROUTE = "http.route", "string";
        /// The status answered.
        HTTP_RESPONSE_STATUS_CODE = "http.response.status_code", "int";
        /// How often the request was sent before; absent at the first attempt.
        HTTP_REQUEST_RESEND_COUNT = "http.request.resend_count", "int";
        /// The path asked for, of services whose paths hold no keys.
        URL_PATH = "url.path", "string";
        /// http or https.
        URL_SCHEME = "url.scheme", "string";
        /// The host called.
        SERVER_ADDRESS = "server.address", "string";
        /// The port called.
        SERVER_PORT = "server.port", "int";
        /// The host that called.
        CLIENT_ADDRESS = "client.address", "string";
        /// Why it failed, one low-cardinality word: a problem's code, reset, deadline.
        ERROR_TYPE = "error.type", "string";
        /// Always everring.
        DB_SYSTEM_NAME = "db.system.name", "string";
        /// The bucket.
        DB_COLLECTION_NAME = "db.collection.name", "string";
        /// GET, PUT, DELETE and so on.
        DB_OPERATION_NAME = "db.operation.name", "string";
        /// The outcome at the storage node, a word.
        DB_RESPONSE_STATUS_CODE = "db.response.status_code", "string";
        /// Which attempt of the operation this is, from 1.
        ATTEMPT = "everring.attempt", "int";
        /// Whether the attempt was sent because an earlier one was silent.
        HEDGE = "everring.hedge", "bool";
        /// Which hop from the gateway this is, from 1.
        HOP = "everring.hop", "int";
        /// The view's epoch under which it was done.
        EPOCH = "everring.epoch", "int";
        /// The key's position on the ring: 16 hex digits, a keyed hash.
        KEY_ID = "everring.key.id", "string";
        /// The node asked (client spans) or the node itself (server spans).
        REPLICA = "everring.replica", "string";
        /// The consistency level asked for.
        LEVEL = "everring.level", "string";
        /// done, not-done or unknown.
        OUTCOME = "everring.outcome", "string";
        /// The ballot of the round.
        BALLOT = "everring.ballot", "string";
        /// The version that was written or read.
        VERSION = "everring.version", "string";
        /// The request id, 32 hex digits; the same for all its attempts.
        REQUEST_ID = "everring.request.id", "string";
        /// The nodes that voted, with commas.
        REPLICAS = "everring.replicas", "string";
        /// The verifier's process number, as in the history.
        PROCESS = "everring.process", "int";
        /// index, table, neighbours or fingers.
        LOOKUP_STRATEGY = "everring.lookup.strategy", "string";
        /// How many hops the lookup took.
        LOOKUP_HOPS = "everring.lookup.hops", "int";
        /// The pod's UID: names return, this does not.
        K8S_POD_UID = "k8s.pod.uid", "string, resource";
        /// The pod's name.
        K8S_POD_NAME = "k8s.pod.name", "string, resource";
        /// The pod's namespace.
        K8S_NAMESPACE_NAME = "k8s.namespace.name", "string, resource";
        /// The chaos run.
        CHAOS_RUN_ID = "chaos.run.id", "string";
        /// The seed that replays the run.
        CHAOS_SEED = "chaos.seed", "int";
        /// The fault's number in the run, from 1. On a request: it ended while that fault was in force.
        CHAOS_FAULT_ID = "chaos.fault.id", "int";
        /// kill, pause and so on.
        CHAOS_FAULT_KIND = "chaos.fault.kind", "string";
        /// The victim's name, such as n3.
        CHAOS_VICTIM_NAME = "chaos.victim.name", "string";
        /// The victim's service.name.
        CHAOS_VICTIM_SERVICE = "chaos.victim.service", "string";
        /// The victim's service.instance.id: names return, this does not.
        CHAOS_VICTIM_INSTANCE_ID = "chaos.victim.instance_id", "string";
        /// Whether the fault was only decided and not done.
        CHAOS_DRY_RUN = "chaos.dry_run", "bool";
    }
    Metric {
        /// HTTP requests answered, by method, route and status class.
        HTTP_SERVER_REQUEST_DURATION = "http_server_request_duration", "histogram, seconds";
        /// Registers that a storage node holds, deletions included.
        NODE_REGISTERS = "everring_node_registers", "gauge, registers";
        /// Deletions that a storage node holds until all replicas agree that they can go.
        NODE_TOMBSTONES = "everring_node_tombstones", "gauge, registers";
        /// Deletions that a storage node has dropped for good since it started.
        NODE_TOMBSTONES_DROPPED = "everring_node_tombstones_dropped", "gauge, registers";
        /// Bytes of the current records of a storage node.
        NODE_LIVE_BYTES = "everring_node_live_bytes", "gauge, bytes";
        /// How long a storage node's log took to become durable, once for each group of records.
        NODE_LOG_SYNC = "everring_node_log_sync", "histogram, seconds";
        /// How long a storage node's loop did one thing, and nothing else meanwhile.
        NODE_STEP = "everring_node_step", "histogram, seconds";
        /// Bytes that the log of a storage node takes on the disk.
        NODE_LOG_BYTES = "everring_node_log_bytes", "gauge, bytes";
        /// Registers in which a storage node is known to lag.
        NODE_LAGGING = "everring_node_lagging_registers", "gauge, registers";
        /// Registers in which a storage node lagged and that it has read again since its start.
        NODE_CAUGHT_UP = "everring_node_caught_up_registers", "gauge, registers";
        /// Operations that wait at a storage node.
        NODE_WAITING = "everring_node_waiting_operations", "gauge, operations";
        /// Whether the disk of a storage node takes no more writes.
        NODE_DISK_FULL = "everring_node_disk_full", "gauge, 0 or 1";
        /// Arcs that a storage node is still to copy, to become a replica of them.
        NODE_COPY_ARCS = "everring_node_copy_arcs", "gauge, arcs";
        /// Registers that a storage node has copied since its start.
        NODE_COPIED_REGISTERS = "everring_node_copied_registers", "gauge, registers";
        /// Bytes of registers that a storage node has copied since its start.
        NODE_COPIED_BYTES = "everring_node_copied_bytes", "gauge, bytes";
        /// Arcs of which a storage node is still to copy the available keys, on disk and in memory, to become a home.
        NODE_AVAILABLE_COPY_ARCS = "everring_node_available_copy_arcs", "gauge, arcs";
        /// Available keys that came in at a storage node since its start, of arcs that it was copying.
        NODE_AVAILABLE_COPIED_KEYS = "everring_node_available_copied_keys", "gauge, keys";
        /// Bytes of the available keys that a storage node has copied since its start.
        NODE_AVAILABLE_COPIED_BYTES = "everring_node_available_copied_bytes", "gauge, bytes";
        /// Bytes of its log that a storage node has read again and verified since its start.
        NODE_SCRUBBED_BYTES = "everring_node_scrubbed_bytes", "gauge, bytes";
        /// Times at which a storage node had read all of its log again since its start.
        NODE_SCRUB_PASSES = "everring_node_scrub_passes", "gauge, passes";
        /// Places where a storage node found its log damaged since its start, that start included.
        NODE_DAMAGE_FOUND = "everring_node_damage_found", "gauge, places";
        /// Segments of a storage node's log that are damaged and not yet given up.
        NODE_DAMAGED_SEGMENTS = "everring_node_damaged_segments", "gauge, segments";
        /// Keys of available buckets that a storage node holds on disk, tombstones included.
        NODE_AVAILABLE_KEYS = "everring_node_available_keys", "gauge, keys";
        /// Keys of available buckets that a storage node holds in memory only, tombstones included.
        NODE_MEMORY_KEYS = "everring_node_memory_keys", "gauge, keys";
        /// Whether a storage node has all of the available keys that it ever said it has, and is counted.
        NODE_AVAILABLE_WHOLE = "everring_node_available_whole", "gauge, 0 or 1";
        /// Writes that a storage node keeps for others.
        NODE_HINTS = "everring_node_hints", "gauge, writes";
        /// Whether a storage node holds all that it should.
        NODE_READY = "everring_node_ready", "gauge, 0 or 1";
        /// Whether two looks in a row found an invariant of the ring broken.
        RING_INVARIANT_BROKEN = "everring_ring_invariant_broken", "gauge, 0 or 1";
        /// Looks at the ring since the router started.
        RING_LOOKS = "everring_ring_looks", "gauge, looks";
        /// Tokens that were members of the ring at the last look.
        RING_MEMBERS = "everring_ring_members", "gauge, tokens";
        /// The share of successor pointers to members that are not there.
        RING_STALE_SUCCESSORS = "everring_ring_stale_successors", "gauge, 0 to 1";
        /// The share of fingers that are not right.
        RING_STALE_FINGERS = "everring_ring_stale_fingers", "gauge, 0 to 1";
        /// Faults injected, by kind.
        CHAOS_FAULTS = "everring_chaos_faults", "counter, faults";
        /// Chaos runs that have ended, by verdict.
        CHAOS_RUNS = "everring_chaos_runs", "counter, runs";
        /// Requests of the verifier in ended runs, by outcome.
        CHAOS_REQUESTS = "everring_chaos_requests", "counter, requests";
        /// Acknowledged writes that were found missing.
        CHAOS_LOST_WRITES = "everring_chaos_lost_writes", "counter, writes";
        /// When the last run ended, in seconds since 1970.
        CHAOS_LAST_VERDICT = "everring_chaos_last_verdict_time", "gauge, seconds";
        /// Whether this monkey may act: it holds the lease.
        CHAOS_ACTING = "everring_chaos_acting", "gauge, 0 or 1";
        /// Spans that the collector took.
        TRACE_SPANS_EXPORTED = "everring_trace_spans_exported", "counter, spans";
        /// Spans dropped because the export queue was full.
        TRACE_SPANS_DROPPED = "everring_trace_spans_dropped", "counter, spans";
        /// Spans given up because no collector took them.
        TRACE_SPANS_FAILED = "everring_trace_spans_failed", "counter, spans";
        /// Spans that the in-memory trace sink holds.
        SINK_SPANS_HELD = "everring_sink_spans_held", "gauge, spans";
        /// Memory that those spans take, as accounted.
        SINK_BYTES_HELD = "everring_sink_bytes_held", "gauge, bytes";
        /// Spans that the sink has taken in.
        SINK_SPANS_RECEIVED = "everring_sink_spans_received", "counter, spans";
        /// Spans evicted by number or age.
        SINK_SPANS_EVICTED = "everring_sink_spans_evicted", "counter, spans";
        /// Traces evicted by number or age.
        SINK_TRACES_EVICTED = "everring_sink_traces_evicted", "counter, traces";
        /// Spans that came without a valid id, or beyond a bound.
        SINK_SPANS_REFUSED = "everring_sink_spans_refused", "counter, spans";
    }
}

/// The name of an HTTP span: [`HTTP`] filled in.
pub fn http_span(method: impl fmt::Display, route: impl fmt::Display) -> String {
    format!("{method} {route}")
}

/// The name of an attempt at a storage node: [`DB`] filled in.
pub fn db_span(operation: impl fmt::Display, bucket: impl fmt::Display) -> String {
    format!("{operation} {bucket}")
}

/// The name of a coordination: [`COORDINATE`] filled in.
pub fn coordinate_span(operation: impl fmt::Display) -> String {
    format!("coordinate {operation}")
}

/// The name of a lookup: [`LOOKUP`] filled in.
pub fn lookup_span(strategy: impl fmt::Display) -> String {
    format!("lookup {strategy}")
}

/// The name of a fault: [`CHAOS_FAULT`] filled in.
pub fn chaos_span(kind: impl fmt::Display) -> String {
    format!("chaos {kind}")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const CONVENTIONS: &str = include_str!("../../../observability/conventions.md");

    /// The rows of `conventions.md`: (sort, name) with (form, meaning, where).
    fn documented() -> BTreeMap<(Sort, String), (String, String, String)> {
        let mut rows = BTreeMap::new();
        let mut sort = None;
        for line in CONVENTIONS.lines() {
            match line.strip_prefix("## ") {
                Some("Spans") => sort = Some(Sort::Span),
                Some("Attributes") => sort = Some(Sort::Attribute),
                Some("Metrics") => sort = Some(Sort::Metric),
                Some(_) => sort = None,
                None => {}
            }
            let Some(row) = line.strip_prefix("| `") else { continue };
            let Some(sort) = sort else { continue };
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "name, type, meaning, where: {line}");
            let name = cells[0].trim_end_matches('`').to_string();
            let row = (cells[1].to_string(), cells[2].to_string(), cells[3].to_string());
            assert!(!row.2.is_empty(), "where is {name} found?");
            assert!(rows.insert((sort, name.clone()), row).is_none(), "{name} stands there twice");
        }
        rows
    }

    #[test]
    fn the_names_are_those_of_the_conventions_both_ways() {
        let documented = documented();
        for name in ALL {
            let row = documented.get(&(name.sort, name.value.to_string()));
            let row = row.unwrap_or_else(|| panic!("{} is not in observability/conventions.md", name.value));
            assert_eq!((row.0.as_str(), row.1.as_str()), (name.form, name.meaning), "{}", name.value);
        }
        let declared: BTreeSet<_> = ALL.iter().map(|name| (name.sort, name.value.to_string())).collect();
        assert_eq!(declared.len(), ALL.len(), "a name is declared twice");
        for name in documented.keys() {
            assert!(declared.contains(name), "{name:?} of observability/conventions.md is no constant");
        }
    }

    #[test]
    fn a_filled_in_span_name_fits_its_template() {
        let fits = |name: String, template: &str| {
            let words = |text: &str| text.split(' ').count();
            let fixed = template.split(' ').zip(name.split(' ')).all(|(t, n)| t.starts_with('{') || t == n);
            assert!(fixed && words(&name) == words(template), "{name:?} is not {template:?}");
        };
        fits(http_span("PUT", "/v1/kv/{bucket}/{key}"), HTTP);
        fits(db_span("PUT", "records"), DB);
        fits(coordinate_span("PUT"), COORDINATE);
        fits(lookup_span("fingers"), LOOKUP);
        fits(chaos_span("kill"), CHAOS_FAULT);
    }
}
