//! The spans that the sink holds: bounded by number and age, the oldest traces going first, whole.
//!
//! A pure state machine: `now_ms` is given, and nothing here knows HTTP or OTLP.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::pack::{Described, TagValue, Words};

/// How much the sink keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans in all; beyond it the oldest traces are evicted. Default 400,000, about 100 MB.
    pub spans_max: usize,
    /// Milliseconds since a trace's first span came, after which it is evicted. Default one hour.
    pub age_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { spans_max: 400_000, age_max_ms: 3_600_000 }
    }
}

/// What the sink holds and has done. Byte counts are accounted, not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Spans held now.
    pub spans: u64,
    /// Traces held now.
    pub traces: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Spans taken in so far.
    pub received: u64,
    /// Spans evicted so far.
    pub evicted_spans: u64,
    /// Traces evicted so far.
    pub evicted_traces: u64,
    /// Spans refused so far: no valid id, or more than [`SPANS_OF_A_TRACE_MAX`] in one trace.
    pub refused: u64,
}

/// A span as it arrives.
pub(crate) struct NewSpan<'a> {
    pub(crate) trace_id: u128,
    pub(crate) id: u64,
    /// 0: it is a root.
    pub(crate) parent: u64,
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) described: Described<'a>,
}

/// A search, as Jaeger's `GET /api/traces` has it. A trace is found if one of its spans fits in every respect.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    pub(crate) service: String,
    pub(crate) operation: Option<String>,
    /// Each must be a tag of the span or of its process.
    pub(crate) tags: BTreeMap<String, String>,
    /// The span's start lies between these, in microseconds since 1970.
    pub(crate) start_us: u64,
    pub(crate) end_us: u64,
    pub(crate) duration_min_us: u64,
    pub(crate) duration_max_us: Option<u64>,
    /// Traces at most, the youngest first.
    pub(crate) limit: usize,
}

#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    words: Words,
    processes: Processes,
    traces: HashMap<u128, Trace>,
    /// Traces by the arrival of their first span.
    order: VecDeque<Arrival>,
    packed_bytes: usize,
    counts: SinkCounts,
}

#[derive(Debug)]
struct Arrival {
    trace_id: u128,
    at_ms: u64,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<StoredSpan>,
    start_min_us: u64,
    start_max_us: u64,
}

#[derive(Debug)]
struct StoredSpan {
    id: u64,
    parent: u64,
    start_us: u64,
    duration_us: u64,
    packed: Box<[u8]>,
    process: u32,
}

