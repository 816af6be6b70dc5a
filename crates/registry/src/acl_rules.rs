use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What may be done with a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// It may be looked at.
    Read,
    /// It may be changed too.
    Write,
    /// Nothing. Greatest, since it counts more than what another policy allows.
    Deny,
}

/// What rules are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Resource {
    /// Keys of the KV store.
    Key,
    /// Services, by name.
    Service,
    /// Nodes, by name.
    Node,
    /// Sessions, by the node they are on.
    Session,
    /// Events, by name.
    Event,
    /// An agent's own calls, by its node.
    Agent,
    /// The operator's calls; has no names.
    Operator,
    /// The access lists; has no names.
    Acl,
}

/// Why a text is no set of rules. It has to be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// It is neither HCL nor JSON.
    #[error("Failed to parse ACL rules: {0}")]
    Syntax(String),
    /// It speaks of something that is not known here.
    #[error("Invalid rules: {0}")]
    Meaning(String),
}

/// The rules of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    exact: Vec<(Resource, String, Access)>,
    prefix: Vec<(Resource, String, Access)>,
}

/// The longest text of rules.
const TEXT_MAX: usize = 64 << 10;
/// Deeper brackets than rules ever have are not handed to the parser, whose stack would not last for any depth.
const DEPTH_MAX: usize = 8;

impl Rules {
    /// Reads rules in HCL (`key_prefix "a/" { policy = "read" }`) or in JSON of the same shape.
    ///
    /// # Errors
    /// See [`RulesError`].
    pub fn parse(text: &str) -> Result<Rules, RulesError> {
        let syntax = |why: String| RulesError::Syntax(why);
        if text.trim().is_empty() {
            return Ok(Rules::default());
        }
        if text.len() > TEXT_MAX || depth(text) > DEPTH_MAX {
            return Err(syntax(format!("more than {TEXT_MAX} bytes, or nested deeper than {DEPTH_MAX}")));
        }
        let value: serde_json::Value = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| syntax(error.to_string()))?
        } else if let Some(sign) = expression_in(text) {
            return Err(syntax(format!("{sign:?}: rules hold names and words in quotes, not expressions")));
        } else {
            hcl::from_str(text).map_err(|error| syntax(error.to_string()))?
        };
        let serde_json::Value::Object(map) = value else {
            return Err(RulesError::Meaning("they must be an object".to_owned()));
        };
        let mut rules = Rules::default();
        for (name, value) in map {
            rules.take(&name, &value)?;
        }
        Ok(rules)
    }

    fn take(&mut self, word: &str, value: &serde_json::Value) -> Result<(), RulesError> {
        let unknown = || RulesError::Meaning(format!("{word:?} is not a resource that has rules here"));
        let (resource, of_prefix) = match word {
            "operator" => return self.take_whole(Resource::Operator, word, value),
            "acl" => return self.take_whole(Resource::Acl, word, value),
            // Rules for what is not offered allow nothing here, so they do no harm.
            "query" | "query_prefix" | "keyring" | "mesh" | "peering" | "identity" | "identity_prefix" => return Ok(()),
            _ => match word.strip_suffix("_prefix") {
                Some(stem) => (stem, true),
                None => (word, false),
            },
        };
        let resource = match resource {
            "key" => Resource::Key,
            "service" => Resource::Service,
            "node" => Resource::Node,
            "session" => Resource::Session,
            "event" => Resource::Event,
            "agent" => Resource::Agent,
            _ => return Err(unknown()),
        };
        // HCL gives one object, JSON may give a list of them.
        let lists = match value {
            serde_json::Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for list in lists {
            let names = list.as_object().ok_or_else(|| {
                RulesError::Meaning(format!("{word} needs a name and a block: {word} \"name\" {{ policy = \"read\" }}"))
            })?;
            for (name, block) in names {
                let blocks = match block {
                    serde_json::Value::Array(blocks) => blocks.as_slice(),
                    one => std::slice::from_ref(one),
                };
                for block in blocks {
                    let policy = block.get("policy").and_then(serde_json::Value::as_str);
                    let access = access(word, policy)?;
                    let into = if of_prefix { &mut self.prefix } else { &mut self.exact };
                    into.push((resource, name.clone(), access));
                }
            }
        }
        self.tidy();
        Ok(())
    }

    fn take_whole(&mut self, resource: Resource, word: &str, value: &serde_json::Value) -> Result<(), RulesError> {
        self.prefix.push((resource, String::new(), access(word, value.as_str())?));
        self.tidy();
        Ok(())
    }

    /// Adds another policy's rules.
    pub(crate) fn merge(&mut self, other: &Rules) {
        self.exact.extend(other.exact.iter().cloned());
        self.prefix.extend(other.prefix.iter().cloned());
        self.tidy();
    }

    /// One rule a name: the strongest of several.
    fn tidy(&mut self) {
        for rules in [&mut self.exact, &mut self.prefix] {
            let mut strongest: BTreeMap<(Resource, String), Access> = BTreeMap::new();
            for (resource, name, access) in rules.drain(..) {
                let held = strongest.entry((resource, name)).or_insert(access);
                *held = (*held).max(access);
            }
            rules.extend(strongest.into_iter().map(|((resource, name), access)| (resource, name, access)));
        }
    }

    /// What the rules say of a name; none when they say nothing.
    pub(crate) fn access(&self, resource: Resource, name: &str) -> Option<Access> {
        let exact = self.exact.iter().find(|(of, held, _)| *of == resource && held == name);
        let matching = self.prefix.iter().filter(|(of, held, _)| *of == resource && name.starts_with(held.as_str()));
        let found = exact.or_else(|| matching.max_by_key(|(_, held, _)| held.len()));
        found.map(|(_, _, access)| *access)
    }

    /// Whether every rule for a key under `prefix` says `access`.
    pub(crate) fn all_under(&self, prefix: &str, access: Access) -> bool {
        let mut rules = self.exact.iter().chain(&self.prefix);
        rules.all(|(of, name, found)| *of != Resource::Key || !name.starts_with(prefix) || *found == access)
    }
}

