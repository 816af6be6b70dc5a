//! The repository itself is tidy. What is wrong is listed with its place; `cargo run -p xtask -- tidy` says the same.

#[test]
fn the_repository_is_tidy() {
    let complaints = xtask::tidy::check(&xtask::workspace_root()).expect("every file can be read");
    let list: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} complaints:\n{}", list.len(), list.join("\n"));
}
