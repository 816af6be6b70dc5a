//! Filter expressions (`filter=Service.Port == 80 and "v1" in Service.Tags`), in the grammar of Consul's clients.
//!
//! An expression is read against a [`Kind`], the shape of the things that are filtered: a selector that does not exist,
//! a value that is no number where one is, or an operator that does not fit is an error before anything is compared.
//! No text makes it panic, nest without bound, or take more than linear time in what it is matched against.
//!
//! ```
//! use registry::filter::{Filter, Kind};
//! use serde_json::json;
//!
//! let shape = Kind::Object(&[("Port", Kind::Number), ("Tags", Kind::Texts)]);
//! let filter = Filter::parse("Port == 80 and not (Tags is empty)", shape).expect("an expression");
//! assert!(filter.matches(&json!({"Port": 80, "Tags": ["a"]})));
//! assert!(!filter.matches(&json!({"Port": 80, "Tags": []})));
//! ```

use serde_json::Value;

use crate::filter_parse::{Comparison, Expression, Operator, Parser, Selector};

/// The shape of what is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// A whole number.
    Number,
    /// True or false.
    Truth,
    /// A list of texts.
    Texts,
    /// Texts by name; any name may be asked for.
    TextMap,
    /// Objects by name; any name may be asked for.
    ObjectMap(Fields),
    /// An object.
    Object(Fields),
    /// A list of objects; what is said about a field of theirs must hold for one of them.
    Objects(Fields),
}

/// The fields of an object.
pub type Fields = &'static [(&'static str, Kind)];

/// Why a text is no filter for a shape. The text must be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is not an expression.
    #[error("1:{} ({offset}): no match found, expected: {expected}", .offset + 1)]
    Syntax {
        /// Where it goes wrong, in bytes.
        offset: usize,
        /// What would have gone on.
        expected: &'static str,
    },
    /// It is too long, or its brackets are too deep.
    #[error("the expression is longer than {LENGTH_MAX} bytes, or nested deeper than {DEPTH_MAX}")]
    TooLarge,
    /// There is no such field.
    #[error("Selector {0:?} is not valid")]
    Selector(String),
    /// The field has another kind than the value.
    #[error("Failed to coerce value {value:?} for selector {selector:?}: invalid syntax")]
    Value {
        /// The field.
        selector: String,
        /// The value.
        value: String,
    },
    /// Fields of this kind have no such operator.
    #[error("Invalid match operator {operator:?} for selector {selector:?}")]
    Operator {
        /// The operator.
        operator: &'static str,
        /// The field.
        selector: String,
    },
    /// `matches` takes a regular expression.
    #[error("Failed to compile regular expression {text:?}: {why}")]
    Pattern {
        /// What was given.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The longest expression.
pub const LENGTH_MAX: usize = 8 << 10;
/// The deepest nesting.
pub const DEPTH_MAX: usize = 64;

/// A filter that has been read.
#[derive(Clone, Debug)]
pub struct Filter(Node);

/// An expression whose selectors and values fit the shape.
#[derive(Clone, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Test),
}

#[derive(Clone, Debug)]
struct Test {
    path: Vec<String>,
    negated: bool,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Equal(Value),
    Empty,
    Holds(String),
    Matches(regex_lite::Regex),
}

impl Filter {
    /// Reads an expression about things of a shape.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn parse(text: &str, shape: Kind) -> Result<Filter, FilterError> {
        if text.len() > LENGTH_MAX {
            return Err(FilterError::TooLarge);
        }
        let expression = Parser::new(text).whole()?;
        bind(expression, shape).map(Filter)
    }

    /// Whether the expression holds for a thing. What the thing lacks is as good as empty.
    pub fn matches(&self, thing: &Value) -> bool {
        holds(&self.0, thing)
    }
}