fn access(word: &str, policy: Option<&str>) -> Result<Access, RulesError> {
    match policy {
        Some("read" | "list") => Ok(Access::Read),
        Some("write") => Ok(Access::Write),
        Some("deny") => Ok(Access::Deny),
        Some(other) => Err(RulesError::Meaning(format!("Invalid {word} policy: {other:?}"))),
        None => {
            Err(RulesError::Meaning(format!("{word} has no policy; give policy = \"read\", \"write\" or \"deny\"")))
        }
    }
}

/// What begins an expression, outside of comments; none in rules as people write them. The parser recurses for
/// each sign of one, so a long row of them must not reach it.
fn expression_in(text: &str) -> Option<&'static str> {
    let mut rest = text;
    let mut quoted = false;
    while let Some(c) = rest.chars().next() {
        let mut step = c.len_utf8();
        if quoted {
            match c {
                '\\' => step += rest[step..].chars().next().map_or(0, char::len_utf8),
                '"' => quoted = false,
                '$' | '%' if rest[1..].starts_with('{') => return Some(if c == '$' { "${" } else { "%{" }),
                _ => {}
            }
        } else if c == '#' || rest.starts_with("//") {
            step = rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            step = rest.find("*/").map_or(rest.len(), |at| at + 2);
        } else if c == '"' {
            quoted = true;
        } else {
            let signs = ["!", "?", "(", "<", ">", "&", "|", "+", "-", "*", "/", "%", "$"];
            if let Some(sign) = signs.into_iter().find(|sign| rest.starts_with(sign)) {
                return Some(sign);
            }
        }
        rest = &rest[step..];
    }
    None
}

/// How deep brackets are nested, at most; too many where a text holds brackets.
fn depth(text: &str) -> usize {
    let (mut now, mut most) = (0usize, 0usize);
    for c in text.chars() {
        match c {
            '{' | '[' | '(' => now += 1,
            '}' | ']' | ')' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hcl_and_json_say_the_same() {
        let hcl = r#"
            # who may do what
            key_prefix "app/" { policy = "write" }
            key_prefix "app/secret/" { policy = "deny" }
            key "app/secret/shown" { policy = "read" }
            service "web" {
                policy = "read"
                intentions = "read"
            }
            operator = "read"
        "#;
        let json = r#"{"key_prefix":{"app/":{"policy":"write"},"app/secret/":{"policy":"deny"}},
            "key":{"app/secret/shown":{"policy":"read"}},"service":{"web":{"policy":"read"}},"operator":"read"}"#;
        let rules = Rules::parse(hcl).expect("rules");
        assert_eq!(rules, Rules::parse(json).expect("rules"));
        let key = |name| rules.access(Resource::Key, name);
        assert_eq!(key("app/x"), Some(Access::Write));
        assert_eq!(key("app/secret/x"), Some(Access::Deny));
        assert_eq!(key("app/secret/shown"), Some(Access::Read), "the exact one counts");
        assert_eq!(key("other"), None);
        assert_eq!(rules.access(Resource::Operator, ""), Some(Access::Read));
        assert_eq!(rules.access(Resource::Service, "webber"), None, "a name is no prefix");
        assert!(!rules.all_under("app/", Access::Write));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for bad in [
            "key {",
            "key \"a\" { policy = \"maybe\" }",
            "key \"a\" {}",
            "keys \"a\" { policy = \"read\" }",
            "key = \"read\"",
            "[1]",
            "operator = \"all\"",
        ] {
            assert!(Rules::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Rules::parse(" \n"), Ok(Rules::default()));
        // What a parser that recurses would not survive.
        for sign in ["{", "[", "(", "!", "-", "1?", "a=!", "\"${", "\"%{if ", "1+", "<<A\n"] {
            assert!(Rules::parse(&format!("a = {}", sign.repeat(60_000 / sign.len()))).is_err(), "{sign}");
        }
        let commented = "# why? (a-b) ${x}\n// !\n/* ? */ key \"a-b!?\" { policy = \"read\" }";
        assert_eq!(Rules::parse(commented).map(|rules| rules.access(Resource::Key, "a-b!?")), Ok(Some(Access::Read)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "key", "key_prefix", "policy", "read", "{", "}", "[", "]", "(", ")", "=", "\"", ":", ",", ".", "$", "%",
            "<<", "\n", " ", "#", "a/", "1", "-",
        ]), 0..40)) {
            let _ = Rules::parse(&pieces.concat());
        }
    }
}
