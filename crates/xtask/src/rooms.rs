//! The rooms: every crate of the workspace, what it may know, and what it may do.

use std::collections::BTreeSet;

use crate::Complaint;
use crate::source::Source;
use crate::tree::File;

/// What a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Decides, and does no I/O: no clock, socket, file, thread or chance of its own.
    Pure,
    /// Pure but for files, which are its subject.
    PureWithFiles,
    /// Does I/O.
    Shell,
}

/// One crate.
struct Room {
    name: &'static str,
    kind: Kind,
    /// Which of our crates it may name; separated by spaces.
    ours: &'static str,
    /// Which others' crates a pure one may name, so that a new one is a decision; separated by spaces.
    others: &'static str,
}

const fn pure(name: &'static str, ours: &'static str, others: &'static str) -> Room {
    Room { name, kind: Kind::Pure, ours, others }
}

const fn shell(name: &'static str, ours: &'static str) -> Room {
    Room { name, kind: Kind::Shell, ours, others: "" }
}

/// The table of ARCHITECTURE.md. Arrows go one way; nobody but the program depends on a service.
const ROOMS: &[Room] = &[
    pure("stdx", "", "rand rand_chacha"),
    pure("membership", "stdx", "blake3 thiserror"),
    pure("chord", "stdx membership", "thiserror"),
    pure("replication", "stdx membership", "bytes thiserror"),
    pure("available", "stdx membership replication", "blake3 bytes thiserror"),
    pure("dispatch", "stdx membership replication available", "thiserror"),
    pure("history", "stdx", "serde serde_json thiserror"),
    pure("checker", "stdx history", "serde serde_json thiserror"),
    pure("registry", "stdx", "serde serde_json base64 thiserror rpds hcl-rs regex-lite"),
    pure("wire", "stdx membership chord replication available", "bytes crc32c serde serde_json thiserror"),
    pure("consensus", "stdx registry store", "raft slog bytes serde serde_json crc32c thiserror"),
    Room { name: "store", kind: Kind::PureWithFiles, ours: "stdx", others: "crc32c rustix thiserror" },
    pure("sim", "stdx membership chord replication available dispatch wire store history checker", "bytes thiserror"),
    shell("telemetry", "stdx"),
    shell("client", "stdx membership wire telemetry"),
    shell("runtime", "stdx membership chord replication available wire store"),
    shell("discovery", "stdx registry consensus store telemetry"),
    shell("router", "stdx membership chord wire runtime client telemetry"),
    shell("storage-node", "stdx membership chord replication available wire store runtime client telemetry"),
    shell("gateway", "stdx membership replication available dispatch wire runtime client telemetry"),
    shell("chaos", "stdx history checker wire client telemetry"),
    shell("kubernetes", "stdx chaos"),
    shell(
        "everring",
        "stdx membership wire history checker client telemetry sim chaos kubernetes discovery router storage-node \
         gateway",
    ),
    shell("xtask", ""),
];

/// What a pure crate never names, and who gives it instead.
const IMPURE: &[(&str, &str)] = &[
    ("std::net", "addresses and sockets belong to the shells"),
    ("std::fs", "files belong to the shells"),
    ("std::thread", "threads belong to the shells"),
    ("std::env", "the shells read the environment"),
    ("SystemTime", "time comes in as an argument"),
    ("std::time::Instant", "time comes in as stdx::Instant"),
    ("Instant::now", "time comes in as an argument"),
    ("rand::rng", "chance comes from the generator that is given"),
    ("thread_rng", "chance comes from the generator that is given"),
];

/// Files of a pure crate that are not part of its core, and why.
const OUTSIDE_THE_CORE: &[(&str, &str)] =
    &[("crates/sim/src/command.rs", "runs many worlds at once and tells how long that took; no world sees it")];
/// Workspaces of their own, which nothing here depends on: the benchmarks, and other people's clients as tests.
const OTHER_WORKSPACES: [&str; 2] = ["bench/", "tests/clients/"];

/// Holds every manifest against the table.
pub fn check_manifests(files: &[File], complaints: &mut Vec<Complaint>) {
    let mut met = BTreeSet::new();
    let architecture = files.iter().find(|file| file.path == "ARCHITECTURE.md").and_then(|file| file.text.clone());
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    let elsewhere = |path: &str| OTHER_WORKSPACES.iter().any(|folder| path.starts_with(folder));
    for file in manifests.filter(|file| !elsewhere(&file.path)) {
        let text = file.text.as_deref().unwrap_or_default();
        let Some(name) = package_name(text) else { continue };
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            complaints.push(Complaint::new(&file.path, 0, "no such room: add it to crates/xtask/src/rooms.rs"));
            continue;
        };
        met.insert(room.name);
        if !architecture.as_deref().unwrap_or_default().contains(&format!("`{name}`")) {
            complaints.push(Complaint::new("ARCHITECTURE.md", 0, format!("says nothing of the crate `{name}`")));
        }
        check_manifest(&file.path, text, room, complaints);
    }
    for room in ROOMS.iter().filter(|room| !met.contains(room.name)) {
        let what = format!("the room {} is gone: take it out of crates/xtask/src/rooms.rs", room.name);
        complaints.push(Complaint::new("Cargo.toml", 0, what));
    }
}