/// A span as it is read back.
pub(crate) struct SpanView<'a> {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) start_us: u64,
    pub(crate) duration_us: u64,
    pub(crate) process: u32,
    pub(crate) described: Described<'a>,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Store {
        Store {
            limits,
            words: Words::default(),
            processes: Processes::default(),
            traces: HashMap::new(),
            order: VecDeque::new(),
            packed_bytes: 0,
            counts: SinkCounts::default(),
        }
    }

    /// The number of a process, for [`Store::insert`]. Its name is the service's.
    pub(crate) fn process(&mut self, described: &Described<'_>) -> u32 {
        self.processes.number(self.words.pack(described))
    }

    /// Takes a span in, or refuses it. One that is already there (an export that was repeated) changes nothing.
    pub(crate) fn insert(&mut self, now_ms: u64, process: u32, span: &NewSpan<'_>) {
        if span.trace_id == 0 || span.id == 0 {
            self.counts.refused += 1;
            self.processes.forget_if_unused(process);
            return;
        }
        let trace = self.traces.entry(span.trace_id).or_insert_with(|| {
            self.order.push_back(Arrival { trace_id: span.trace_id, at_ms: now_ms });
            Trace { spans: Vec::new(), start_min_us: u64::MAX, start_max_us: 0 }
        });
        if trace.spans.iter().any(|known| known.id == span.id && known.process == process) {
            return;
        }
        if trace.spans.len() >= SPANS_OF_A_TRACE_MAX {
            self.counts.refused += 1;
            self.processes.forget_if_unused(process);
            return;
        }
        let packed = self.words.pack(&span.described);
        self.packed_bytes += packed.len() + ALLOCATION_COST;
        trace.start_min_us = trace.start_min_us.min(span.start_us);
        trace.start_max_us = trace.start_max_us.max(span.start_us);
        trace.spans.push(StoredSpan {
            id: span.id,
            parent: span.parent,
            start_us: span.start_us,
            duration_us: span.duration_us,
            packed,
            process,
        });
        self.processes.hold(process);
        self.counts.spans += 1;
        self.counts.received += 1;
        self.evict(now_ms);
    }

    /// Removes what is too old or too much.
    pub(crate) fn evict(&mut self, now_ms: u64) {
        while let Some(oldest) = self.order.front() {
            let too_old = now_ms.saturating_sub(oldest.at_ms) > self.limits.age_max_ms;
            if !too_old && self.counts.spans as usize <= self.limits.spans_max {
                return;
            }
            let trace = self.traces.remove(&oldest.trace_id).unwrap_or_default();
            self.order.pop_front();
            for span in &trace.spans {
                self.packed_bytes -= span.packed.len() + ALLOCATION_COST;
                self.processes.let_go(span.process);
            }
            self.counts.spans -= trace.spans.len() as u64;
            self.counts.evicted_spans += trace.spans.len() as u64;
            self.counts.evicted_traces += 1;
        }
    }

    /// The names of the services that spans are held of.
    pub(crate) fn services(&self) -> BTreeSet<&str> {
        self.processes.held().map(|process| self.words.name(process)).collect()
    }

    /// A process's service and tags.
    pub(crate) fn process_of(&self, number: u32) -> Described<'_> {
        self.words.unpack(self.processes.packed(number))
    }

    /// The spans of a trace, by their start; none when it is not held.
    pub(crate) fn trace(&self, trace_id: u128) -> Vec<SpanView<'_>> {
        let spans = self.traces.get(&trace_id).map_or(&[][..], |trace| &trace.spans);
        let mut spans: Vec<_> = spans
            .iter()
            .map(|span| SpanView {
                id: span.id,
                parent: span.parent,
                start_us: span.start_us,
                duration_us: span.duration_us,
                process: span.process,
                described: self.words.unpack(&span.packed),
            })
            .collect();
        spans.sort_by_key(|span| (span.start_us, span.id));
        spans
    }

    /// The ids of the traces that fit, the youngest first.
    pub(crate) fn search(&self, search: &Search) -> Vec<u128> {
        // What a process itself answers of the search is asked once a process, not once a span.
        let processes: HashMap<u32, Vec<(&str, &str)>> = self
            .processes
            .numbers()
            .filter(|number| self.words.name(self.processes.packed(*number)) == search.service)
            .map(|number| (number, self.open_tags(number, search)))
            .collect();
        let mut found: Vec<(u64, u128)> = self
            .traces
            .iter()
            .filter(|(_, trace)| trace.start_min_us <= search.end_us && trace.start_max_us >= search.start_us)
            .filter(|(_, trace)| {
                trace
                    .spans
                    .iter()
                    .any(|span| processes.get(&span.process).is_some_and(|open| self.span_fits(span, open, search)))
            })
            .map(|(trace_id, trace)| (trace.start_min_us, *trace_id))
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.truncate(search.limit);
        found.into_iter().map(|(_, trace_id)| trace_id).collect()
    }

    /// The tags of a search that the process does not already have.
    fn open_tags<'a>(&self, process: u32, search: &'a Search) -> Vec<(&'a str, &'a str)> {
        let packed = self.processes.packed(process);
        let tags = search.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        tags.filter(|(key, value)| !has_tag(self.words.tags(packed), key, value)).collect()
    }

    fn span_fits(&self, span: &StoredSpan, open: &[(&str, &str)], search: &Search) -> bool {
        if span.start_us < search.start_us || span.start_us > search.end_us {
            return false;
        }
        let longest = search.duration_max_us.unwrap_or(u64::MAX);
        if span.duration_us < search.duration_min_us || span.duration_us > longest {
            return false;
        }
        if search.operation.as_ref().is_some_and(|operation| self.words.name(&span.packed) != operation) {
            return false;
        }
        open.iter().all(|(key, wanted)| has_tag(self.words.tags(&span.packed), key, wanted))
    }

    pub(crate) fn counts(&self) -> SinkCounts {
        let slots: usize = self.traces.values().map(|trace| trace.spans.capacity()).sum();
        let traces = self.traces.capacity() * (size_of::<(u128, Trace)>() + 1);
        let order = self.order.capacity() * size_of::<Arrival>();
        let bytes = slots * size_of::<StoredSpan>() + traces + order + self.packed_bytes + self.words.bytes;
        SinkCounts { traces: self.traces.len() as u64, bytes: bytes as u64, ..self.counts }
    }
}

