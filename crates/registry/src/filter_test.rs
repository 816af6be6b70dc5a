//! Filters: what they choose, what they refuse, and that nothing makes them panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::filter::{Fields, Filter, FilterError, Kind};

const CHECK: Fields = &[("Status", Kind::Text), ("Name", Kind::Text)];
const SHAPE: Kind = Kind::Object(&[
    ("Port", Kind::Number),
    ("On", Kind::Truth),
    ("Name", Kind::Text),
    ("Tags", Kind::Texts),
    ("Meta", Kind::TextMap),
    ("Checks", Kind::Objects(CHECK)),
    ("Node", Kind::Object(&[("Address", Kind::Text)])),
]);

fn thing() -> Value {
    json!({
        "Port": 80, "On": true, "Name": "web-1", "Tags": ["v1", "blue"], "Meta": {"zone": "a", "a-b": "c d"},
        "Checks": [{"Status": "passing", "Name": "x"}, {"Status": "critical", "Name": "y"}],
        "Node": {"Address": "10.0.0.1"},
    })
}

fn holds(text: &str) -> bool {
    Filter::parse(text, SHAPE).unwrap_or_else(|error| panic!("{text}: {error}")).matches(&thing())
}

#[test]
fn what_holds() {
    for text in [
        "Port == 80",
        "Port==80",
        "Port != -1",
        "On == true",
        "Name == \"web-1\"",
        "Name == `web-1`",
        "v1 in Tags",
        "\"v1\" in Tags and blue in Tags",
        "Tags contains v1",
        "Tags not contains green",
        "green not in Tags",
        "Tags is not empty",
        "Meta.zone == a",
        "Meta[\"a-b\"] == \"c d\"",
        "zone in Meta",
        "Meta.none != a",
        "none not in Meta",
        "Name matches `^web-[0-9]$`",
        "Name not matches db",
        "web in Name",
        "Checks.Status == critical",
        "Checks.Status != critical",
        "Checks is not empty",
        "Node.Address == \"10.0.0.1\"",
        "not Port == 81",
        "not (Port == 81 or Name == x)",
        "Port == 81 or Port == 80 and Name == \"web-1\"",
        " ( Port == 80 ) ",
        "not not Port == 80",
    ] {
        assert!(holds(text), "{text}");
    }
    for text in ["Port == 81", "On == false", "Tags is empty", "Meta.none == a", "Port == 80 and Port == 81"] {
        assert!(!holds(text), "{text}");
    }
    assert!(!holds("Port == 81 and Port == 80 or Port == 82"));
}

#[test]
fn what_is_refused_says_why() {
    let error = |text: &str| Filter::parse(text, SHAPE).expect_err(text);
    for text in [
        "",
        "Port",
        "Port ==",
        "== 80",
        "Port = 80",
        "(Port == 80",
        "Port == 80)",
        "Port == 80 80",
        "x ==",
        "\"a",
        "80x in Tags",
        "and",
        "Name == \"a\\",
        "Meta[a] == b",
        "Port == 80 and",
        "Meta.",
        "é == 1",
    ] {
        assert!(matches!(error(text), FilterError::Syntax { .. }), "{text}");
    }
    assert_eq!(error("Nope == 1"), FilterError::Selector("Nope".into()));
    assert_eq!(error("Port.x == 1"), FilterError::Selector("Port.x".into()));
    assert!(matches!(error("Port == abc"), FilterError::Value { .. }));
    assert!(matches!(error("Port == 1.5"), FilterError::Value { .. }));
    assert!(matches!(error("On == maybe"), FilterError::Value { .. }));
    assert!(matches!(error("Tags == v1"), FilterError::Operator { .. }));
    assert!(matches!(error("Port is empty"), FilterError::Operator { .. }));
    assert!(matches!(error("Name matches \"(\""), FilterError::Pattern { .. }));
    assert_eq!(error(&"(".repeat(8_000)), FilterError::TooLarge);
    assert_eq!(error(&"not ".repeat(2_000)), FilterError::TooLarge);
    assert_eq!(error(&"x".repeat(9_000)), FilterError::TooLarge);
}

/// An expression as a tree, to be written down and to be judged without a parser.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(&'static str, bool),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Tree::Leaf(text, _) => (*text).to_owned(),
            Tree::Not(one) => format!("not ({})", one.text()),
            Tree::And(a, b) => format!("({}) and ({})", a.text(), b.text()),
            Tree::Or(a, b) => format!("{} or {}", a.text(), b.text()),
        }
    }

    fn judge(&self) -> bool {
        match self {
            Tree::Leaf(_, holds) => *holds,
            Tree::Not(one) => !one.judge(),
            Tree::And(a, b) => a.judge() && b.judge(),
            Tree::Or(a, b) => a.judge() || b.judge(),
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaves = vec![
        Tree::Leaf("Port == 80", true),
        Tree::Leaf("Port != 80", false),
        Tree::Leaf("green in Tags", false),
        Tree::Leaf("Meta.zone == a", true),
        Tree::Leaf("Checks.Name == y", true),
    ];
    prop::sample::select(leaves).prop_recursive(4, 24, 2, |inner| {
        let (a, b) = (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        let pair = (a.clone(), b).boxed();
        prop_oneof![
            a.prop_map(Tree::Not),
            pair.clone().prop_map(|(a, b)| Tree::And(a, b)),
            pair.prop_map(|(a, b)| Tree::Or(a, b)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_expression_means_what_its_tree_means(tree in tree()) {
        let filter = Filter::parse(&tree.text(), SHAPE).expect("an expression");
        prop_assert_eq!(filter.matches(&thing()), tree.judge(), "{}", tree.text());
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        if let Ok(filter) = Filter::parse(&text, SHAPE) {
            filter.matches(&thing());
        }
    }

    #[test]
    fn no_pieces_of_expressions_make_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "Port", "Tags", "Meta", ".", "zone", "[", "]", "\"", "`", "\\", "==", "!=", "in", "not", "is", "empty",
        "contains", "matches", "and", "or", "(", ")", " ", "80", "-", "é", "Checks", "Status", "(?i)", "*", "{1,99999}",
    ]), 0..16)) {
        let text = pieces.concat();
        if let Ok(filter) = Filter::parse(&text, SHAPE) {
            filter.matches(&thing());
        }
    }
}
