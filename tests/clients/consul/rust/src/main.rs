//! What the crate `rs-consul` does against a discovery. usage: consul-rust-client http://HOST:PORT

use std::time::{Duration, SystemTime};

use rs_consul::{
    ConsistencyMode, Config, Consul, CreateOrUpdateKeyRequest, DeleteKeyRequest, DeregisterEntityPayload,
    GetServiceNodesRequest, LockExpirationBehavior, LockRequest, QueryOptions, ReadKeyRequest, RegisterEntityPayload,
    RegisterEntityService,
};

struct Looked(u32);

impl Looked {
    fn want(&mut self, holds: bool, what: &str) {
        self.0 += 1;
        assert!(holds, "{what}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let address = std::env::args().nth(1).expect("usage: consul-rust-client http://HOST:PORT");
    let consul = Consul::new(Config { address, token: None, ..Config::default() });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos();
    let mut looked = Looked(0);
    keys(&consul, &format!("rust-{now}/"), &mut looked).await;
    services(&consul, &format!("rust-{now}"), &mut looked).await;
    println!("{}", looked.0);
}

async fn keys(consul: &Consul, prefix: &str, looked: &mut Looked) {
    let key = format!("{prefix}a");
    let put = |cas: Option<i64>, value: &'static [u8]| {
        let request = CreateOrUpdateKeyRequest::builder().key(&key).maybe_check_and_set(cas).build();
        consul.create_or_update_key(request, value.to_vec())
    };
    looked.want(put(Some(0), b"1").await.expect("an answer").0, "a pair is created");
    looked.want(!put(Some(0), b"2").await.expect("an answer").0, "but once");
    let read = |consistency| ReadKeyRequest::builder().key(&key).consistency(consistency).build();
    for mode in [ConsistencyMode::Default, ConsistencyMode::Consistent, ConsistencyMode::Stale] {
        let found = consul.read_key(read(mode)).await.expect("an answer").response;
        looked.want(found[0].value.as_deref() == Some("1"), "it comes back in every mode");
    }
    let before = consul.read_key(read(ConsistencyMode::Default)).await.expect("an answer");
    put(None, b"3").await.expect("an answer");
    let waiting = ReadKeyRequest::builder().key(&key).index(before.index).wait(Duration::from_secs(30)).build();
    let after = consul.read_key(waiting).await.expect("an answer");
    looked.want(after.index > before.index, "its index goes on");
    let lock_key = format!("{prefix}lock");
    let request = LockRequest::builder()
        .key(&lock_key)
        .timeout(Duration::from_secs(10))
        .lock_delay(Duration::from_secs(1))
        .behavior(LockExpirationBehavior::Release)
        .build();
    let lock = consul.get_lock(request, b"held").await;
    looked.want(lock.is_ok(), "a lock is taken");
    drop(lock);
    let all = DeleteKeyRequest::builder().key(prefix).recurse(true).build();
    looked.want(consul.delete_key(all).await.expect("an answer"), "all of it is deleted");
    looked.want(consul.read_key(read(ConsistencyMode::Default)).await.is_err(), "and an absent key is an error");
}

async fn services(consul: &Consul, name: &str, looked: &mut Looked) {
    let service = RegisterEntityService::builder()
        .ID(format!("{name}-1"))
        .Service(name.to_owned())
        .Port(80)
        .build();
    let payload =
        RegisterEntityPayload::builder().Node(name.to_owned()).Address("10.1.1.1".to_owned()).Service(service).build();
    consul.register_entity(&payload).await.expect("registered");
    let names = consul.get_all_registered_service_names(None).await.expect("an answer").response;
    looked.want(names.iter().any(|found| found == name), "the service is in the catalogue");
    let request = GetServiceNodesRequest::builder().service(name).passing(true).build();
    let nodes = consul.get_service_nodes(request, None::<QueryOptions>).await.expect("an answer").response;
    looked.want(nodes.len() == 1 && nodes[0].service.port == 80, "and its instance is found");
    let gone = DeregisterEntityPayload::builder().Node(name.to_owned()).build();
    consul.deregister_entity(&gone).await.expect("deregistered");
    let request = GetServiceNodesRequest::builder().service(name).build();
    let nodes = consul.get_service_nodes(request, None::<QueryOptions>).await.expect("an answer").response;
    looked.want(nodes.is_empty(), "until it is deregistered");
}