fn has_tag<'a>(mut tags: impl Iterator<Item = (&'a str, TagValue<'a>)>, key: &str, wanted: &str) -> bool {
    tags.any(|(name, value)| name == key && value.is(wanted))
}

/// The processes that spans came from, each kept once and only while spans of it are held.
#[derive(Debug, Default)]
struct Processes {
    slots: Vec<Process>,
    numbers: HashMap<Box<[u8]>, u32>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Process {
    packed: Box<[u8]>,
    spans: u64,
}

impl Processes {
    fn number(&mut self, packed: Box<[u8]>) -> u32 {
        if let Some(number) = self.numbers.get(&packed) {
            return *number;
        }
        let process = Process { packed: packed.clone(), spans: 0 };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = process;
                number
            }
            None => {
                self.slots.push(process);
                self.slots.len() as u32 - 1
            }
        };
        self.numbers.insert(packed, number);
        number
    }

    fn hold(&mut self, number: u32) {
        self.slots[number as usize].spans += 1;
    }

    fn let_go(&mut self, number: u32) {
        self.slots[number as usize].spans -= 1;
        self.forget_if_unused(number);
    }

    fn forget_if_unused(&mut self, number: u32) {
        let process = &mut self.slots[number as usize];
        if process.spans == 0 {
            let packed = std::mem::take(&mut process.packed);
            self.numbers.remove(&packed);
            self.free.push(number);
        }
    }

    fn packed(&self, number: u32) -> &[u8] {
        self.slots.get(number as usize).map_or(&[], |process| &process.packed)
    }

    fn numbers(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().enumerate().filter(|(_, process)| process.spans > 0).map(|(number, _)| number as u32)
    }

    fn held(&self) -> impl Iterator<Item = &[u8]> {
        self.numbers().map(|number| self.packed(number))
    }
}

