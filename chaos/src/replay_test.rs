use std::io::Write;

use super::*;

fn read(text: &str, format: TraceFormat) -> Result<Recording, ReplayError> {
    parse(text.as_bytes(), format, None)
}

const BLOCKS: &str = "version,time,op,size,lbn\n1,5633898,2a,512,42932745\n1,5633899,28,4096,42932745\n";

fn blocks() -> Vec<Entry> {
    let key = "42932745".to_owned();
    vec![Entry { key: key.clone(), op: Op::Write(512) }, Entry { key, op: Op::Read }]
}

#[test]
fn block_requests_become_reads_and_writes_of_their_block() {
    assert_eq!(read(BLOCKS, TraceFormat::CloudPhysics).expect("two good lines").entries, blocks());
}

#[test]
fn a_packed_trace_reads_as_the_plain_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (plain, packed) = (folder.path().join("t.csv"), folder.path().join("t.csv.gz"));
    std::fs::write(&plain, BLOCKS).expect("written");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&packed).expect("made"), Default::default());
    encoder.write_all(BLOCKS.as_bytes()).expect("packed");
    encoder.finish().expect("ended");
    for path in [plain, packed] {
        let recording = read_trace(&path, TraceFormat::CloudPhysics, None).expect("readable");
        assert_eq!(recording, Recording { entries: blocks(), cut: false });
        let cut = read_trace(&path, TraceFormat::CloudPhysics, Some(1)).expect("readable");
        assert_eq!((cut.entries.len(), cut.cut), (1, true));
    }
}

#[test]
fn cache_requests_are_understood() {
    let text = "0,key1,4,100,7,get,0\n1,key1,4,100,7,set,60\n2,key1,4,0,7,delete,0\n";
    let ops: Vec<Op> =
        read(text, TraceFormat::Twitter).expect("three good lines").entries.iter().map(|entry| entry.op).collect();
    assert_eq!(ops, [Op::Read, Op::Write(100), Op::Delete]);
}

#[test]
fn a_bad_line_is_refused_by_its_number_and_reason() {
    for (text, expected) in [
        ("version,time,op,size,lbn\n1,2,28,512,9\n1,2,99,512,9\n", "line 3 is not of this format: operation `99`"),
        ("1,2,2a,many,9\n", "line 1 is not of this format: `many` is no size"),
        ("1,2,2a,99999999,9\n", "larger than"),
        ("1,2,28,512\n", "5 fields are expected, not 4"),
        ("1,2,28,512,-9\n", "no block number"),
        ("version,time,op,size,lbn\n", "holds no request"),
        ("", "holds no request"),
    ] {
        let error = read(text, TraceFormat::CloudPhysics).expect_err(text).to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    assert!(TraceFormat::from_name("ycsb").expect_err("not offered").to_string().contains("use cloudphysics or"));
}

#[test]
fn a_value_has_its_size_and_is_recognised_byte_by_byte() {
    let bodies = Bodies::default();
    for size in [512, 513, 6_656, 69_632] {
        let body = Bodies::body("42", 7, size);
        assert_eq!(body.len(), size);
        assert_eq!(bodies.shown("42", &body), Bodies::name(7));
    }
    assert_eq!(bodies.shown("42", &Bodies::body("42", 7, 3)), Bodies::name(7), "too small for its heading");
    assert_eq!(bodies.corrupt(), 0);
    let good = Bodies::body("42", 7, 600);
    for at in [0, 3, 300, 599] {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        assert!(bodies.shown("42", &Bytes::from(bad)).starts_with("corrupt-"), "byte {at}");
    }
    assert!(bodies.shown("43", &good).starts_with("corrupt-"), "another key's value");
    assert!(bodies.shown("42", &good.slice(..599)).starts_with("corrupt-"), "a byte is missing");
    assert!(bodies.shown("42", &Bytes::new()).starts_with("corrupt-"));
    assert_eq!(bodies.corrupt(), 7);
}

#[test]
fn two_writes_of_a_key_differ() {
    assert_ne!(Bodies::body("42", 7, 512), Bodies::body("42", 8, 512));
    assert_ne!(Bodies::body("42", 7, 512), Bodies::body("43", 7, 512));
}
