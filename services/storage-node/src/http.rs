//! The node's HTTP side: health, metrics and status, for people and probes.

use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use telemetry::names;
use telemetry::ops::{Check, Ops};

use crate::status::{Board, State, Status};
use crate::timings::Timings;

/// Serves until the returned server is stopped.
pub(crate) fn serve(
    listener: std::net::TcpListener,
    board: Board,
    timings: &Timings,
) -> std::io::Result<actix_web::dev::Server> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StatusMetrics(board.clone())));
    timings.register(&mut registry);
    telemetry::metrics::register_export(&mut registry);
    let readiness = board.clone();
    let ops = Ops::new("everring-storage-node", env!("CARGO_PKG_VERSION"), registry, move || checks(&readiness.read()));
    let server = HttpServer::new(move || {
        let ops = ops.clone();
        App::new()
            .app_data(Data::new(board.clone()))
            .configure(move |config| ops.configure(config))
            .route("/status", web::get().to(status))
            .route("/v1/pointers", web::get().to(pointers))
    });
    // Probes and people ask a few times a second: one worker is plenty, and a thread less for every node.
    Ok(server.workers(1).disable_signals().shutdown_timeout(1).listen(listener)?.run())
}

fn checks(status: &Status) -> Vec<Check> {
    let ring = if status.epoch > 0 { format!("epoch {}", status.epoch) } else { "the ring has not formed".to_owned() };
    let caught_up = matches!(status.state, State::Ready);
    let data = format!("{} registers, {} known to lag", status.registers, status.catch_up_remaining);
    vec![
        Check::new("ring", status.epoch > 0, ring),
        Check::new("data", caught_up, data),
        Check::new("open", status.state != State::Draining, "takes new operations unless it is draining"),
    ]
}

async fn status(board: Data<Board>) -> HttpResponse {
    HttpResponse::Ok().json(board.read())
}

/// What each token knows of the ring: for people, and for whoever checks the ring from outside.
async fn pointers(board: Data<Board>) -> HttpResponse {
    HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(board.pointers())
}

/// The status as gauges.
#[derive(Debug)]
struct StatusMetrics(Board);

impl Collector for StatusMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = self.0.read();
        let ready = i64::from(status.is_ready());
        let (disk, memory) = (status.available.disk, status.available.memory);
        let copying = status.available.copying();
        let copying_arcs = copying.arcs - copying.arcs_copied;
        let gauges = [
            (names::NODE_REGISTERS, "Registers held, deletions included", status.registers as i64),
            (names::NODE_TOMBSTONES, "Deletions that wait to be dropped", status.tombstones as i64),
            (names::NODE_TOMBSTONES_DROPPED, "Deletions dropped since the start", status.tombstones_dropped as i64),
            (names::NODE_LIVE_BYTES, "Bytes of current records", status.live_bytes as i64),
            (names::NODE_LOG_BYTES, "Bytes that the log takes on the disk", status.log_bytes as i64),
            (names::NODE_LAGGING, "Registers known to lag", status.catch_up_remaining as i64),
            (names::NODE_CAUGHT_UP, "Registers read again since the start", status.caught_up as i64),
            (names::NODE_WAITING, "Operations that wait for their answer", status.waiting as i64),
            (names::NODE_DISK_FULL, "1 when the disk takes no more writes", i64::from(status.disk_full)),
            (names::NODE_COPY_ARCS, "Arcs that are still to be copied", status.copying.left() as i64),
            (names::NODE_COPIED_REGISTERS, "Registers copied since the start", status.copying.registers as i64),
            (names::NODE_COPIED_BYTES, "Bytes copied since the start", status.copying.bytes as i64),
            (names::NODE_AVAILABLE_COPY_ARCS, "Arcs of available keys still to be copied", copying_arcs as i64),
            (names::NODE_AVAILABLE_COPIED_KEYS, "Available keys copied since the start", copying.keys as i64),
            (names::NODE_AVAILABLE_COPIED_BYTES, "Bytes of available keys copied", copying.bytes as i64),
            (names::NODE_SCRUBBED_BYTES, "Bytes of the log read again since the start", status.scrub.bytes as i64),
            (names::NODE_SCRUB_PASSES, "Times at which all of the log had been read", status.scrub.passes as i64),
            (names::NODE_DAMAGE_FOUND, "Places where the log was found damaged", status.scrub.damage_found as i64),
            (names::NODE_DAMAGED_SEGMENTS, "Damaged segments still there", status.scrub.damaged_segments as i64),
            (names::NODE_AVAILABLE_KEYS, "Available keys held on disk", disk.keys as i64),
            (names::NODE_MEMORY_KEYS, "Available keys held in memory only", memory.keys as i64),
            (
                names::NODE_AVAILABLE_WHOLE,
                "1 when its available keys are counted",
                i64::from(disk.whole && memory.whole),
            ),
            (names::NODE_HINTS, "Writes kept for other nodes", (disk.hints + memory.hints) as i64),
            (names::NODE_READY, "1 when the node holds all that it should", ready),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{AvailableCopying, Copying};

    #[test]
    fn metrics_tell_how_far_copies_of_registers_and_available_keys_are() {
        let copying = Copying { arcs: 5, arcs_copied: 2, registers: 7, bytes: 70 };
        let mut status = Status { copying, ..Status::default() };
        let keys = AvailableCopying { arcs: 5, arcs_copied: 1, arcs_verified: 1, keys: 8, bytes: 80 };
        (status.available.disk.copying, status.available.memory.copying) = (keys, keys);
        let json = serde_json::to_value(&status).expect("it is JSON");
        assert_eq!(json["available"]["memory"]["copying"]["arcs_verified"], 1);
        let board = Board::default();
        board.write(status, Vec::new());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(StatusMetrics(board)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text takes it");
        for line in [
            "everring_node_copy_arcs 3",
            "everring_node_copied_bytes 70",
            "everring_node_available_copy_arcs 8",
            "everring_node_available_copied_keys 16",
            "everring_node_available_copied_bytes 160",
        ] {
            assert!(text.lines().any(|told| told == line), "`{line}` is missing in:\n{text}");
        }
    }
}