/// One trace is one request; a sender that makes a longer one is broken, and must not push all others out.
pub const SPANS_OF_A_TRACE_MAX: usize = 10_000;
/// What the allocator adds to a small block.
const ALLOCATION_COST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn process(store: &mut Store, service: &str, instance: &str) -> u32 {
        let tags = vec![("service.instance.id", TagValue::Text(instance))];
        store.process(&Described { name: service, tags, links: vec![] })
    }

    fn span(trace_id: u128, id: u64, tags: Vec<(&'static str, TagValue<'static>)>) -> NewSpan<'static> {
        let described = Described { name: "PUT records", tags, links: vec![] };
        NewSpan { trace_id, id, parent: 0, start_us: trace_id as u64 * 10, duration_us: 5, described }
    }

    fn anything(service: &str) -> Search {
        Search { service: service.to_string(), end_us: u64::MAX, limit: 100, ..Search::default() }
    }

    #[test]
    fn the_oldest_traces_go_first_and_whole() {
        let mut store = Store::new(Limits { spans_max: 10, age_max_ms: 1_000 });
        for trace_id in 1..=5 {
            for id in 1..=3 {
                let process = process(&mut store, "gateway", "g1-1");
                store.insert(0, process, &span(trace_id, id, vec![]));
            }
        }
        assert_eq!(store.search(&anything("gateway")), [5, 4, 3]);
        assert!(store.trace(2).is_empty(), "no half trace is left");
        let counts = store.counts();
        assert_eq!((counts.spans, counts.traces, counts.received), (9, 3, 15));
        assert_eq!((counts.evicted_spans, counts.evicted_traces), (6, 2));
    }

    #[test]
    fn the_old_go_by_age_and_take_their_processes_with_them() {
        let mut store = Store::new(Limits { spans_max: 10, age_max_ms: 1_000 });
        let old = process(&mut store, "gateway", "g1-1");
        store.insert(0, old, &span(1, 1, vec![]));
        let young = process(&mut store, "gateway", "g1-2");
        store.insert(900, young, &span(2, 1, vec![]));
        store.evict(1_001);
        assert_eq!(store.search(&anything("gateway")), [2]);
        assert_eq!(store.processes.numbers().collect::<Vec<_>>(), [young]);
        let next = process(&mut store, "router", "r1-1");
        assert_eq!(next, old, "the slot of the process that went is used again");
        store.evict(9_000);
        assert!(store.services().is_empty());
        assert_eq!(store.packed_bytes, 0);
    }

    #[test]
    fn a_search_fits_one_span_in_every_respect() {
        let mut store = Store::new(Limits::default());
        let gateway = process(&mut store, "gateway", "g1-1");
        let node = process(&mut store, "storage-node", "n1-7");
        store.insert(0, gateway, &span(1, 1, vec![("attempt", TagValue::Int(1)), ("ok", TagValue::Bool(true))]));
        store.insert(0, node, &span(1, 2, vec![("replica", TagValue::Text("n1"))]));
        store.insert(0, gateway, &span(2, 1, vec![("attempt", TagValue::Int(2))]));
        let with = |service: &str, tags: &[(&str, &str)]| {
            let tags = tags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            store.search(&Search { tags, ..anything(service) })
        };
        assert_eq!(with("gateway", &[]), [2, 1]);
        assert_eq!(with("gateway", &[("attempt", "1")]), [1]);
        assert_eq!(with("gateway", &[("attempt", "1"), ("ok", "true"), ("service.instance.id", "g1-1")]), [1]);
        assert_eq!(with("gateway", &[("replica", "n1")]), [] as [u128; 0], "the tag is another span's");
        assert_eq!(with("storage-node", &[("service.instance.id", "n1-7")]), [1]);
        assert_eq!(store.search(&Search { start_us: 11, ..anything("gateway") }), [2]);
        assert_eq!(store.search(&Search { end_us: 10, ..anything("gateway") }), [1]);
        assert_eq!(store.search(&Search { limit: 1, ..anything("gateway") }), [2]);
        assert_eq!(store.search(&Search { duration_min_us: 6, ..anything("gateway") }), [] as [u128; 0]);
        let other = Search { operation: Some("GET records".into()), ..anything("gateway") };
        assert_eq!(store.search(&other), [] as [u128; 0]);
    }

    #[test]
    fn what_cannot_be_kept_is_refused_and_counted() {
        let mut store = Store::new(Limits::default());
        let gateway = process(&mut store, "gateway", "g1-1");
        store.insert(0, gateway, &span(0, 1, vec![]));
        store.insert(0, gateway, &span(1, 0, vec![]));
        for id in 1..=SPANS_OF_A_TRACE_MAX as u64 + 1 {
            store.insert(0, gateway, &span(1, id, vec![]));
        }
        store.insert(0, gateway, &span(1, 1, vec![]));
        let counts = store.counts();
        assert_eq!((counts.refused, counts.spans), (3, SPANS_OF_A_TRACE_MAX as u64));
    }

    #[test]
    fn a_span_takes_no_more_than_400_bytes() {
        let mut store = Store::new(Limits::default());
        let gateway = process(&mut store, "everring-gateway", "g1-1");
        let mut number = 0u64;
        for trace_id in 1..=2_000u128 {
            for id in 1..=12 {
                number += 1;
                let key_id = format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let request = format!("{:032x}", u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced));
                let tags = vec![
                    ("span.kind", TagValue::Text("client")),
                    ("db.system.name", TagValue::Text("everring")),
                    ("db.collection.name", TagValue::Text("records")),
                    ("db.operation.name", TagValue::Text("PUT")),
                    ("everring.attempt", TagValue::Int(1)),
                    ("everring.epoch", TagValue::Int(1)),
                    ("everring.hop", TagValue::Int(1)),
                    ("everring.key.id", TagValue::Text(&key_id)),
                    ("everring.request.id", TagValue::Text(&request)),
                    ("everring.replica", TagValue::Text("n3")),
                ];
                let described = Described { name: "PUT records", tags, links: vec![] };
                let span = NewSpan { trace_id, id, parent: id - 1, start_us: number, duration_us: 250, described };
                store.insert(0, gateway, &span);
            }
        }
        let counts = store.counts();
        let bytes_each = counts.bytes / counts.spans;
        assert!(bytes_each <= 400, "{bytes_each} bytes a span");
    }
}
