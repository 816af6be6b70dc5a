//! How a span is kept small: words that return are kept once, the rest of a span is one run of bytes.
//!
//! Keys, names and values of few kinds become a number of one or two bytes. Values of many kinds (ids, ballots) stay
//! where they are: a table of words that only grows would otherwise be a leak.

use std::collections::HashMap;
use std::sync::Arc;

/// A tag's value, as OTLP and Jaeger know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TagValue<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
    Double(f64),
}

impl TagValue<'_> {
    /// Whether it is what a search wrote, where all values are text.
    pub(crate) fn is(&self, text: &str) -> bool {
        match self {
            TagValue::Text(value) => *value == text,
            TagValue::Int(value) => text.parse() == Ok(*value),
            TagValue::Bool(value) => text.parse() == Ok(*value),
            TagValue::Double(value) => text.parse() == Ok(*value),
        }
    }
}

/// A span's name, tags and links, or a process's name and tags.
pub(crate) struct Described<'a> {
    pub(crate) name: &'a str,
    pub(crate) tags: Vec<(&'a str, TagValue<'a>)>,
    /// Trace id and span id of each.
    pub(crate) links: Vec<(u128, u64)>,
}

/// The words that are kept once.
#[derive(Debug, Default)]
pub(crate) struct Words {
    numbers: HashMap<Arc<str>, u32>,
    words: Vec<Arc<str>>,
    /// How many values each key has brought in.
    values: HashMap<u32, u32>,
    /// Bytes of the words, with what a table entry costs.
    pub(crate) bytes: usize,
}

impl Words {
    /// One run of bytes from which [`Words::unpack`] makes the same again.
    pub(crate) fn pack(&mut self, described: &Described<'_>) -> Box<[u8]> {
        let mut out = Vec::with_capacity(64);
        let name = self.number(described.name);
        put_text(&mut out, name, described.name);
        put_number(&mut out, described.tags.len() as u64);
        for (key, value) in &described.tags {
            let key_number = self.number(key);
            put_text(&mut out, key_number, key);
            match value {
                TagValue::Text(text) => {
                    out.push(TEXT);
                    let number = key_number.and_then(|key| self.value_number(key, text));
                    put_text(&mut out, number, text);
                }
                TagValue::Int(number) => {
                    out.push(INT);
                    // Zigzag, so that small negative numbers are small too.
                    put_number(&mut out, ((number << 1) ^ (number >> 63)) as u64);
                }
                TagValue::Bool(truth) => out.push(if *truth { TRUE } else { FALSE }),
                TagValue::Double(number) => {
                    out.push(DOUBLE);
                    out.extend_from_slice(&number.to_bits().to_le_bytes());
                }
            }
        }
        put_number(&mut out, described.links.len() as u64);
        for (trace_id, span_id) in &described.links {
            out.extend_from_slice(&trace_id.to_le_bytes());
            out.extend_from_slice(&span_id.to_le_bytes());
        }
        out.into_boxed_slice()
    }

    /// The reverse of [`Words::pack`]. `packed` must come from it.
    pub(crate) fn unpack<'a>(&'a self, packed: &'a [u8]) -> Described<'a> {
        let mut rest = Bytes(packed);
        let name = rest.text(self);
        let tags = (0..rest.number()).map(|_| (rest.text(self), rest.value(self))).collect();
        let links = (0..rest.number()).map(|_| (u128::from_le_bytes(rest.array()), rest.long())).collect();
        Described { name, tags, links }
    }

    /// Only the name, which comes first.
    pub(crate) fn name<'a>(&'a self, packed: &'a [u8]) -> &'a str {
        Bytes(packed).text(self)
    }

