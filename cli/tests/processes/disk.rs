//! A disk that is full: writes get a typed refusal, reads go on, nothing is corrupted.

use rustix::process::Signal;

use crate::support::{Up, run};

/// Two segments of a megabyte, the least that a log works with.
const QUOTA: &[(&str, &str)] = &[("EVERRING_DATA_BYTES_MAX", "2097152"), ("EVERRING_SEGMENT_BYTES", "1048576")];

#[test]
fn a_full_disk_refuses_writes_and_goes_on_reading() {
    let up = Up::start_with(&[], QUOTA);
    let value = "x".repeat(60_000);
    let put = |key: &str| run(&["put", key, &value, "--gateway", up.gateway()]);

    let mut stored = Vec::new();
    let refusal = (0..200).find_map(|at| {
        let key = format!("k{at}");
        let output = put(&key);
        match output.status.code() {
            Some(0) => {
                stored.push(key);
                None
            }
            _ => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    });
    let refusal = refusal.expect("two megabytes do not hold 200 values of 60 kB");
    assert!(refusal.contains("full"), "{refusal}");
    assert!(!stored.is_empty());

    for key in &stored {
        let output = run(&["get", key, "--gateway", up.gateway()]);
        assert_eq!(output.status.code(), Some(0), "{key}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, value.as_bytes(), "{key}");
    }
    up.signal(Signal::INT);
    let (status, stderr) = up.wait();
    assert_eq!(status, Some(0), "{stderr}");
}