fn check_manifest(path: &str, text: &str, room: &Room, complaints: &mut Vec<Complaint>) {
    let ours = words(room.ours);
    let others = words(room.others);
    for (line, dependency) in dependencies(text) {
        let is_ours = ROOMS.iter().any(|known| known.name == dependency);
        let what = if is_ours && !ours.contains(dependency) {
            format!("{} may not know {dependency}: arrows go inwards (ARCHITECTURE.md, Rooms)", room.name)
        } else if !is_ours && room.kind != Kind::Shell && !others.contains(dependency) {
            format!("{} is a pure crate and may not name {dependency}", room.name)
        } else if dependency.starts_with("opentelemetry") && room.name != "telemetry" {
            "only telemetry names OpenTelemetry: two versions in one tree lose parents silently".to_owned()
        } else {
            continue;
        };
        complaints.push(Complaint::new(path, line, what));
    }
    for wanted in ["version.workspace = true", "license.workspace = true", "[lints]\nworkspace = true"] {
        if !text.contains(wanted) {
            complaints.push(Complaint::new(path, 0, format!("must contain: {}", wanted.replace('\n', " / "))));
        }
    }
}

/// Looks for what a pure crate may not do, tests included: a test that needs a clock tests a shell.
pub fn check_purity(source: &Source, complaints: &mut Vec<Complaint>) {
    let Some(room) = ROOMS.iter().find(|room| source.path.starts_with(&format!("crates/{}/src/", room.name))) else {
        return;
    };
    if room.kind == Kind::Shell || OUTSIDE_THE_CORE.iter().any(|(path, _)| *path == source.path) {
        return;
    }
    for (at, line) in unfolded(&source.parts.code).lines().enumerate() {
        for (name, instead) in IMPURE {
            let its_subject = room.kind == Kind::PureWithFiles && matches!(*name, "std::fs");
            if contains_path(line, name) && !its_subject {
                let what = format!("{} is a pure crate and may not use {name}: {instead}", room.name);
                complaints.push(Complaint::new(&source.path, at + 1, what));
            }
        }
    }
}

/// Writes `use std::{fs, net::X};` as if each stood alone, so that a group hides nothing.
fn unfolded(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    for line in code.lines() {
        out.push_str(line);
        if let Some((base, group)) = line.trim().strip_prefix("use ").and_then(|rest| rest.split_once("::{")) {
            for item in group.trim_end_matches(['}', ';']).split(',') {
                out.push_str(&format!(" {base}::{}", item.trim()));
            }
        }
        out.push('\n');
    }
    out
}

/// Whether `line` names `path` itself, not merely something that begins or ends alike.
fn contains_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        !before.is_some_and(crate::lexer::is_word) && !after.is_some_and(crate::lexer::is_word)
    })
}

/// The crates under `[dependencies]` and `[build-dependencies]`, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut within = false;
    for (at, line) in manifest.lines().enumerate() {
        if let Some(section) = line.trim().strip_prefix('[') {
            let section = section.trim_end_matches(']');
            within = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
            if let Some((_, name)) = section.split_once("dependencies.") {
                found.push((at + 1, name));
            }
        } else if within && !line.trim_start().starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() {
                found.push((at + 1, name));
            }
        }
    }
    found
}

fn package_name(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
}

fn words(list: &'static str) -> BTreeSet<&'static str> {
    list.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(path: &str, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        check_purity(&Source::new(path, text, false), &mut complaints);
        complaints.into_iter().map(|complaint| complaint.to_string()).collect()
    }

    #[test]
    fn a_pure_crate_has_no_clock() {
        let found =
            complaints_of("crates/chord/src/a.rs", "// std::net is named here\nuse std::time::{Duration, Instant};");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/chord/src/a.rs:2: chord is a pure crate"), "{found:?}");
        assert!(complaints_of("crates/chord/src/a.rs", "use stdx::Instant;\nuse std::time::Duration;").is_empty());
        assert!(complaints_of("crates/runtime/src/a.rs", "use std::time::Instant;").is_empty());
        assert!(complaints_of("crates/store/src/a.rs", "use std::fs;").is_empty());
        assert_eq!(complaints_of("crates/store/src/a.rs", "use std::{fs, net};").len(), 1);
    }

    #[test]
    fn dependencies_are_those_of_the_program() {
        let manifest = "[dependencies]\nstdx.workspace = true\nlibc = \"1\"\n[dev-dependencies]\ntempfile = \"3\"\n\
                        [dependencies.tokio]\nversion = \"1\"\n";
        assert_eq!(dependencies(manifest), [(2, "stdx"), (3, "libc"), (6, "tokio")]);
    }

    #[test]
    fn a_core_that_knows_a_shell_is_seen() {
        let room = ROOMS.iter().find(|room| room.name == "chord").expect("chord is a room");
        let mut complaints = Vec::new();
        let manifest = "version.workspace = true\nlicense.workspace = true\n[lints]\nworkspace = true\n[dependencies]\n\
                        tokio.workspace = true\nruntime.workspace = true\nstdx.workspace = true\n";
        check_manifest("crates/chord/Cargo.toml", manifest, room, &mut complaints);
        let lines: Vec<usize> = complaints.iter().map(|complaint| complaint.line).collect();
        assert_eq!(lines, [6, 7]);
    }
}