    /// Only the tags, one after the other: a search over everything must not build each span again.
    pub(crate) fn tags<'a>(&'a self, packed: &'a [u8]) -> impl Iterator<Item = (&'a str, TagValue<'a>)> {
        let mut rest = Bytes(packed);
        rest.text(self);
        (0..rest.number()).map(move |_| (rest.text(self), rest.value(self)))
    }

    fn word(&self, number: u64) -> &str {
        self.words.get(number as usize).map_or("", |word| word)
    }

    fn number(&mut self, word: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(word) {
            return Some(*number);
        }
        if self.words.len() >= WORDS_MAX || word.len() > WORD_LEN_MAX {
            return None;
        }
        let number = self.words.len() as u32;
        let word: Arc<str> = word.into();
        self.bytes += word.len() + WORD_COST;
        self.words.push(word.clone());
        self.numbers.insert(word, number);
        Some(number)
    }

    fn value_number(&mut self, key: u32, value: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(value) {
            return Some(*number);
        }
        let brought = self.values.entry(key).or_default();
        if *brought >= VALUES_OF_A_KEY_MAX {
            return None;
        }
        *brought += 1;
        self.number(value)
    }
}

/// A word by its number plus one, or 0, its length and itself.
fn put_text(out: &mut Vec<u8>, number: Option<u32>, text: &str) {
    match number {
        Some(number) => put_number(out, u64::from(number) + 1),
        None => {
            put_number(out, 0);
            put_number(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Seven bits a byte, lowest first, the top bit set on all but the last.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// What is left to read. Reading beyond the end gives zeros: these bytes are our own, so it does not happen.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn number(&mut self) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        self.take(N).try_into().unwrap_or([0; N])
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn text(&mut self, words: &'a Words) -> &'a str {
        match self.number() {
            0 => {
                let len = self.number() as usize;
                std::str::from_utf8(self.take(len)).unwrap_or("")
            }
            number => words.word(number - 1),
        }
    }

    fn value(&mut self, words: &'a Words) -> TagValue<'a> {
        match self.byte() {
            INT => {
                let number = self.number();
                TagValue::Int((number >> 1) as i64 ^ -((number & 1) as i64))
            }
            TRUE => TagValue::Bool(true),
            FALSE => TagValue::Bool(false),
            DOUBLE => TagValue::Double(f64::from_bits(self.long())),
            _ => TagValue::Text(self.text(words)),
        }
    }
}

const TEXT: u8 = 0;
const INT: u8 = 1;
const TRUE: u8 = 2;
const FALSE: u8 = 3;
const DOUBLE: u8 = 4;
/// Words kept once; further ones stay in their spans.
const WORDS_MAX: usize = 65_536;
/// A longer text is not a word.
const WORD_LEN_MAX: usize = 128;
/// A key with more values than this has ids for values.
const VALUES_OF_A_KEY_MAX: u32 = 512;
/// What a word costs besides its letters: two pointers to it, its counts, its number, the table's slack.
const WORD_COST: usize = 80;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(
            name in ".{0,200}",
            texts in prop::collection::vec((".{0,8}", ".{0,140}"), 0..6),
            int: i64,
            double in -1e9f64..1e9,
            links in prop::collection::vec((any::<u128>(), any::<u64>()), 0..3),
        ) {
            let mut words = Words::default();
            let mut tags: Vec<_> = texts.iter().map(|(key, value)| (&key[..], TagValue::Text(value))).collect();
            tags.push(("int", TagValue::Int(int)));
            tags.push(("double", TagValue::Double(double)));
            tags.push(("true", TagValue::Bool(true)));
            tags.push(("false", TagValue::Bool(false)));
            // Twice, since the second time the words are known.
            for _ in 0..2 {
                let described = Described { name: &name, tags: tags.clone(), links: links.clone() };
                let packed = words.pack(&described);
                let read = words.unpack(&packed);
                prop_assert_eq!(read.name, &name);
                prop_assert_eq!(&read.tags, &tags);
                prop_assert_eq!(words.tags(&packed).collect::<Vec<_>>(), read.tags);
                prop_assert_eq!(read.links, links.clone());
            }
        }
    }

    #[test]
    fn values_without_end_do_not_fill_the_table() {
        let mut words = Words::default();
        for id in 0..10_000 {
            let id = format!("{id:032x}");
            words.pack(&Described { name: "PUT", tags: vec![("id", TagValue::Text(&id))], links: vec![] });
        }
        assert!(words.words.len() <= VALUES_OF_A_KEY_MAX as usize + 2, "{}", words.words.len());
    }
}
