//! What no file may contain.

use crate::Complaint;
use crate::lexer::words;
use crate::source::Source;
use crate::tree::File;

/// The longest line of a Rust file, in characters; rustfmt breaks code there, and leaves comments to us.
const LINE_CHARS_MAX: usize = 120;
/// The longest Rust file, tests included.
const FILE_LINES_MAX: usize = 800;
/// The largest file of any kind. Data sets and binaries are fetched or built, never kept here.
const FILE_BYTES_MAX: u64 = 512 * 1024;

/// Words that mean something else here, or nothing. Where the word is another's, the place is named below.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("master", "no node is one"),
    ("slave", "no node is one"),
    ("leader", "the ring has none; say owner, coordinator or whoever it is"),
    ("leaders", "the ring has none; say owners or coordinators"),
    ("shard", "say arc (of the ring)"),
    ("shards", "say arcs (of the ring)"),
    ("successfully", "say what happened"),
];
/// Words that are banned in prose only: a helper of that name has its bound as an argument.
const BANNED_IN_PROSE: &[(&str, &str)] = &[("eventually", "say by when, or what it waits for")];

/// Where a banned word is someone else's, and why.
const FOREIGN_WORDS: &[(&str, &str, &str)] = &[
    ("leader", "services/discovery/", "Consul's API calls it so"),
    ("leader", "crates/client/src/consul", "Consul's API calls it so"),
    ("leader", "docs/decisions/0001-", "argues against one"),
    ("leader", "docs/protocol.md", "names Consul's calls"),
    ("leader", "docs/discovery.md", "names Consul's calls"),
    ("leader", "cli/tests/processes/consul.rs", "Consul's API calls it so"),
    ("leader", "chaos/src/faults.rs", "the leader of a process group, as POSIX has it"),
    ("leader", "bench/peers/", "etcd has one"),
    ("leader", "bench/figures-discovery/", "Raft has one"),
    ("leaders", "bench/figures-discovery/", "Raft has one in each group"),
    ("leader", "crates/consensus/", "Raft has one"),
    ("leaders", "crates/consensus/", "Raft has at most one a term"),
    ("leader", "crates/registry/src/apply.rs", "Raft has one"),
    ("leader", "cli/src/ask_discovery.rs", "Raft has one"),
    ("leader", "docs/decisions/0035-", "Raft has one"),
    ("leader", "docs/decisions/0036-", "Raft has one"),
    ("leader", "docs/decisions/0037-", "Raft has one"),
    ("leaders", "docs/decisions/0037-", "Raft has at most one a term"),
    ("leader", "docs/decisions/0038-", "Raft has one"),
    ("shard", "bench/peers/", "parts of a lock's table, which has nothing to do with the ring"),
    ("shards", "bench/peers/", "parts of a lock's table, which has nothing to do with the ring"),
];

/// Marks of unfinished work. Put together here so that this file does not contain them.
const LEFTOVERS: [&str; 3] = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X")];
/// Attributes and calls that hide something, and what to do instead.
const HIDING: [(&str, &str); 4] = [
    ("#[ignore", "a test runs or does not exist"),
    ("#[should_panic", "assert the error itself"),
    ("todo!", "leave it out, and say so where people look"),
    ("unimplemented!", "leave it out, and say so where people look"),
];
/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: [&str; 3] = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Checks every file: its size, and no path of one machine in it.
pub fn check_file(file: &File, complaints: &mut Vec<Complaint>) {
    if file.bytes > FILE_BYTES_MAX {
        let what = format!("{} KiB: files over {} KiB are not kept here", file.bytes / 1024, FILE_BYTES_MAX / 1024);
        complaints.push(Complaint::new(&file.path, 0, what));
    }
    let Some(text) = &file.text else { return };
    for (at, line) in text.lines().enumerate() {
        for path in MACHINE_PATHS.iter().filter(|path| names_path(line, path)) {
            let what = format!("`{path}` exists on one machine only");
            complaints.push(Complaint::new(&file.path, at + 1, what));
        }
        if line.ends_with("\r") {
            complaints.push(Complaint::new(&file.path, at + 1, "ends in a carriage return"));
        }
    }
}

/// Whether the path begins here, and is not the tail of a longer one or of an address.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|one| one.is_alphanumeric() || "_-./:$}".contains(one))
    })
}

/// Checks prose: words and marks of unfinished work.
pub fn check_prose(path: &str, prose: &str, complaints: &mut Vec<Complaint>) {
    for (line, word) in words(prose) {
        if LEFTOVERS.contains(&word) {
            complaints.push(Complaint::new(path, line, format!("{word}: finish it, or say in an issue what is open")));
        }
        let lower = word.to_lowercase();
        check_word(path, line, &lower, BANNED_WORDS, complaints);
        check_word(path, line, &lower, BANNED_IN_PROSE, complaints);
    }
}

