// What the official Go client does against a discovery: its documented calls, one after the other.
//
// usage: main ADDRESS    (host:port). It ends with 1 and says what is wrong, or prints how many things it looked at.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	"github.com/hashicorp/consul/api"
)

var looked int

func must(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func want(holds bool, what string, found ...any) {
	looked++
	if !holds {
		fmt.Fprintf(os.Stderr, "%s; found %+v\n", what, found)
		os.Exit(1)
	}
}

func main() {
	config := api.DefaultConfig()
	config.Address = os.Args[1]
	client, err := api.NewClient(config)
	must(err, "client")
	prefix := fmt.Sprintf("go-%d/", time.Now().UnixNano())
	keys(client.KV(), prefix)
	locks(client, prefix)
	transactions(client, prefix)
	agent(client, prefix)
	catalog(client, prefix)
	events(client)
	rest(client)
	_, err = client.KV().DeleteTree(prefix, nil)
	must(err, "delete tree")
	fmt.Println(looked)
}

func keys(kv *api.KV, prefix string) {
	key := prefix + "a b/ü"
	_, err := kv.Put(&api.KVPair{Key: key, Value: []byte("1"), Flags: 42}, nil)
	must(err, "put")
	pair, meta, err := kv.Get(key, nil)
	must(err, "get")
	want(string(pair.Value) == "1" && pair.Flags == 42, "the pair comes back", pair)
	want(meta.KnownLeader && meta.LastIndex >= pair.ModifyIndex, "the meta data are there", meta)
	for _, options := range []*api.QueryOptions{{AllowStale: true}, {RequireConsistent: true}} {
		again, _, err := kv.Get(key, options)
		must(err, "get in another mode")
		want(reflect.DeepEqual(pair, again), "the same in every mode", again)
	}
	pair.Value = []byte("2")
	swapped, _, err := kv.CAS(pair, nil)
	must(err, "cas")
	want(swapped, "compare and set swaps")
	swapped, _, err = kv.CAS(pair, nil)
	must(err, "cas again")
	want(!swapped, "but once")
	none, meta, err := kv.Get(prefix+"none", nil)
	must(err, "get none")
	want(none == nil && meta.LastIndex > 0, "an absent key has an index", meta)
	go func() {
		time.Sleep(200 * time.Millisecond)
		_, _ = kv.Put(&api.KVPair{Key: prefix + "none", Value: []byte("here")}, nil)
	}()
	came, _, err := kv.Get(prefix+"none", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 30 * time.Second})
	must(err, "blocking get")
	want(came != nil && string(came.Value) == "here", "a blocking query ends with the change", came)
	list, _, err := kv.List(prefix, nil)
	must(err, "list")
	want(len(list) == 2, "both are listed", list)
	names, _, err := kv.Keys(prefix, "/", nil)
	must(err, "keys")
	want(len(names) == 2 && names[0] == prefix+"a b/", "keys end at the separator", names)
	deleted, _, err := kv.DeleteCAS(&api.KVPair{Key: prefix + "none", ModifyIndex: 1}, nil)
	must(err, "delete cas")
	want(!deleted, "a stale delete does nothing")
	_, err = kv.Delete(prefix+"none", nil)
	must(err, "delete")
}

func locks(client *api.Client, prefix string) {
	session := client.Session()
	id, _, err := session.Create(&api.SessionEntry{Name: "go", TTL: "10s", LockDelay: time.Millisecond, Behavior: "delete"}, nil)
	must(err, "session create")
	entry, _, err := session.Info(id, nil)
	must(err, "session info")
	want(entry.Name == "go" && entry.TTL == "10s" && entry.Behavior == "delete", "the session is as asked for", entry)
	entry, _, err = session.Renew(id, nil)
	must(err, "session renew")
	want(entry != nil && entry.ID == id, "it is renewed", entry)
	all, _, err := session.List(nil)
	must(err, "session list")
	want(len(all) >= 1, "it is listed", all)
	of, _, err := session.Node(entry.Node, nil)
	must(err, "session node")
	want(len(of) >= 1, "and on its node", of)
	pair := &api.KVPair{Key: prefix + "lock", Value: []byte("x"), Session: id}
	held, _, err := client.KV().Acquire(pair, nil)
	must(err, "acquire")
	want(held, "the lock is taken")
	held, _, err = client.KV().Release(pair, nil)
	must(err, "release")
	want(held, "and given back")
	_, err = session.Destroy(id, nil)
	must(err, "destroy")
	entry, _, err = session.Renew(id, nil)
	must(err, "renew of a session that is gone")
	want(entry == nil, "none is left", entry)

	lock, err := client.LockKey(prefix + "leader")
	must(err, "lock key")
	lost, err := lock.Lock(nil)
	must(err, "lock")
	want(lost != nil, "the client's own lock is held")
	other, err := client.LockOpts(&api.LockOptions{Key: prefix + "leader", LockTryOnce: true, LockWaitTime: 200 * time.Millisecond})
	must(err, "second lock")
	second, err := other.Lock(nil)
	must(err, "second try")
	want(second == nil, "nobody else gets it")
	must(lock.Unlock(), "unlock")
	must(lock.Destroy(), "destroy lock")
	semaphore, err := client.SemaphorePrefix(prefix+"sem/", 2)
	must(err, "semaphore")
	got, err := semaphore.Acquire(nil)
	must(err, "semaphore acquire")
	want(got != nil, "a slot is held")
	must(semaphore.Release(), "semaphore release")
}

