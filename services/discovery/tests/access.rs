//! Access lists over HTTP: what a token may do, and what is left out for those who may not see it.

mod common;

use common::{Fixture, header, read};
use discovery::{AclConfig, Config};
use serde_json::{Value, json};

const ROOT: &str = "11111111-2222-3333-4444-555555555555";

fn start(default_deny: bool) -> Fixture {
    let acl = AclConfig { enabled: true, default_deny, management_token: ROOT.to_owned() };
    Fixture::start_with(Config { acl, ..Config::new("127.0.0.1:0", "discovery") })
}

/// A call with a token.
async fn ask(discovery: &Fixture, token: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let request = discovery.http.request(method, discovery.url(path)).header("X-Consul-Token", token);
    read(request.body(body.to_owned()).send().await.expect("an answer")).await
}

async fn json_of(discovery: &Fixture, token: &str, method: &str, path: &str, body: &str) -> Value {
    let (status, text) = ask(discovery, token, method, path, body).await;
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// A token with a policy of its own.
async fn token_with(discovery: &Fixture, name: &str, rules: &str) -> String {
    json_of(discovery, ROOT, "PUT", "acl/policy", &json!({"Name": name, "Rules": rules}).to_string()).await;
    let token = json_of(discovery, ROOT, "PUT", "acl/token", &json!({"Policies": [{"Name": name}]}).to_string()).await;
    token["SecretID"].as_str().expect("a secret").to_owned()
}

#[tokio::test]
async fn nothing_is_open_by_default_and_a_policy_opens_its_part() {
    let discovery = start(true);
    let denied = discovery.get("kv/app/x").await;
    assert_eq!((denied.status().as_u16(), header(&denied, "X-Consul-Default-Acl-Policy")), (403, "deny"));
    assert!(read(denied).await.1.starts_with("Permission denied: anonymous token lacks permission 'key:read' on"));
    assert_eq!(discovery.put("kv/app/x", "1").await.0, 403);
    assert_eq!(ask(&discovery, "stranger", "GET", "kv/app/x", "").await, (403, "ACL not found".to_owned()));

    let rules = r#"key_prefix "app/" { policy = "write" }
        key_prefix "app/secret/" { policy = "deny" }
        service "web" { policy = "write" }
        node_prefix "" { policy = "read" }
        session_prefix "" { policy = "write" }"#;
    let token = token_with(&discovery, "app", rules).await;
    assert_eq!(ask(&discovery, &token, "PUT", "kv/app/x", "1").await.1, "true");
    assert_eq!(ask(&discovery, &token, "PUT", "kv/other", "1").await.0, 403);
    assert_eq!(ask(&discovery, &token, "PUT", "kv/app/secret/x", "1").await.0, 403);
    assert_eq!(ask(&discovery, &token, "DELETE", "kv/app?recurse", "").await.0, 403, "not all of it is its own");
    assert_eq!(ask(&discovery, ROOT, "PUT", "kv/app/secret/x", "1").await.1, "true");
    let keys = json_of(&discovery, &token, "GET", "kv/?keys", "").await;
    assert_eq!(keys, json!(["app/x"]), "what it may not see is left out");
    let txn = r#"[{"KV":{"Verb":"set","Key":"app/y","Value":""}},{"KV":{"Verb":"set","Key":"other","Value":""}}]"#;
    assert_eq!(ask(&discovery, &token, "PUT", "txn", txn).await.0, 409);
    assert_eq!(ask(&discovery, &token, "GET", "kv/app/y", "").await.0, 404, "nothing of it was done");

    assert_eq!(ask(&discovery, &token, "PUT", "agent/service/register", r#"{"Name":"web"}"#).await.0, 200);
    assert_eq!(ask(&discovery, &token, "PUT", "agent/service/register", r#"{"Name":"db"}"#).await.0, 403);
    assert_eq!(ask(&discovery, ROOT, "PUT", "agent/service/register", r#"{"Name":"db"}"#).await.0, 200);
    assert_eq!(ask(&discovery, &token, "PUT", "agent/service/deregister/db", "").await.0, 403);
    assert_eq!(json_of(&discovery, &token, "GET", "catalog/services", "").await, json!({"web": []}));
    assert_eq!(json_of(&discovery, &token, "GET", "health/service/db", "").await, json!([]));
    let request = discovery.http.get(discovery.url("catalog/service/db")).bearer_auth(&token);
    let thinned = request.send().await.expect("an answer");
    assert_eq!(header(&thinned, "X-Consul-Results-Filtered-By-ACLs"), "true");
    assert_eq!(ask(&discovery, "", "PUT", "session/create", "").await.0, 403);
    let session = json_of(&discovery, &token, "PUT", "session/create", "").await;
    let locked = format!("kv/app/lock?acquire={}", session["ID"].as_str().expect("an id"));
    assert_eq!(ask(&discovery, &token, "PUT", &locked, "").await.1, "true");
    for path in ["snapshot", "acl/tokens", "acl/policies", "agent/self"] {
        assert_eq!(ask(&discovery, &token, "GET", path, "").await.0, 403, "{path}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn tokens_and_policies_are_kept_by_their_calls() {
    let discovery = start(true);
    let boot = json_of(&discovery, "", "PUT", "acl/bootstrap", "").await;
    let root = boot["SecretID"].as_str().expect("a secret").to_owned();
    assert_eq!(boot["Policies"][0]["Name"], "global-management");
    let (status, text) = ask(&discovery, "", "PUT", "acl/bootstrap", "").await;
    assert!(status == 403 && text.contains("ACL bootstrap no longer allowed"), "{text}");

    let policy = r#"{"Name":"reads","Rules":"key_prefix \"\" { policy = \"read\" }"}"#;
    let policy = json_of(&discovery, &root, "PUT", "acl/policy", policy).await;
    let id = policy["ID"].as_str().expect("an id");
    assert_eq!(json_of(&discovery, &root, "GET", "acl/policy/name/reads", "").await["ID"], policy["ID"]);
    assert_eq!(json_of(&discovery, &root, "GET", "acl/policies", "").await.as_array().map(Vec::len), Some(2));
    let anonymous = json!({"Policies": [{"ID": id}]}).to_string();
    json_of(&discovery, &root, "PUT", "acl/token/00000000-0000-0000-0000-000000000002", &anonymous).await;
    assert_eq!(discovery.get("kv/none").await.status(), 404, "everybody may read now");
    assert_eq!(discovery.put("kv/none", "").await.0, 403);

    let token =
        json_of(&discovery, &root, "PUT", "acl/token", r#"{"Description":"d","Policies":[{"Name":"reads"}]}"#).await;
    let (accessor, secret) =
        (token["AccessorID"].as_str().expect("an id"), token["SecretID"].as_str().expect("a secret"));
    assert_eq!(json_of(&discovery, secret, "GET", "acl/token/self", "").await["AccessorID"], token["AccessorID"]);
    let clone = json_of(&discovery, &root, "PUT", &format!("acl/token/{accessor}/clone"), "").await;
    assert_ne!(clone["SecretID"], token["SecretID"]);
    assert_eq!(ask(&discovery, &root, "DELETE", &format!("acl/token/{accessor}"), "").await.1, "true");
    assert_eq!(ask(&discovery, secret, "GET", "kv/none", "").await.0, 403);
    assert_eq!(ask(&discovery, &root, "DELETE", &format!("acl/policy/{id}"), "").await.1, "true");
    assert_eq!(discovery.get("kv/none").await.status(), 403);
    for (path, body, status) in [
        ("acl/policy", r#"{"Name":"bad name"}"#, 400),
        ("acl/policy", r#"{"Name":"x","Rules":"key {"}"#, 400),
        ("acl/token", r#"{"Policies":[{"Name":"none"}]}"#, 400),
        ("acl/token", r#"{"ExpirationTTL":"1h"}"#, 501),
        ("acl/token/none", "{}", 404),
        ("acl/role", "{}", 501),
    ] {
        assert_eq!(ask(&discovery, &root, "PUT", path, body).await.0, status, "{path} {body}");
    }
    discovery.stop().await;
}

#[tokio::test]
async fn what_is_open_by_default_can_be_closed() {
    let discovery = start(false);
    assert_eq!(discovery.put("kv/open", "1").await.1, "true");
    let rules = r#"{"key_prefix":{"":{"policy":"deny"}},"service_prefix":{"":{"policy":"deny"}}}"#;
    let token = token_with(&discovery, "closed", rules).await;
    assert_eq!(ask(&discovery, &token, "GET", "kv/open", "").await.0, 403);
    assert_eq!(discovery.get("kv/open").await.status(), 200);
    assert_eq!(ask(&discovery, "", "GET", "acl/tokens", "").await.0, 200, "open means open");
    discovery.stop().await;
}
