//! The dependency policy: what may stand in Cargo.lock, under which licences, and where from.
//!
//! cargo-deny checks the same and known advisories besides (`make deny`, with `deny.toml`). It takes minutes to install
//! and fetches its advisories from the network, so what must hold on every machine is checked here.

use std::io;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::Complaint;

/// Crates of which the tree holds at most one version: two of them do not see each other's spans or sessions.
const ONCE: [&str; 3] = ["opentelemetry", "opentelemetry_sdk", "rustls"];
/// Crates that must not come in by the back door: C libraries and second TLS stacks.
const NEVER: [&str; 6] = ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "zstd-sys"];
/// The registry that everything comes from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Licences that need no further thought; the list of `deny.toml`.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks what the lock file alone can tell.
pub fn check_lock(lock: &str, complaints: &mut Vec<Complaint>) {
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    let field = |package: &str, name: &str| -> Option<String> {
        let start = format!("{name} = \"");
        package.lines().find_map(|line| Some(line.strip_prefix(&start)?.trim_end_matches('"').to_owned()))
    };
    let names: Vec<String> = packages.iter().filter_map(|package| field(package, "name")).collect();
    let count = |name: &str| names.iter().filter(|found| *found == name).count();
    if count("opentelemetry") != 1 {
        let what = format!("{} versions of opentelemetry, and there must be one", count("opentelemetry"));
        complaints.push(Complaint::new("Cargo.lock", 0, what));
    }
    for name in ONCE.iter().filter(|name| count(name) > 1) {
        complaints.push(Complaint::new("Cargo.lock", 0, format!("{} versions of {name}", count(name))));
    }
    for name in NEVER.iter().filter(|name| count(name) > 0) {
        complaints.push(Complaint::new("Cargo.lock", 0, format!("{name} came in: look who wants it (cargo tree -i)")));
    }
    for package in packages {
        if let Some(source) = field(package, "source").filter(|source| source != SOURCE) {
            let name = field(package, "name").unwrap_or_default();
            complaints.push(Complaint::new("Cargo.lock", 0, format!("{name} comes from {source}, not from crates.io")));
        }
    }
}

/// Asks cargo for every package's licence and holds it against the list.
///
/// # Errors
/// When cargo cannot be run, or its answer cannot be read.
pub fn check_licences(root: &Path) -> io::Result<Vec<Complaint>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let output = command.current_dir(root).args(["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or_else(|| io::Error::other("cargo names no packages"))?;
    let mut complaints = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if allowed(licence) => {}
            licence => {
                let what =
                    format!("{name} is under {}, which is not on the list", licence.unwrap_or("no named licence"));
                complaints.push(Complaint::new("Cargo.lock", 0, what));
            }
        }
    }
    complaints.sort();
    Ok(complaints)
}

/// Whether a licence expression can be met by the list: OR is a choice, AND takes both.
fn allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&tokens, &mut at);
    met && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize) -> bool {
    let mut met = both(tokens, at);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(tokens, at);
    }
    met
}

fn both(tokens: &[&str], at: &mut usize) -> bool {
    let mut met = one(tokens, at);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize) -> bool {
    let Some(first) = tokens.get(*at) else { return false };
    *at += 1;
    if *first == "(" {
        let met = either(tokens, at);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = (*first).to_owned();
    if let (Some(&"WITH"), Some(exception)) = (tokens.get(*at), tokens.get(*at + 1)) {
        name = format!("{name} WITH {exception}");
        *at += 2;
    }
    LICENCES.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_a_choice_or_a_sum() {
        for fine in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND Unicode-3.0"] {
            assert!(allowed(fine), "{fine}");
        }
        assert!(allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
        for wrong in ["GPL-3.0-or-later", "MIT AND GPL-3.0", "(MIT", "", "MIT WITH Some-exception"] {
            assert!(!allowed(wrong), "{wrong}");
        }
    }

    #[test]
    fn the_lock_holds_one_opentelemetry_from_one_registry() {
        let package = |name: &str, source: &str| format!("[[package]]\nname = \"{name}\"\nsource = \"{source}\"\n");
        let check = |lock: &str| {
            let mut complaints = Vec::new();
            check_lock(lock, &mut complaints);
            complaints.len()
        };
        let good = package("opentelemetry", SOURCE);
        assert_eq!(check(&good), 0);
        assert_eq!(check(&format!("{good}{}", package("openssl-sys", SOURCE))), 1);
        assert_eq!(check(&format!("{good}{}", package("x", "git+https://example.org/x"))), 1);
        assert_eq!(check(&format!("{good}{good}")), 2);
        assert_eq!(check(""), 1);
    }
}