func transactions(client *api.Client, prefix string) {
	ok, answer, _, err := client.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: prefix + "t", Value: []byte("v")}},
		{KV: &api.KVTxnOp{Verb: api.KVGet, Key: prefix + "t"}},
		{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: "go-txn", Address: "10.0.0.9"}}},
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: "go-txn", Service: api.AgentService{ID: "s", Service: "go-txn-s", Port: 7}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{Node: "go-txn", CheckID: "c", Name: "c", Status: "passing", ServiceID: "s"}}},
	}, nil)
	must(err, "txn")
	want(ok && len(answer.Results) == 5 && string(answer.Results[1].KV.Value) == "v", "it is done", answer)
	ok, answer, _, err = client.Txn().Txn(api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: prefix + "u", Value: []byte("v")}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: prefix + "t", Index: 1}},
	}, nil)
	must(err, "failing txn")
	want(!ok && len(answer.Errors) == 1 && answer.Errors[0].OpIndex == 1, "it says which one failed", answer)
	none, _, err := client.KV().Get(prefix+"u", nil)
	must(err, "get")
	want(none == nil, "and nothing was done", none)
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: "go-txn"}, nil)
	must(err, "deregister")
}

func agent(client *api.Client, prefix string) {
	agent, health := client.Agent(), client.Health()
	self, err := agent.Self()
	must(err, "self")
	want(self["Config"]["Datacenter"] == "dc1", "the datacenter is said", self["Config"])
	name, err := agent.NodeName()
	must(err, "node name")
	want(name != "", "the node has a name")
	members, err := agent.Members(false)
	must(err, "members")
	want(len(members) >= 1, "there are members", members)
	service := "go-" + prefix[3:len(prefix)-1]
	must(agent.ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: service + "-1", Name: service, Tags: []string{"v1", "blue"}, Port: 80, Address: "10.0.0.7",
		Meta: map[string]string{"zone": "a"}, Weights: &api.AgentWeights{Passing: 3, Warning: 1},
		TaggedAddresses: map[string]api.ServiceAddress{"lan": {Address: "10.0.0.7", Port: 80}},
		Check: &api.AgentServiceCheck{TTL: "20s", Status: api.HealthCritical, DeregisterCriticalServiceAfter: "5m"},
	}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}), "register")
	must(agent.UpdateTTL("service:"+service+"-1", "fine", api.HealthPassing), "update ttl")
	var passing []*api.ServiceEntry
	for range 100 {
		passing, _, err = health.Service(service, "blue", true, nil)
		must(err, "health service")
		if len(passing) == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	want(len(passing) == 1 && passing[0].Service.Port == 80 && passing[0].Service.Weights.Passing == 3, "it passes", passing)
	want(passing[0].Checks.AggregatedStatus() == "passing" && passing[0].Node.Datacenter == "dc1", "with its checks", passing[0])
	found, err := agent.ServicesWithFilter(fmt.Sprintf("Service == %q and v1 in Tags", service))
	must(err, "filter")
	want(len(found) == 1, "a filter finds it", found)
	_, err = agent.ServicesWithFilter("bad (")
	want(err != nil, "a bad filter is an error")
	checks, err := agent.Checks()
	must(err, "checks")
	want(checks["service:"+service+"-1"].Output == "fine", "its check says what it was told", checks)
	own, meta, err := agent.Service(service+"-1", nil)
	must(err, "agent service")
	want(own.ContentHash != "" && meta.LastContentHash == own.ContentHash, "it has a hash", own, meta)
	status, info, err := agent.AgentHealthServiceByID(service + "-1")
	must(err, "agent health")
	want(status == "passing" && info.Service.Meta["zone"] == "a", "its health is told", status, info)
	must(agent.EnableServiceMaintenance(service+"-1", "cleaning"), "maintenance")
	status, _, err = agent.AgentHealthServiceByName(service)
	must(err, "agent health by name")
	want(status == "maintenance" || status == "critical", "it is out of service", status)
	must(agent.DisableServiceMaintenance(service+"-1"), "end of maintenance")
	must(agent.CheckRegister(&api.AgentCheckRegistration{ID: service + "-mem", Name: "mem", AgentServiceCheck: api.AgentServiceCheck{TTL: "1m"}}), "check")
	must(agent.WarnTTL(service+"-mem", "low"), "warn")
	must(agent.CheckDeregister(service+"-mem"), "check deregister")
	want(agent.PassTTL("none", "") != nil, "an unknown check is an error")
	must(agent.ServiceDeregister(service+"-1"), "deregister")
	_, _, err = agent.Service(service+"-1", nil)
	want(err != nil, "it is gone")
}

