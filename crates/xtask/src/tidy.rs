//! All checks of the files together.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::source::Source;
use crate::tree::{File, files};
use crate::{Complaint, deps, ratchet, rooms, text};

/// Files that others make, by the ends of their names.
const MADE_BY_OTHERS: [&str; 3] = ["Cargo.lock", "go.sum", "LICENSE"];

/// Checks everything below `root`; no complaint means that all is well.
///
/// # Errors
/// When a file cannot be read.
pub fn check(root: &Path) -> io::Result<Vec<Complaint>> {
    let files = files(root)?;
    let sources = sources(&files);
    let mut complaints = Vec::new();
    rooms::check_manifests(&files, &mut complaints);
    for file in files.iter().filter(|file| !MADE_BY_OTHERS.iter().any(|end| file.path.ends_with(end))) {
        text::check_file(file, &mut complaints);
        if file.is("md") {
            text::check_prose(&file.path, file.text.as_deref().unwrap_or_default(), &mut complaints);
        }
    }
    for source in &sources {
        text::check_source(source, &mut complaints);
        rooms::check_purity(source, &mut complaints);
    }
    ratchet::check(&sources, text_of(&files, ratchet::LIST), &mut complaints);
    deps::check_lock(text_of(&files, "Cargo.lock"), &mut complaints);
    complaints.sort();
    complaints.dedup();
    Ok(complaints)
}

/// Every Rust file below the root, taken apart.
pub(crate) fn sources(files: &[File]) -> Vec<Source> {
    let rust: Vec<&File> = files.iter().filter(|file| file.is("rs")).collect();
    let in_test_folder =
        |path: &str| path.contains("/tests/") || path.contains("/testing") || path.ends_with("_test.rs");
    let first: Vec<Source> = rust
        .iter()
        .filter_map(|file| Some(Source::new(&file.path, file.text.as_deref()?, in_test_folder(&file.path))))
        .collect();
    let declared: BTreeSet<String> = first.iter().flat_map(Source::declared_tests).collect();
    let again = |source: Source| {
        if declared.contains(&source.path) { Source::new(&source.path, &source.text, true) } else { source }
    };
    first.into_iter().map(again).collect()
}

fn text_of<'a>(files: &'a [File], path: &str) -> &'a str {
    let found = files.iter().find(|file| file.path == path);
    found.and_then(|file| file.text.as_deref()).unwrap_or_default()
}
