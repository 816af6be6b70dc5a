//! `everring lock`: a holder that slept through its lease does no harm.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdout, Stdio};

use rustix::process::Signal;

use crate::support::{Ending, Up, eventually, everring, run, signal};

/// What holds the lock: says its token, waits for a line, and then writes under that token.
const HOLDER: &str = r#"echo "$EVERRING_FENCE"; read -r go && exec "$PROGRAM" put guarded late"#;

/// A process that holds the lock until it is told to write, and its standard output.
fn holder(up: &Up) -> (Ending, BufReader<ChildStdout>) {
    let lock = ["lock", "guard", "--ttl", "1s", "--gateway", up.gateway(), "--", "sh", "-c", HOLDER];
    let mut command = everring(&lock);
    command.env("PROGRAM", env!("CARGO_BIN_EXE_everring")).env("EVERRING_GATEWAY", up.gateway()).stdin(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let said = BufReader::new(child.stdout.take().expect("piped"));
    (Ending(child), said)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[test]
fn a_holder_that_was_stopped_past_its_lease_is_fenced_off() {
    let up = Up::start(&[]);
    let (mut sleeper, mut said) = holder(&up);
    let mut line = String::new();
    said.read_line(&mut line).expect("its token");
    let first: u64 = line.trim().parse().expect("a number");
    let refused = run(&["lock", "guard", "--gateway", up.gateway()]);
    assert_eq!(refused.status.code(), Some(1), "it is held and renewed: {}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("another owner holds the lock"), "{}", text(&refused.stderr));

    signal(sleeper.0.id(), Signal::STOP);
    // Nobody renews the lease now, so it runs out, and the next in the queue is granted the lock.
    let next = run(&["lock", "guard", "--wait", "30s", "--ttl", "60s", "--gateway", up.gateway()]);
    assert_eq!(next.status.code(), Some(0), "{}", text(&next.stderr));
    let second: u64 = text(&next.stdout).parse().expect("a number");
    assert!(second > first, "{second} was granted after {first}");
    let fence = second.to_string();
    let written = run(&["put", "guarded", "right", "--fence", &fence, "--gateway", up.gateway()]);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));

    signal(sleeper.0.id(), Signal::CONT);
    sleeper.0.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
    let status = eventually("the sleeper does not end", || {
        sleeper.0.try_wait().expect("our child").ok_or_else(|| "it still runs".to_owned())
    });
    let mut told = String::new();
    std::io::Read::read_to_string(&mut sleeper.0.stderr.take().expect("piped"), &mut told).expect("text");
    assert_eq!(status.code(), Some(1), "{told}");
    assert!(told.contains("fenced-off"), "its write was refused for its token: {told}");

    let read = run(&["get", "guarded", "--gateway", up.gateway()]);
    assert_eq!(text(&read.stdout), "right", "no harm is done");
    let released = run(&["lock", "guard", "--release", &fence, "--gateway", up.gateway()]);
    assert_eq!(released.status.code(), Some(0), "{}", text(&released.stderr));
    let held = run(&["lock", "guard", "--gateway", up.gateway(), "--", "true"]);
    assert_eq!(held.status.code(), Some(0), "it is free again: {}", text(&held.stderr));
}