func catalog(client *api.Client, prefix string) {
	catalog, health := client.Catalog(), client.Health()
	node := "node-" + prefix[3:len(prefix)-1]
	_, err := catalog.Register(&api.CatalogRegistration{
		Node: node, Address: "10.1.1.1", NodeMeta: map[string]string{"rack": "r1"},
		Service: &api.AgentService{ID: "db1", Service: "go-db", Tags: []string{"primary"}, Port: 5432},
		Checks:  api.HealthChecks{{Node: node, CheckID: "up", Name: "up", Status: "passing", ServiceID: "db1"}},
	}, nil)
	must(err, "catalog register")
	nodes, _, err := catalog.Nodes(&api.QueryOptions{NodeMeta: map[string]string{"rack": "r1"}})
	must(err, "nodes")
	want(len(nodes) >= 1 && nodes[0].Address == "10.1.1.1", "the node is found by its meta data", nodes)
	services, _, err := catalog.Services(nil)
	must(err, "services")
	want(reflect.DeepEqual(services["go-db"], []string{"primary"}), "the service has its tags", services)
	instances, _, err := catalog.Service("go-db", "primary", nil)
	must(err, "service")
	want(instances[0].ServicePort == 5432 && instances[0].Address == "10.1.1.1", "the instance is there", instances)
	one, _, err := catalog.Node(node, nil)
	must(err, "node")
	want(one.Services["db1"].Port == 5432, "and on its node", one)
	checks, _, err := health.Node(node, nil)
	must(err, "health node")
	want(checks.AggregatedStatus() == "passing", "its check passes", checks)
	checks, _, err = health.Checks("go-db", nil)
	must(err, "health checks")
	want(len(checks) == 1, "of its service too", checks)
	_, meta, err := health.State("any", nil)
	must(err, "health state")
	want(meta.LastIndex > 0, "states have an index", meta)
	entries, meta, err := health.Service("go-db", "", false, nil)
	must(err, "health service")
	want(len(entries) == 1, "one instance", entries)
	go func() {
		time.Sleep(200 * time.Millisecond)
		_, _ = catalog.Deregister(&api.CatalogDeregistration{Node: node}, nil)
	}()
	for len(entries) > 0 {
		entries, meta, err = health.Service("go-db", "", false, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 30 * time.Second})
		must(err, "blocking health service")
	}
	want(meta.LastIndex > 0, "a blocking query sees it go", meta)
	centers, err := catalog.Datacenters()
	must(err, "datacenters")
	want(len(centers) == 1, "one datacenter", centers)
}

func events(client *api.Client) {
	id, _, err := client.Event().Fire(&api.UserEvent{Name: "go-deploy", Payload: []byte("now")}, nil)
	must(err, "fire")
	var listed []*api.UserEvent
	for range 100 {
		listed, _, err = client.Event().List("go-deploy", nil)
		must(err, "event list")
		if len(listed) > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	last := listed[len(listed)-1]
	want(last.ID == id && string(last.Payload) == "now", "the event is listed", last)
}

func rest(client *api.Client) {
	first, err := client.Status().Leader()
	must(err, "leader")
	want(first != "", "somebody answers for it")
	peers, err := client.Status().Peers()
	must(err, "peers")
	want(len(peers) >= 1, "there are peers", peers)
	snapshot, _, err := client.Snapshot().Save(nil)
	must(err, "snapshot")
	saved, err := io.ReadAll(snapshot)
	must(err, "snapshot body")
	want(len(saved) > 0, "the snapshot holds something")
	must(client.Snapshot().Restore(nil, bytes.NewReader(saved)), "restore")
}
