//! What may stand in a history, and what each broken line is told.

use history::{Event, EventKind, Function, Outcome, Process, Reader, Value, Writer, read};

fn error_of(text: &str) -> String {
    read(text.as_bytes()).expect_err("a broken history").to_string()
}

#[test]
fn a_line_of_our_own_says_everything_and_is_written_as_it_was_read() {
    let line = [
        r#"{"index":0,"time":17,"process":3,"type":"ok","f":"cas","key":"records/k1","value":["a",null],"#,
        r#""applied":false,"level":"strict","trace_id":"t","request_id":"r"}"#,
    ]
    .concat();
    let (number, event) = Reader::new(line.as_bytes()).next().expect("a line").expect("a good line");
    assert_eq!((number, event.applied, &event.f), (1, Some(false), &Function::Cas));
    let mut writer = Writer::new(Vec::new());
    assert_eq!(writer.write(&event).expect("memory takes it"), 1);
    assert_eq!(String::from_utf8(writer.into_inner()).expect("UTF-8").trim_end(), line);
}

#[test]
fn the_writer_numbers_lines_that_have_no_number() {
    let mut writer = Writer::new(Vec::new());
    let event = Event::new(Process::Client(0), EventKind::Invoke, Function::Read, Value::Null, Value::Null);
    assert_eq!(writer.write(&event).expect("memory takes it"), 1);
    assert_eq!(writer.write(&event).expect("memory takes it"), 2);
    let text = String::from_utf8(writer.into_inner()).expect("UTF-8");
    let indices: Vec<_> =
        Reader::new(text.as_bytes()).map(|event| event.expect("a good line").1.index.expect("an index")).collect();
    assert_eq!(indices, [0, 1]);
}

#[test]
fn others_may_leave_out_or_add_fields_and_spell_processes_and_keys_their_way() {
    let text = "\u{feff}{\"process\":\"7\",\"type\":\"invoke\",\"f\":\"write\",\"key\":5,\"value\":1.0,\"x\":{}}\r\n\
                \n\
                {\"process\":7,\"type\":\"ok\",\"trace_id\":\"t\"}\n\
                {\"process\":\"alice\",\"type\":\"invoke\",\"f\":\"read\",\"time\":0.5,\"index\":null}\n";
    let history = read(text.as_bytes()).expect("a good history");
    let write = &history.operations[0];
    assert_eq!(write.process, Process::Client(7));
    assert_eq!((&write.key, &write.input), (&Value::from(5), &Value::from(1)));
    assert_eq!((write.invoked_at, write.completed_at, write.outcome), (1, Some(3), Outcome::Ok));
    assert_eq!(write.trace_id.as_deref(), Some("t"));
    let read = &history.operations[1];
    assert_eq!(read.process, Process::Named("alice".to_owned()));
    assert_eq!((read.outcome, read.completed_at), (Outcome::Info, None), "never answered is unknown");
    assert_eq!(history.events, 3);
}

#[test]
fn faults_stand_apart_and_may_carry_anything() {
    let text = r#"{"process":"nemesis","type":"info","f":"kill","value":{"target":"n1","ids":[1]}}
{"process":"nemesis","f":"heal"}"#;
    let history = read(text.as_bytes()).expect("a good history");
    assert!(history.operations.is_empty());
    let kinds: Vec<_> = history.faults.iter().map(|fault| (fault.line, fault.event.f.name())).collect();
    assert_eq!(kinds, [(1, "kill"), (2, "heal")]);
}

#[test]
fn unknown_stays_open_and_its_process_may_go_on() {
    let text = r#"{"process":0,"type":"invoke","f":"write","key":"k","value":1}
{"process":0,"type":"info","f":"write","key":"k","value":1}
{"process":0,"type":"invoke","f":"write","key":"k","value":2}
{"process":0,"type":"fail","f":"write","key":"k","value":2}"#;
    let history = read(text.as_bytes()).expect("a good history");
    let ends: Vec<_> = history.operations.iter().map(|operation| (operation.outcome, operation.completed_at)).collect();
    assert_eq!(ends, [(Outcome::Info, None), (Outcome::Fail, Some(4))]);
}

#[test]
fn every_broken_line_is_named_with_its_reason() {
    let good = "{\"process\":0,\"type\":\"invoke\",\"f\":\"read\",\"key\":\"k\"}\n";
    for (broken, says) in [
        ("{\"process\":0,\"ty", "line 2: is not JSON"),
        ("[0,\"invoke\"]", "line 2: is not a JSON object"),
        ("{\"type\":\"ok\"}", "line 2: `process` must be there"),
        ("{\"process\":[],\"type\":\"ok\"}", "line 2: `process` must be a number or a string"),
        ("{\"process\":0}", "line 2: `type` must be there"),
        ("{\"process\":0,\"type\":\"done\"}", "line 2: `type` must be one of"),
        ("{\"process\":1,\"type\":\"invoke\"}", "line 2: `f` must be there"),
        ("{\"process\":1,\"type\":\"invoke\",\"f\":3}", "line 2: `f` must be a string"),
        ("{\"process\":0,\"type\":\"ok\",\"applied\":1}", "line 2: `applied` must be true or false"),
        (good.trim(), "line 2: process 0 invokes while its operation of line 1 is still open"),
        ("{\"process\":1,\"type\":\"ok\",\"f\":\"read\"}", "line 2: process 1 completes an operation that it never"),
        ("{\"process\":0,\"type\":\"ok\",\"f\":\"write\"}", "line 2: process 0 completes another `f`"),
        ("{\"process\":0,\"type\":\"ok\",\"key\":\"j\"}", "line 2: process 0 completes another `key`"),
    ] {
        let error = error_of(&format!("{good}{broken}"));
        assert!(error.starts_with(says), "{broken}: {error}");
    }
}

#[test]
fn bytes_that_are_no_text_and_endless_lines_are_refused() {
    let error = read(&b"\xff\xfe{}\n"[..]).expect_err("no UTF-8").to_string();
    assert_eq!(error, "line 1: is not UTF-8");
    let endless = std::io::BufReader::new(std::io::repeat(b' '));
    let error = read(endless).expect_err("no end").to_string();
    assert!(error.starts_with("line 1: is longer than"), "{error}");
}

#[test]
fn reading_ends_at_the_first_error() {
    let mut reader = Reader::new(&b"nonsense\n{\"process\":0,\"type\":\"invoke\",\"f\":\"read\"}\n"[..]);
    assert!(reader.next().expect("a line").is_err());
    assert!(reader.next().is_none());
}

#[test]
fn deep_nesting_is_an_error_and_not_a_crash() {
    let text = format!("{{\"process\":0,\"type\":\"invoke\",\"f\":\"write\",\"value\":{}", "[".repeat(100_000));
    assert!(error_of(&text).starts_with("line 1: is not JSON"));
}
