//! What each replica of a key holds, and what became of a write of which no more is known than its id.

use serde_json::{Value, json};

use crate::fake::{Answer, Bench, Mood, homes_of, replicas_of};

const K: &str = "/v1/kv/sessions/k";

fn replicas(told: &Answer) -> Vec<Value> {
    assert_eq!(told.status, 200, "{told:?}");
    told.json()["replicas"].as_array().expect("a list").clone()
}

#[actix_web::test]
async fn an_available_key_is_explained_by_its_homes() {
    let bench = Bench::new();
    bench.put(K, "a").await;
    bench.put(K, "b").await;
    let silent = homes_of(2, "k")[2];
    bench.nodes.set_mood(silent, Mood::Down);
    let told = bench.get("/v1/explain/sessions/k").await;
    let answer = told.json();
    assert_eq!(
        (&answer["contract"], &answer["bucket"], &answer["key"]),
        (&"available".into(), &"sessions".into(), &"k".into())
    );
    assert_eq!(answer["identifier"].as_str().map(str::len), Some(16));
    // How the read came about, with the tag that settles what it shows.
    let read = &answer["read"];
    assert_eq!((&read["answered"], &read["shows"]), (&true.into(), &"siblings".into()));
    let etag = read["etag"].as_str().expect("an ETag").to_owned();
    assert_eq!(read["receipt"], told.header("everring-receipt"));
    assert!(read["how"].as_str().is_some_and(|how| how.starts_with("one home answered alone")), "{read}");
    // Each home, whether it answered or not, and nobody else.
    let names: Vec<String> = homes_of(2, "k").iter().map(|home| format!("n{}", home.0)).collect();
    let held = replicas(&told);
    assert_eq!(held.len(), 3);
    for replica in &held {
        let name = replica["node"].as_str().expect("a name").to_owned();
        assert!(names.contains(&name) && replica["home"] == true, "{replica}");
        if name == format!("n{}", silent.0) {
            assert_eq!((&replica["answered"], replica["why"].is_string()), (&false.into(), true), "{replica}");
            continue;
        }
        assert_eq!(
            (&replica["answered"], &replica["counts"], &replica["alive"]),
            (&true.into(), &true.into(), &2.into())
        );
        assert_eq!((&replica["tombstone"], &replica["hints"]), (&false.into(), &0.into()));
        let up_to = replica["version"]["up_to"]["n1/1"].as_u64().expect("a counter");
        let last = replica["dots"][1].as_str().expect("a dot");
        assert_eq!(last, format!("{up_to}@n1/1"));
    }
    assert_eq!(bench.ask(&format!("DELETE {K}"), &[("if-match", &etag)], "").await.status, 204);
    let told = bench.get("/v1/explain/sessions/k").await;
    assert_eq!(told.json()["read"]["shows"], "absent");
    assert!(replicas(&told).iter().filter(|one| one["answered"] == true).all(|one| one["tombstone"] == true));
}

#[actix_web::test]
async fn hints_are_found_wherever_they_wait_also_while_no_home_answers() {
    let bench = Bench::new();
    bench.nodes.stand_in_with(10);
    let homes = homes_of(2, "k");
    homes.iter().for_each(|home| bench.nodes.set_mood(*home, Mood::Down));
    assert_eq!(bench.put(&format!("{K}?consistency=eventual"), "v").await.status, 200);
    let told = bench.ask("GET /v1/explain/sessions/k", &[("everring-deadline-ms", "200")], "").await;
    let read = &told.json()["read"];
    assert_eq!((&read["answered"], &read["problem"]), (&false.into(), &"no-quorum".into()), "{read}");
    assert!(told.json()["hints"].as_u64() >= Some(1), "{told:?}");
    let keepers: Vec<Value> = replicas(&told).into_iter().filter(|one| one["home"] == false).collect();
    assert!(!keepers.is_empty() && keepers.iter().all(|one| one["hints"] == 1), "{keepers:?}");
    let other = bench.ask("GET /v1/explain/sessions/other", &[("everring-deadline-ms", "200")], "").await;
    assert_eq!(other.json()["hints"], 0);
}