fn bind(expression: Expression, shape: Kind) -> Result<Node, FilterError> {
    let all = |list: Vec<Expression>| list.into_iter().map(|one| bind(one, shape)).collect::<Result<Vec<_>, _>>();
    Ok(match expression {
        Expression::All(list) => Node::All(all(list)?),
        Expression::Any(list) => Node::Any(all(list)?),
        Expression::Not(one) => Node::Not(Box::new(bind(*one, shape)?)),
        Expression::Test(comparison) => Node::Test(bind_test(comparison, shape)?),
    })
}

fn bind_test(comparison: Comparison, shape: Kind) -> Result<Test, FilterError> {
    let Comparison { selector, operator, negated, value } = comparison;
    let kind = kind_of(&selector, shape)?;
    let shown = selector.to_string();
    let wrong_operator = || FilterError::Operator { operator: operator.word(negated), selector: shown.clone() };
    let wrong_value = || FilterError::Value { selector: shown.clone(), value: value.clone() };
    let what = match (operator, kind) {
        (Operator::Equal, Kind::Text) => What::Equal(Value::String(value)),
        (Operator::Equal, Kind::Number) => What::Equal(Value::from(value.parse::<i64>().map_err(|_| wrong_value())?)),
        (Operator::Equal, Kind::Truth) => match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => What::Equal(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => What::Equal(Value::Bool(false)),
            _ => return Err(wrong_value()),
        },
        (Operator::In, Kind::Text | Kind::Texts | Kind::TextMap | Kind::ObjectMap(_)) => What::Holds(value),
        (Operator::Empty, Kind::Texts | Kind::TextMap | Kind::ObjectMap(_) | Kind::Objects(_)) => What::Empty,
        (Operator::Matches, Kind::Text) => {
            let pattern = regex_lite::Regex::new(&value);
            What::Matches(pattern.map_err(|error| FilterError::Pattern { text: value, why: error.to_string() })?)
        }
        _ => return Err(wrong_operator()),
    };
    Ok(Test { path: selector.0, negated, what })
}

fn kind_of(selector: &Selector, shape: Kind) -> Result<Kind, FilterError> {
    let mut kind = shape;
    for name in &selector.0 {
        kind = match kind {
            Kind::Object(fields) | Kind::Objects(fields) => {
                let found = fields.iter().find(|(field, _)| field == name);
                found.map(|(_, kind)| *kind).ok_or_else(|| FilterError::Selector(selector.to_string()))?
            }
            Kind::TextMap => Kind::Text,
            Kind::ObjectMap(fields) => Kind::Object(fields),
            _ => return Err(FilterError::Selector(selector.to_string())),
        };
    }
    Ok(kind)
}

fn holds(node: &Node, thing: &Value) -> bool {
    match node {
        Node::All(list) => list.iter().all(|one| holds(one, thing)),
        Node::Any(list) => list.iter().any(|one| holds(one, thing)),
        Node::Not(one) => !holds(one, thing),
        Node::Test(test) => holds_at(test, &test.path, thing),
    }
}

fn holds_at(test: &Test, path: &[String], thing: &Value) -> bool {
    let Some((name, rest)) = path.split_first() else { return compare(test, thing) };
    match thing {
        Value::Array(list) => list.iter().any(|one| holds_at(test, path, one)),
        Value::Object(map) => match map.get(name) {
            Some(inner) => holds_at(test, rest, inner),
            None => test.negated != matches!(test.what, What::Empty),
        },
        // What is not there is none of what is asked for.
        _ => test.negated != matches!(test.what, What::Empty),
    }
}

fn compare(test: &Test, thing: &Value) -> bool {
    let found = match &test.what {
        What::Equal(value) => thing == value,
        What::Empty => match thing {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => thing.is_null(),
        },
        What::Holds(value) => match thing {
            Value::String(text) => text.contains(value.as_str()),
            Value::Array(list) => list.iter().any(|one| one.as_str() == Some(value.as_str())),
            Value::Object(map) => map.contains_key(value),
            _ => false,
        },
        What::Matches(pattern) => thing.as_str().is_some_and(|text| pattern.is_match(text)),
    };
    found != test.negated
}
