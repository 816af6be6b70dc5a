//! The gateway's HTTP contract, against a made-up node layer: every answer has the form, the headers and the code that
//! the interface promises, whatever the nodes do.

mod available;
mod available_bounds;
mod available_watches;
mod backups;
mod batch;
mod buckets;
mod explain;
mod failover;
mod fake;
mod listing;
mod locks;
mod problems;
mod records;
mod sockets;
mod watches;
