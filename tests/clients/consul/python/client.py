"""What py-consul does against a discovery. usage: client.py HOST PORT"""

import sys
import threading
import time

import consul

looked = 0


def want(holds, what, *found):
    global looked
    looked += 1
    if not holds:
        sys.exit(f"{what}; found {found}")


def main():
    client = consul.Consul(host=sys.argv[1], port=int(sys.argv[2]))
    prefix = f"py-{time.time_ns()}/"
    key = prefix + "a"
    want(client.kv.put(key, b"1", flags=7), "a pair is written")
    index, pair = client.kv.get(key)
    want(pair["Value"] == b"1" and pair["Flags"] == 7, "and comes back", pair)
    want(client.kv.put(key, b"2", cas=pair["ModifyIndex"]), "compare and set swaps")
    want(not client.kv.put(key, b"3", cas=pair["ModifyIndex"]), "but once")
    index, _ = client.kv.get(key)
    threading.Timer(0.2, lambda: client.kv.put(key, b"4")).start()
    later, pair = client.kv.get(key, index=index, wait="30s")
    want(later != index and pair["Value"] == b"4", "a blocking query ends with the change", pair)
    want(client.kv.get(prefix, recurse=True)[1][0]["Key"] == key, "it is listed")
    want(client.kv.get(prefix, keys=True)[1] == [key], "its key is listed")
    want(client.kv.get(prefix + "none")[1] is None, "an absent key is None")

    session = client.session.create(name="py", ttl=10, lock_delay=0, behavior="release")
    want(client.kv.put(prefix + "lock", b"x", acquire=session), "a lock is taken")
    want(client.session.renew(session)["ID"] == session, "the session is renewed")
    want(client.session.info(session)[1]["Name"] == "py", "and told of")
    want(client.kv.put(prefix + "lock", b"x", release=session), "the lock is given back")
    want(client.session.destroy(session), "the session ends")

    name = prefix[:-1]
    want(
        client.agent.service.register(
            name, service_id=name + "-1", address="10.0.0.7", port=80, tags=["v1"], check=consul.Check.ttl("20s")
        ),
        "a service is registered",
    )
    want(client.agent.check.ttl_pass("service:" + name + "-1"), "its check passes")
    deadline = time.time() + 10
    while True:
        _, nodes = client.health.service(name, passing=True)
        if nodes or time.time() > deadline:
            break
        time.sleep(0.05)
    want(len(nodes) == 1 and nodes[0]["Service"]["Port"] == 80, "it is found", nodes)
    want(name in client.catalog.services()[1], "it is in the catalogue")
    want(client.catalog.service(name)[1][0]["ServiceAddress"] == "10.0.0.7", "with its address")
    want(name + "-1" in client.agent.services(), "and at its agent")
    want(client.health.checks(name)[1][0]["Status"] == "passing", "with its check")
    want(client.agent.service.maintenance(name + "-1", True, "cleaning"), "it can be taken out")
    want(client.agent.service.maintenance(name + "-1", False), "and put back")
    want(client.agent.service.deregister(name + "-1"), "and removed")
    want(client.agent.self()["Config"]["Datacenter"] == "dc1", "the agent tells of itself")
    want(client.status.leader(), "somebody answers for it")
    want(client.event.fire("py-deploy", "now"), "an event is fired")
    result = client.txn.put([{"KV": {"Verb": "set", "Key": prefix + "t", "Value": "aGk="}}])
    want(result["Results"][0]["KV"]["Key"] == prefix + "t", "a transaction is done", result)
    want(client.kv.delete(prefix, recurse=True), "all of it is deleted")
    print(looked)


main()
