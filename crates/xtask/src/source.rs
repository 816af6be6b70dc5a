//! One Rust file, taken apart: its lines, its functions, and which of it is test.

use crate::lexer::{self, Parts, is_word};

/// A Rust file.
#[derive(Clone, Debug)]
pub struct Source {
    /// From the root of the repository.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Its code and its comments.
    pub parts: Parts,
    /// Its functions, in order.
    pub functions: Vec<Function>,
    /// The lines of inline test modules, from 1, both ends included.
    test_lines: Vec<(usize, usize)>,
    /// Whether all of it is test.
    test_file: bool,
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

impl Source {
    /// Takes a file apart. `test_file`: it lies in a test folder, or is declared as a test module.
    pub fn new(path: &str, text: &str, test_file: bool) -> Source {
        let parts = lexer::split(text);
        let functions = functions(&parts.code);
        let test_lines = test_modules(&parts.code).into_iter().filter_map(|module| module.inline).collect();
        Source { path: path.to_owned(), text: text.to_owned(), parts, functions, test_lines, test_file }
    }

    /// Whether this line is test.
    pub fn is_test(&self, line: usize) -> bool {
        self.test_file || self.test_lines.iter().any(|(first, last)| (*first..=*last).contains(&line))
    }

    /// Paths of the files that this one declares as test modules.
    pub fn declared_tests(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "lib" | "main" | "mod")) => folder,
            _ => stem,
        };
        let declared = test_modules(&self.parts.code).into_iter().filter(|module| module.inline.is_none());
        declared.map(|module| format!("{folder}/{}.rs", module.name)).collect()
    }
}

struct TestModule {
    name: String,
    inline: Option<(usize, usize)>,
}

/// The modules that stand right under `#[cfg(test)]`.
fn test_modules(code: &str) -> Vec<TestModule> {
    let mut found = Vec::new();
    for (start, marker) in code.match_indices("#[cfg(test)]") {
        let after = start + marker.len();
        let rest = code[after..].trim_start();
        let Some(rest) = rest.strip_prefix("pub ").unwrap_or(rest).strip_prefix("mod ") else { continue };
        let name: String = rest.chars().take_while(|one| is_word(*one)).collect();
        let opening = code.len() - rest.len() + name.len();
        let inline = match code[opening..].trim_start().starts_with('{') {
            true => closing_brace(code, opening).map(|end| (line_of(code, start), line_of(code, end))),
            false => None,
        };
        found.push(TestModule { name, inline });
    }
    found
}

fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        if code[..start].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let name: String = code[start + 3..].trim_start().chars().take_while(|one| is_word(*one)).collect();
        if name.is_empty() {
            continue;
        }
        let Some(opening) = body(code, start) else { continue };
        let Some(end) = closing_brace(code, opening) else { continue };
        let line = line_of(code, start);
        found.push(Function { name, line, lines: line_of(code, end) + 1 - line });
    }
    found
}

/// Where the body of the function at `start` opens; none for a mere declaration.
fn body(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, one) in code[start..].char_indices() {
        match one {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '{' if depth == 0 => return Some(start + at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The brace that closes the next one opened from `from` on.
fn closing_brace(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, one) in code[from..].char_indices() {
        match one {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(from + at);
                }
            }
            _ => {}
        }
    }
    None
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
//! A thing.
pub fn one(a: [u8; 2]) -> u8 {
    let text = \"fn not_me() {\";
    a[0]
}
trait T {
    fn declared(&self);
    fn given(&self) {}
}
#[cfg(test)]
mod one_test;
#[cfg(test)]
mod tests {
    fn helps() {
    }
}
";

    #[test]
    fn functions_are_found_with_their_length() {
        let source = Source::new("crates/x/src/lib.rs", TEXT, false);
        let found: Vec<_> = source.functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(found, [("one", 2, 4), ("given", 8, 1), ("helps", 14, 2)]);
    }

    #[test]
    fn tests_are_told_from_the_rest() {
        let source = Source::new("crates/x/src/lib.rs", TEXT, false);
        assert!(!source.is_test(9) && source.is_test(12) && source.is_test(16));
        assert_eq!(source.declared_tests(), ["crates/x/src/one_test.rs"]);
        assert_eq!(Source::new("crates/x/src/a.rs", TEXT, false).declared_tests(), ["crates/x/src/a/one_test.rs"]);
    }
}
