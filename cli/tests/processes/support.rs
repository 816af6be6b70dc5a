//! Starts the program, waits for conditions, and leaves nothing behind.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A machine under load is slow; a hanging test is worse.
const PATIENCE: Duration = Duration::from_secs(90);

/// The program with these arguments, untouched by the environment of whoever runs the tests.
pub fn everring(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everring"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("EVERRING_") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    run_with_input(arguments, "")
}

/// Runs the program to its end, with this on its standard input.
pub fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut child = everring(arguments).stdin(Stdio::piped()).spawn().expect("the program starts");
    // A program that does not read its input closes it.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

/// Asserts that a call was refused as it should be: exit status 2, one sentence on standard error, no data.
pub fn assert_refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    for word in words {
        assert!(stderr.contains(word), "`{word}` is missing in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// Waits until `condition` answers, and panics with what it said last.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < until, "{what}: {last}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The body of `GET http://{address}{path}`, which must be JSON.
pub fn get_json(address: &str, path: &str) -> Result<Value, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|error| error.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {answer}"))?;
    serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process number")).expect("not 0");
    kill_process(pid, signal).expect("the process takes the signal");
}

/// Whether this process runs. One that has ended and is not yet collected does not.
pub fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).map(str::trim_start);
    status.starts_with("Name:\teverring") && !state.is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// The process that started this one, while it runs.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in brackets before, and may hold anything.
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

/// What a child of a fleet is called there: its `--name`.
fn name_of(pid: u32) -> Option<String> {
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    arguments.split('\0').skip_while(|argument| *argument != "--name").nth(1).map(str::to_owned)
}

/// A child that ends with the test, however that ends.
pub struct Ending(pub Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself; then the test has said so already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service of ours, once it says that it is ready; gives its HTTP address.
pub fn service(arguments: &[&str]) -> (Ending, String) {
    service_with(arguments, &[])
}

/// The same, with these variables in its environment.
pub fn service_with(arguments: &[&str], variables: &[(&str, &str)]) -> (Ending, String) {
    let mut command = everring(arguments);
    let mut child = command.envs(variables.iter().copied()).stderr(Stdio::null()).spawn().expect("the program starts");
    let stdout = child.stdout.take().expect("piped");
    let ending = Ending(child);
    let line = BufReader::new(stdout).lines().next().expect("its line").expect("text");
    let http = line.split_whitespace().find_map(|word| word.strip_prefix("http=")).map(str::to_owned);
    (ending, http.unwrap_or_else(|| panic!("no address in: {line}")))
}

/// Waits until none of these processes runs.
pub fn wait_for_end_of(pids: &[u32]) {
    eventually("processes are left over", || {
        let left: Vec<u32> = pids.iter().copied().filter(|pid| runs(*pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// A running `everring up --output json`.
pub struct Up {
    child: Child,
    /// What it said when it was ready.
    pub addresses: Value,
}

impl Up {
    /// A small fleet with these further arguments, once it is ready.
    pub fn start(arguments: &[&str]) -> Up {
        Up::start_with(arguments, &[])
    }

    /// The same, with these variables in its environment and in that of its children.
    pub fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Up {
        let base = ["up", "--nodes", "3", "--output", "json"];
        let gateways: &[&str] = if arguments.contains(&"--gateways") { &[] } else { &["--gateways", "1"] };
        let mut command = everring(&[&base[..], gateways, arguments].concat());
        let mut child = command.envs(variables.iter().copied()).spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("piped");
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            // Who waits for the line may have given up.
            let _ = send.send(lines.next());
            lines.for_each(drop);
        });
        let first = receive.recv_timeout(PATIENCE);
        let Ok(Some(Ok(line))) = &first else {
            // No patience for children here: the test has failed already.
            let _ = child.kill();
            let output = child.wait_with_output().expect("the program ends");
            panic!("the fleet is not ready: {first:?}; {}", String::from_utf8_lossy(&output.stderr));
        };
        let addresses = serde_json::from_str(line).expect("one line of JSON");
        Up { child, addresses }
    }

    /// The first gateway.
    pub fn gateway(&self) -> &str {
        self.addresses["gateways"][0].as_str().expect("an address")
    }

    /// `field` of the child of this name.
    fn child_field(&self, name: &str, field: &str) -> Value {
        let children = self.addresses["children"].as_array().expect("a list");
        children.iter().find(|child| child["name"] == name).expect("a child of this name")[field].clone()
    }

    /// `host:port` where traces are asked for.
    pub fn traces(&self) -> &str {
        self.addresses["traces"].as_str().expect("an address").trim_start_matches("http://")
    }

    /// All gateways.
    pub fn gateways(&self) -> Vec<String> {
        let gateways = self.addresses["gateways"].as_array().expect("a list");
        gateways.iter().map(|gateway| gateway.as_str().expect("an address").to_owned()).collect()
    }

    /// `host:port` of a child's HTTP side.
    pub fn http(&self, name: &str) -> String {
        self.child_field(name, "http").as_str().expect("an address").trim_start_matches("http://").to_owned()
    }

    /// The process that a child was when the fleet became ready.
    pub fn pid(&self, name: &str) -> u32 {
        self.child_field(name, "pid").as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process number")
    }

    /// All processes, `up` itself last.
    pub fn pids(&self) -> Vec<u32> {
        let children = self.addresses["children"].as_array().expect("a list");
        let names = children.iter().map(|child| child["name"].as_str().expect("a name"));
        names.map(|name| self.pid(name)).chain([self.child.id()]).collect()
    }

    /// The processes that its children are now, whichever life they are in, by name.
    pub fn children(&self) -> BTreeMap<String, u32> {
        let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| parent_of(*pid) == Some(self.child.id()) && runs(*pid))
            .filter_map(|pid| Some((name_of(pid)?, pid)))
            .collect()
    }

    /// Where the data is.
    pub fn data(&self) -> &Path {
        Path::new(self.addresses["data"].as_str().expect("a path"))
    }

    /// Sends a signal to `up` itself.
    pub fn signal(&self, which: Signal) {
        signal(self.child.id(), which);
    }

    /// Its exit status and what it said on standard error, once it has ended.
    pub fn wait(mut self) -> (Option<i32>, String) {
        let status = eventually("`up` does not end", || {
            self.child.try_wait().expect("our child").ok_or_else(|| "it still runs".to_owned())
        });
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_string(&mut stderr).expect("text");
        (status.code(), stderr)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // After a failed assertion: the children die with it. One that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
