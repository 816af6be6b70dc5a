//! The program as people meet it: real processes, real signals, real sockets.

mod available;
mod backup;
mod chaos;
mod check;
mod consul;
mod discovery;
mod disk;
mod jaeger;
mod lock;
mod power_cut;
mod ring;
mod rot;
mod secure;
mod sim;
mod starts;
mod support;
mod up;
mod watches;
