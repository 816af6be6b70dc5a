//! Takes Rust text apart into code and comments, so that a check does not mistake one for the other.

/// The same text twice, line for line: once only its code, once only its comments. Everything else is blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// The code; what stands in strings and characters is blank.
    pub code: String,
    /// The comments, with their slashes.
    pub comments: String,
}

/// Where the scan stands.
enum State {
    Code,
    LineComment,
    /// How many are open: block comments nest.
    BlockComment(usize),
    Text,
    /// How many hashes end it.
    RawText(usize),
}

/// Takes `text` apart. Text that is no Rust gives some result, and never a panic.
pub fn split(text: &str) -> Parts {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Parts::default();
    let mut state = State::Code;
    let mut at = 0;
    while at < chars.len() {
        let (took, next) = match state {
            State::Code => code(&chars, at, &mut parts),
            State::LineComment => line_comment(&chars, at, &mut parts),
            State::BlockComment(depth) => block_comment(&chars, at, depth, &mut parts),
            State::Text => string(&chars, at, &mut parts),
            State::RawText(hashes) => raw_string(&chars, at, hashes, &mut parts),
        };
        state = next;
        at += took;
    }
    parts
}

impl Parts {
    fn code(&mut self, one: char) {
        self.code.push(one);
        self.comments.push(if one == '\n' { '\n' } else { ' ' });
    }

    fn comment(&mut self, one: char) {
        self.comments.push(one);
        self.code.push(if one == '\n' { '\n' } else { ' ' });
    }

    fn blank(&mut self, one: char) {
        let shown = if one == '\n' { '\n' } else { ' ' };
        self.code.push(shown);
        self.comments.push(shown);
    }
}

fn code(chars: &[char], at: usize, parts: &mut Parts) -> (usize, State) {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or(' ');
    let starts_word = at == 0 || !is_word(chars[at - 1]);
    match (chars[at], next(1)) {
        ('/', '/') => (0, State::LineComment),
        ('/', '*') => {
            parts.comment('/');
            parts.comment('*');
            (2, State::BlockComment(1))
        }
        ('"', _) => {
            parts.code('"');
            (1, State::Text)
        }
        ('r' | 'b' | 'c', _) if starts_word => match raw_opening(chars, at) {
            Some((length, hashes)) => {
                (0..length).for_each(|ahead| parts.code(chars[at + ahead]));
                (length, State::RawText(hashes))
            }
            None => {
                parts.code(chars[at]);
                (1, State::Code)
            }
        },
        ('\'', '\\') => {
            // An escaped character: up to its closing quote, which is not the one right behind the backslash.
            let close = (at + 3..chars.len()).find(|place| chars[*place] == '\'').unwrap_or(chars.len() - 1);
            (at..=close).for_each(|place| parts.blank(chars[place]));
            (close + 1 - at, State::Code)
        }
        ('\'', _) if next(2) == '\'' => {
            (0..3).for_each(|ahead| parts.blank(next(ahead)));
            (3, State::Code)
        }
        (one, _) => {
            parts.code(one);
            (1, State::Code)
        }
    }
}

/// The opening of a raw string (`r"`, `br#"`, …) at this place: its length, and how many hashes it has.
fn raw_opening(chars: &[char], at: usize) -> Option<(usize, usize)> {
    let prefix = if chars[at] == 'r' { 1 } else { 2 };
    if prefix == 2 && chars.get(at + 1) != Some(&'r') {
        return None;
    }
    let hashes = chars[at + prefix..].iter().take_while(|one| **one == '#').count();
    (chars.get(at + prefix + hashes) == Some(&'"')).then_some((prefix + hashes + 1, hashes))
}

fn line_comment(chars: &[char], at: usize, parts: &mut Parts) -> (usize, State) {
    parts.comment(chars[at]);
    (1, if chars[at] == '\n' { State::Code } else { State::LineComment })
}

fn block_comment(chars: &[char], at: usize, depth: usize, parts: &mut Parts) -> (usize, State) {
    let depth = match (chars[at], chars.get(at + 1)) {
        ('/', Some('*')) => depth + 1,
        ('*', Some('/')) => depth - 1,
        (one, _) => {
            parts.comment(one);
            return (1, State::BlockComment(depth));
        }
    };
    parts.comment(chars[at]);
    parts.comment(chars[at + 1]);
    (2, if depth == 0 { State::Code } else { State::BlockComment(depth) })
}

fn string(chars: &[char], at: usize, parts: &mut Parts) -> (usize, State) {
    match (chars[at], chars.get(at + 1)) {
        ('\\', Some(escaped)) => {
            parts.blank('\\');
            parts.blank(*escaped);
            (2, State::Text)
        }
        ('"', _) => {
            parts.code('"');
            (1, State::Code)
        }
        (one, _) => {
            parts.blank(one);
            (1, State::Text)
        }
    }
}

fn raw_string(chars: &[char], at: usize, hashes: usize, parts: &mut Parts) -> (usize, State) {
    let closing = chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|one| **one == '#').count() == hashes;
    if closing {
        (0..=hashes).for_each(|ahead| parts.code(chars[at + ahead]));
        (hashes + 1, State::Code)
    } else {
        parts.blank(chars[at]);
        (1, State::RawText(hashes))
    }
}

/// Whether a character can stand in an identifier.
pub fn is_word(one: char) -> bool {
    one.is_alphanumeric() || one == '_'
}

/// The words of a text, each with the line that it stands on, from 1.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate();
    lines.flat_map(|(at, line)| {
        line.split(|one| !is_word(one)).filter(|word| !word.is_empty()).map(move |word| (at + 1, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, comments: &str) {
        let parts = split(text);
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((squeeze(&parts.code).as_str(), squeeze(&parts.comments).as_str()), (code, comments), "{text}");
        assert_eq!(parts.code.lines().count(), text.lines().count(), "lines stay where they are: {text}");
    }

    #[test]
    fn code_and_comments_come_apart() {
        check("let a = 1; // one", "let a = 1;", "// one");
        check("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */");
        check("/// says \"so\"\nfn f() {}", "fn f() {}", "/// says \"so\"");
    }

    #[test]
    fn strings_hide_what_they_hold() {
        check(r#"say("// no \" comment { fn"); x"#, "say(\" \"); x", "");
        check("r#\"a \" // b\"#; y // c", "r#\" \"#; y", "// c");
        check("br\"{\" b\"}\" r#fn", "br\" \" b\" \" r#fn", "");
        check("a\nb\"c\nd\"\ne", "a b\" \" e", "");
    }

    #[test]
    fn characters_are_not_lifetimes() {
        check("f('{', '\\'', '\"') // c", "f( , , )", "// c");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", "");
        check("'\\u{7b}' + b'\\\\'", "+ b", "");
    }

    #[test]
    fn words_know_their_line() {
        let found: Vec<_> = words("one two_2\n three").collect();
        assert_eq!(found, [(1, "one"), (1, "two_2"), (2, "three")]);
    }
}
