//! The grammar of filter expressions: `or`, `and`, `not`, brackets, comparisons; selectors with dots and brackets;
//! values as bare words, numbers, "texts" and `texts`.

use std::fmt;

use crate::filter::{DEPTH_MAX, FilterError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Test(Comparison),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) selector: Selector,
    pub(crate) operator: Operator,
    pub(crate) negated: bool,
    pub(crate) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    Empty,
    In,
    Matches,
}

impl Operator {
    pub(crate) fn word(self, negated: bool) -> &'static str {
        match (self, negated) {
            (Operator::Equal, false) => "Equal",
            (Operator::Equal, true) => "Not Equal",
            (Operator::Empty, false) => "Is Empty",
            (Operator::Empty, true) => "Is Not Empty",
            (Operator::In, false) => "In",
            (Operator::In, true) => "Not In",
            (Operator::Matches, false) => "Matches",
            (Operator::Matches, true) => "Not Matches",
        }
    }
}

/// The names on the way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selector(pub(crate) Vec<String>);

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A selector may turn out to be a value: `web in Service.Tags`.
enum Operand {
    Selector(Selector),
    Value(String),
}

pub(crate) struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Parser<'a> {
        Parser { text, at: 0, depth: 0 }
    }

    pub(crate) fn whole(mut self) -> Result<Expression, FilterError> {
        let expression = self.any()?;
        self.skip_space();
        if self.at == self.text.len() { Ok(expression) } else { Err(self.expected("\"and\", \"or\" or the end")) }
    }

    fn any(&mut self) -> Result<Expression, FilterError> {
        let mut list = vec![self.all()?];
        while self.take_word("or") {
            list.push(self.all()?);
        }
        Ok(one_or(list, Expression::Any))
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut list = vec![self.not()?];
        while self.take_word("and") {
            list.push(self.not()?);
        }
        Ok(one_or(list, Expression::All))
    }

    fn not(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(FilterError::TooLarge);
        }
        let expression = if self.take_word("not") {
            Expression::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                return Err(self.expected("\")\""));
            }
            inner
        } else {
            Expression::Test(self.comparison()?)
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn comparison(&mut self) -> Result<Comparison, FilterError> {
        let began = self.at;
        let left = self.operand()?;
        let negated_in = self.take_words(&["not", "in"]);
        if negated_in || self.take_word("in") {
            let value = left.text();
            let Operand::Selector(selector) = self.operand()? else { return Err(self.expected("a selector")) };
            return Ok(Comparison { selector, operator: Operator::In, negated: negated_in, value });
        }
        let Operand::Selector(selector) = left else {
            self.at = began;
            return Err(self.expected("a selector, or a value followed by \"in\""));
        };
        let (operator, negated) = self.operator()?;
        let value = if operator == Operator::Empty { String::new() } else { self.operand()?.text() };
        Ok(Comparison { selector, operator, negated, value })
    }

    fn operator(&mut self) -> Result<(Operator, bool), FilterError> {
        if self.take("==") {
            return Ok((Operator::Equal, false));
        }
        if self.take("!=") {
            return Ok((Operator::Equal, true));
        }
        let worded: [(&[&str], Operator, bool); 6] = [
            (&["is", "empty"], Operator::Empty, false),
            (&["is", "not", "empty"], Operator::Empty, true),
            (&["contains"], Operator::In, false),
            (&["not", "contains"], Operator::In, true),
            (&["matches"], Operator::Matches, false),
            (&["not", "matches"], Operator::Matches, true),
        ];
        for (words, operator, negated) in worded {
            if self.take_words(words) {
                return Ok((operator, negated));
            }
        }
        Err(self.expected("\"!=\", \"==\", \"contains\", \"in\", \"is\", \"matches\" or \"not\""))
    }

    fn operand(&mut self) -> Result<Operand, FilterError> {
        self.skip_space();
        match self.rest().chars().next() {
            Some('"' | '`') => self.quoted().map(Operand::Value),
            Some(c) if c.is_ascii_alphabetic() => self.selector().map(Operand::Selector),
            Some(c) if c.is_ascii_digit() || c == '-' => Ok(Operand::Value(self.number()?)),
            _ => Err(self.expected("\"(\", \"-\", \"0\", \"\\\"\", \"`\", \"not\", [1-9] or [a-zA-Z]")),
        }
    }

    fn selector(&mut self) -> Result<Selector, FilterError> {
        let mut names = vec![self.name()];
        loop {
            let rest = self.rest();
            let dotted = rest.strip_prefix('.').and_then(|rest| rest.chars().next());
            if dotted.is_some_and(|c| c.is_ascii_alphabetic()) {
                self.at += 1;
                names.push(self.name());
            } else if rest.starts_with('[') {
                self.at += 1;
                self.skip_space();
                if !self.rest().starts_with(['"', '`']) {
                    return Err(self.expected("a quoted name"));
                }
                names.push(self.quoted()?);
                if !self.take("]") {
                    return Err(self.expected("\"]\""));
                }
            } else {
                return Ok(Selector(names));
            }
        }
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '/').unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn number(&mut self) -> Result<String, FilterError> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-' && c != '.').unwrap_or(rest.len());
        let number = &rest[..end];
        let ends_well = rest[end..].chars().next().is_none_or(|c| c.is_whitespace() || c == ')');
        if number.parse::<f64>().is_err() || !ends_well {
            return Err(self.expected("a number"));
        }
        self.at += end;
        Ok(number.to_owned())
    }

    /// A text in double quotes with backslashes, or in back quotes without.
    fn quoted(&mut self) -> Result<String, FilterError> {
        let rest = self.rest();
        let mut chars = rest.char_indices();
        let quote = chars.next().map_or('"', |(_, quote)| quote);
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.at += at + c.len_utf8();
                return Ok(text);
            }
            if c == '\\' && quote == '"' {
                match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, 'r')) => text.push('\r'),
                    Some((_, other @ ('"' | '\\'))) => text.push(other),
                    Some((_, other)) => text.extend(['\\', other]),
                    None => break,
                }
            } else {
                text.push(c);
            }
        }
        self.at = self.text.len();
        Err(self.expected("the closing quote"))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip_space();
        let taken = self.rest().starts_with(sign);
        if taken {
            self.at += sign.len();
        }
        taken
    }

    /// Takes a word that no further letter follows.
    fn take_word(&mut self, word: &str) -> bool {
        let began = self.at;
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "_/.[".contains(c));
        if self.take(word) && self.rest().chars().next().is_none_or(ends) {
            return true;
        }
        self.at = began;
        false
    }

    /// Takes several words or none of them.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let began = self.at;
        let taken = words.iter().all(|word| self.take_word(word));
        if !taken {
            self.at = began;
        }
        taken
    }

    fn expected(&self, expected: &'static str) -> FilterError {
        FilterError::Syntax { offset: self.at, expected }
    }
}

impl Operand {
    fn text(self) -> String {
        match self {
            Operand::Selector(selector) => selector.to_string(),
            Operand::Value(value) => value,
        }
    }
}

fn one_or(mut list: Vec<Expression>, several: fn(Vec<Expression>) -> Expression) -> Expression {
    if list.len() == 1 { list.remove(0) } else { several(list) }
}
