/// What a reader can wait for a change of. Each has an index of its own, so that the changes of one service do not wake
/// the readers of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watch {
    /// All there is: everybody who waits for anything is woken. Only a restored snapshot changes it.
    Everything,
    /// The list of nodes.
    Nodes,
    /// A node with its services and checks.
    Node(String),
    /// The names and tags of all services.
    Services,
    /// The instances of one service, with their nodes and checks.
    Service(String),
    /// The states of all checks.
    Checks,
    /// One pair of the KV store.
    Key(String),
    /// All pairs under a prefix.
    Prefix(String),
    /// All sessions.
    Sessions,
    /// One session.
    Session(String),
    /// The events.
    Events,
    /// The access lists. Nobody waits for them, but their changes must reach the disk.
    Acl,
}

impl Watch {
    /// The watches that a change of `self` also concerns: a change of a key concerns every prefix of it.
    pub fn with_prefixes(&self) -> Vec<Watch> {
        let mut concerned = vec![self.clone()];
        if let Watch::Key(key) = self {
            let ends = key.char_indices().map(|(at, _)| at).chain([key.len()]);
            concerned.extend(ends.map(|end| Watch::Prefix(key[..end].to_owned())));
        }
        concerned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_concerns_all_its_prefixes() {
        let prefix = |text: &str| Watch::Prefix(text.to_owned());
        let key = Watch::Key("aé".to_owned());
        assert_eq!(key.with_prefixes(), [key.clone(), prefix(""), prefix("a"), prefix("aé")]);
        assert_eq!(Watch::Nodes.with_prefixes(), [Watch::Nodes]);
    }
}
