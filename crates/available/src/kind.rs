use std::fmt;
use std::str::FromStr;

/// How concurrent writes of a key become one value: declared with the bucket, the same for all its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// They do not: they stay side by side until a client that saw them writes again.
    #[default]
    Value,
    /// The one with the greatest Lamport time is shown.
    LastWriter,
    /// They are added up.
    Counter,
    /// All elements are there; of an addition and a removal that did not see each other, the addition stays.
    Set,
    /// As a set of fields; of two concurrent values of a field, the one with the greater Lamport time is shown.
    Map,
}

/// A merge type that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("type `{0}` is not offered: use value, last-writer, counter, set or map")]
pub struct UnknownKind(pub String);

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [Kind::Value, Kind::LastWriter, Kind::Counter, Kind::Set, Kind::Map];

    /// Its name in a bucket's settings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::LastWriter => "last-writer",
            Kind::Counter => "counter",
            Kind::Set => "set",
            Kind::Map => "map",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Kind, UnknownKind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownKind(name.to_owned()))
    }
}