#[actix_web::test]
async fn an_ordered_key_is_explained_in_the_same_shape() {
    let bench = Bench::new();
    let absent = bench.get("/v1/explain/records/a%2Fb/c").await;
    assert_eq!((&absent.json()["key"], &absent.json()["read"]["shows"]), (&"a/b/c".into(), &"absent".into()));
    let etag = bench.put("/v1/kv/records/k", "four").await.header("etag").to_owned();
    let told = bench.get("/v1/explain/records/k").await;
    let read = &told.json()["read"];
    assert_eq!((&read["shows"], &read["etag"]), (&"value".into(), &json!(etag)));
    let held = replicas(&told);
    assert_eq!(held.len(), replicas_of("k").len());
    for replica in held {
        assert_eq!(
            (&replica["version"], &replica["size"], &replica["tombstone"]),
            (&json!(etag), &4.into(), &false.into())
        );
        assert!(replica["ballot"].is_string());
    }
    assert_eq!(bench.get("/v1/explain/records/k?x=1").await.code(), "bad-request");
    assert_eq!(bench.get("/v1/explain/none/k").await.code(), "no-such-bucket");
}

#[actix_web::test]
async fn what_became_of_a_write_is_told_at_another_gateway_by_its_id_alone() {
    let bench = Bench::new();
    let at = Bench::beside(&bench.nodes);
    for (line, id) in [
        ("PUT /v1/kv/records/o/k", "request-ordered"),
        (&*format!("PUT {K}"), "request-available"),
        ("PUT /v1/kv/cache/m", "request-in-memory"),
    ] {
        let made = bench.ask(line, &[("everring-request-id", id)], "v").await;
        assert_eq!(made.status, 201, "{made:?}");
        // One replica that cannot be asked hides nothing.
        at.nodes.set_mood(homes_of(2, "k")[0], Mood::Down);
        let told = at.get(&format!("/v1/requests/{id}")).await;
        assert_eq!(told.status, 200, "{told:?}");
        let path =
            format!("/v1/kv/{}/{}", told.json()["bucket"].as_str().unwrap(), told.json()["key"].as_str().unwrap());
        assert_eq!((line, &told.json()["outcome"]), (&*format!("PUT {path}"), &"done".into()));
        bench.nodes.set_all(Mood::Sound);
    }
}

#[actix_web::test]
async fn of_a_request_that_nobody_remembers_or_that_was_of_several_keys_it_is_said_what_to_add() {
    let bench = Bench::new();
    let at = Bench::beside(&bench.nodes);
    let id = [("everring-request-id", "request-one")];
    bench.ask(&format!("PUT {K}"), &id, "v").await;
    bench.ask("PUT /v1/kv/records/k", &id, "v").await;
    let refused = at.get("/v1/requests/request-one").await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad-request"));
    let mut keys = refused.json()["keys"].as_array().expect("the keys").clone();
    keys.sort_by_key(|key| key["bucket"].as_str().map(str::to_owned));
    assert_eq!(keys, [json!({"bucket": "records", "key": "k"}), json!({"bucket": "sessions", "key": "k"})]);
    for bucket in ["records", "sessions"] {
        let told = at.get(&format!("/v1/requests/request-one?bucket={bucket}&key=k")).await;
        assert_eq!((told.status, &told.json()["outcome"]), (200, &"done".into()));
    }
    bench.nodes.forget_requests();
    bench.nodes.set_mood(membership::NodeId(5), Mood::Down);
    let refused = at.get("/v1/requests/request-one").await;
    assert_eq!(
        (refused.status, refused.code().as_str(), &refused.json()["nodes_silent"]),
        (400, "bad-request", &1.into())
    );
    assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains("?bucket=…&key=…")), "{refused:?}");
}
