//! How large, how commented and how tested each crate is. Figures for people to discuss, not limits to enforce.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::ratchet::FUNCTION_LINES_MAX;
use crate::source::Source;
use crate::tidy::sources;
use crate::tree::files;

/// What is counted of one crate, or of all.
#[derive(Clone, Debug, Default)]
struct Figures {
    file_lines: Vec<usize>,
    function_lines: Vec<usize>,
    code: usize,
    comments: usize,
    test_code: usize,
    asserts: usize,
    unwraps: usize,
}

/// The table, as text.
///
/// # Errors
/// When a file cannot be read.
pub fn table(root: &Path) -> io::Result<String> {
    let mut rooms: BTreeMap<String, Figures> = BTreeMap::new();
    let mut all = Figures::default();
    for source in sources(&files(root)?) {
        let parts: Vec<&str> = source.path.split('/').collect();
        let room = if matches!(parts[0], "crates" | "services") { parts[1] } else { parts[0] };
        count(&source, rooms.entry(room.to_owned()).or_default());
        count(&source, &mut all);
    }
    let mut out = String::from(
        "crate           files: number median   p90   max   functions: number   p90  over   comments   test:code  \
         asserts/fn  unwraps/kloc\n",
    );
    for (name, figures) in rooms.iter().map(|(name, figures)| (name.as_str(), figures)).chain([("all", &all)]) {
        let _ = writeln!(out, "{}", line(name, figures));
    }
    out.push_str(
        "\nFiles with their tests; functions, comments, asserts and unwraps without tests. `over`: functions of more\n\
         than 70 lines. Bars: files median 200, p90 500, max 800; functions p90 40, over 1 %; comments 20-33 % in\n\
         cores, 8-20 % in shells; test:code 1.0 in cores, 0.5 in services; asserts 0.5 a function in cores.\n",
    );
    Ok(out)
}

fn count(source: &Source, figures: &mut Figures) {
    figures.file_lines.push(source.text.lines().count());
    let functions = source.functions.iter().filter(|function| !source.is_test(function.line));
    figures.function_lines.extend(functions.map(|function| function.lines));
    for (at, (code, comment)) in source.parts.code.lines().zip(source.parts.comments.lines()).enumerate() {
        let (has_code, has_comment) = (!code.trim().is_empty(), !comment.trim().is_empty());
        if source.is_test(at + 1) {
            figures.test_code += usize::from(has_code);
            continue;
        }
        figures.code += usize::from(has_code);
        figures.comments += usize::from(has_comment && !has_code);
        figures.asserts += code.matches("assert").count();
        figures.unwraps += code.matches(".unwrap()").count();
    }
}

fn line(name: &str, figures: &Figures) -> String {
    let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    let (files, functions) = (&figures.file_lines, &figures.function_lines);
    let over = functions.iter().filter(|lines| **lines > FUNCTION_LINES_MAX).count();
    format!(
        "{name:<15} {:>13} {:>6} {:>5} {:>5}   {:>17} {:>5} {:>5}   {:>7.1}%   {:>9.2}  {:>10.2}  {:>12.2}",
        files.len(),
        at_share(files, 0.5),
        at_share(files, 0.9),
        at_share(files, 1.0),
        functions.len(),
        at_share(functions, 0.9),
        over,
        100.0 * share(figures.comments, figures.comments + figures.code),
        share(figures.test_code, figures.code),
        share(figures.asserts, functions.len()),
        1000.0 * share(figures.unwraps, figures.code),
    )
}

/// The value below which this share of them lies.
fn at_share(values: &[usize], share: f64) -> usize {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_sorted_values() {
        let values: Vec<usize> = (1..=10).rev().collect();
        assert_eq!((at_share(&values, 0.5), at_share(&values, 0.9), at_share(&values, 1.0)), (5, 9, 10));
        assert_eq!(at_share(&[], 0.5), 0);
    }

    #[test]
    fn tests_are_counted_apart() {
        let text = "//! A thing.\nfn f() {\n    assert!(true);\n}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        let mut figures = Figures::default();
        count(&Source::new("crates/a/src/lib.rs", text, false), &mut figures);
        assert_eq!((figures.code, figures.comments, figures.test_code, figures.asserts), (3, 1, 4, 1));
        assert_eq!(figures.function_lines, [3]);
    }
}