/// Checks a Rust file beyond what holds for every file.
pub fn check_source(source: &Source, complaints: &mut Vec<Complaint>) {
    let path = &source.path;
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines: split it by noun (at most {FILE_LINES_MAX}, tests included)");
        complaints.push(Complaint::new(path, 0, what));
    }
    for (at, line) in source.text.lines().enumerate() {
        let chars = line.chars().count();
        if chars > LINE_CHARS_MAX {
            let what = format!("{chars} characters in a line (at most {LINE_CHARS_MAX})");
            complaints.push(Complaint::new(path, at + 1, what));
        }
    }
    for (at, line) in source.parts.code.lines().enumerate() {
        for (hiding, instead) in HIDING {
            if line.contains(hiding) {
                complaints.push(Complaint::new(path, at + 1, format!("{hiding}: {instead}")));
            }
        }
    }
    for (line, word) in words(&source.parts.code) {
        let lower = word.to_lowercase();
        if !BANNED_WORDS.iter().any(|(banned, _)| lower.contains(banned)) {
            continue;
        }
        // An identifier is several words: `known_leader`, `KnownLeader`.
        for part in identifier_words(word) {
            check_word(path, line, &part, BANNED_WORDS, complaints);
        }
    }
    let is_root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
    if is_root && !source.text.starts_with("//!") {
        complaints.push(Complaint::new(path, 1, "begins without `//!`: what it is, what it is not, its invariants"));
    }
    check_prose(path, &source.parts.comments, complaints);
}

fn check_word(path: &str, line: usize, word: &str, list: &[(&str, &str)], complaints: &mut Vec<Complaint>) {
    let Some((banned, instead)) = list.iter().find(|(banned, _)| *banned == word) else { return };
    let foreign = FOREIGN_WORDS.iter().any(|(word, place, _)| word == banned && path.starts_with(place));
    if !foreign {
        complaints.push(Complaint::new(path, line, format!("the word `{banned}`: {instead}")));
    }
}

/// The words of an identifier, in lower case.
fn identifier_words(identifier: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for one in identifier.chars() {
        if one == '_' || one.is_uppercase() {
            found.push(String::new());
        }
        if one != '_' {
            found.last_mut().into_iter().for_each(|word| word.extend(one.to_lowercase()));
        }
    }
    found.retain(|word| !word.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_source(path: &str, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        check_source(&Source::new(path, text, false), &mut complaints);
        complaints.into_iter().map(|complaint| complaint.what).collect()
    }

    #[test]
    fn words_are_whole_and_identifiers_are_taken_apart() {
        assert_eq!(identifier_words("KnownLeader_of2"), ["known", "leader", "of2"]);
        assert_eq!(in_source("crates/a/src/a.rs", "fn known_leader() {}").len(), 1);
        assert!(in_source("crates/a/src/a.rs", "// leaderless, remastered\nlet x = \"leader\";").is_empty());
        assert!(in_source("services/discovery/src/a.rs", "fn leader() {}").is_empty());
        assert_eq!(in_source("crates/a/src/a.rs", "// Eventually.\nfn eventually() {}").len(), 1);
    }

    #[test]
    fn unfinished_work_is_seen_in_code_and_comments() {
        let text = format!("// {}: later\nfn f() {{ todo!() }}", LEFTOVERS[1]);
        assert_eq!(in_source("crates/a/src/a.rs", &text).len(), 2);
        assert!(in_source("crates/a/src/a.rs", "let text = \"todo!()\";").is_empty());
    }

    #[test]
    fn a_crate_says_what_it_is() {
        assert_eq!(in_source("crates/a/src/lib.rs", "pub mod a;").len(), 1);
        assert!(in_source("crates/a/src/lib.rs", "//! A thing.").is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_seen() {
        let file = |text: String| File { path: "a.md".to_owned(), bytes: 0, text: Some(text) };
        let count = |text: String| {
            let mut complaints = Vec::new();
            check_file(&file(text), &mut complaints);
            complaints.len()
        };
        assert_eq!(count(format!("in {}x", MACHINE_PATHS[1])), 1);
        assert_eq!(count(format!("https://a.example{}x or $HOME{}x", MACHINE_PATHS[2], MACHINE_PATHS[0])), 0);
    }

    #[test]
    fn a_long_line_is_counted_in_characters() {
        assert!(in_source("crates/a/src/a.rs", &"é".repeat(LINE_CHARS_MAX)).is_empty());
        assert_eq!(in_source("crates/a/src/a.rs", &format!("// {}", "a".repeat(LINE_CHARS_MAX))).len(), 1);
    }
}
