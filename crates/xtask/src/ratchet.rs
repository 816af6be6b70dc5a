//! Functions over the limit, against a list that only ever gets shorter.

use std::collections::BTreeMap;

use crate::Complaint;
use crate::source::Source;

/// The longest function, from `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Where the exceptions stand, one a line: path, function, its longest length.
pub const LIST: &str = "crates/xtask/long-functions.txt";

/// Holds all functions against the list. A function may be over the limit only as far as the list says, and an entry
/// that is not needed any more must go.
pub fn check(sources: &[Source], list: &str, complaints: &mut Vec<Complaint>) {
    let mut allowed: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for (at, line) in list.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [path, name, lines] => {
                allowed.insert((path, name), (at + 1, lines.parse().unwrap_or(0)));
            }
            _ => complaints.push(Complaint::new(LIST, at + 1, "is not: path, function, lines")),
        }
    }
    for source in sources {
        for function in source.functions.iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
            let key = (source.path.as_str(), function.name.as_str());
            let limit = allowed.remove(&key).map_or(FUNCTION_LINES_MAX, |(_, lines)| lines);
            if function.lines > limit {
                let what = format!("`{}` has {} lines (at most {limit}): split it", function.name, function.lines);
                complaints.push(Complaint::new(&source.path, function.line, what));
            } else if function.lines < limit {
                let what = format!("`{}` has only {} lines now: write that down", function.name, function.lines);
                complaints.push(Complaint::new(LIST, 0, what));
            }
        }
    }
    for ((path, name), (line, _)) in allowed {
        complaints.push(Complaint::new(LIST, line, format!("`{name}` of {path} is within the limit: strike it out")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(lines: usize, list: &str) -> Vec<String> {
        let text = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(lines - 2));
        let mut complaints = Vec::new();
        check(&[Source::new("a.rs", &text, false)], list, &mut complaints);
        complaints.into_iter().map(|complaint| complaint.to_string()).collect()
    }

    #[test]
    fn the_list_only_gets_shorter() {
        assert!(check_with(70, "").is_empty());
        assert_eq!(check_with(71, "").len(), 1);
        assert!(check_with(80, "# why\na.rs long 80\n").is_empty());
        assert_eq!(check_with(81, "a.rs long 80\n").len(), 1);
        assert_eq!(check_with(75, "a.rs long 80\n").len(), 1, "a shorter function lowers its limit");
        assert_eq!(check_with(60, "a.rs long 80\n").len(), 1, "an entry that is not needed goes");
    }
}
