// What the npm client `consul` does against a discovery. usage: client.js HOST PORT
"use strict";

const Consul = require("consul");

let looked = 0;
function want(holds, what, found) {
  looked += 1;
  if (!holds) throw new Error(`${what}; found ${JSON.stringify(found)}`);
}

async function main() {
  const consul = new Consul({ host: process.argv[2], port: Number(process.argv[3]) });
  const prefix = `node-${Date.now()}-${process.pid}/`;
  const key = `${prefix}a`;
  want(await consul.kv.set(key, "1"), "a pair is written");
  let pair = await consul.kv.get(key);
  want(pair.Value === "1", "and comes back", pair);
  want(await consul.kv.set({ key, value: "2", cas: pair.ModifyIndex }), "compare and set swaps");
  want(!(await consul.kv.set({ key, value: "3", cas: pair.ModifyIndex })), "but once");
  want((await consul.kv.keys(prefix))[0] === key, "its key is listed");
  want((await consul.kv.get(`${prefix}none`)) === undefined, "an absent key is undefined");

  const watch = consul.watch({ method: consul.kv.get, options: { key, wait: "30s" } });
  const changed = new Promise((resolve, reject) => {
    watch.on("change", (found) => found && found.Value === "4" && resolve(found));
    watch.on("error", reject);
  });
  setTimeout(() => consul.kv.set(key, "4"), 200);
  await changed;
  watch.end();
  want(true, "a watch sees the change");

  const session = await consul.session.create({ name: "node", ttl: "10s", lockdelay: "0s" });
  want(await consul.kv.set({ key: `${prefix}lock`, value: "x", acquire: session.ID }), "a lock is taken");
  want((await consul.session.renew(session.ID))[0].ID === session.ID, "the session is renewed");
  want(await consul.kv.set({ key: `${prefix}lock`, value: "x", release: session.ID }), "the lock is given back");
  await consul.session.destroy(session.ID);

  const name = prefix.slice(0, -1);
  await consul.agent.service.register({ id: `${name}-1`, name, address: "10.0.0.7", port: 80, tags: ["v1"], check: { ttl: "20s" } });
  await consul.agent.check.pass(`service:${name}-1`);
  let found = [];
  for (const until = Date.now() + 10000; Date.now() < until && found.length === 0; ) {
    found = await consul.health.service({ service: name, passing: true });
  }
  want(found.length === 1 && found[0].Service.Port === 80, "a service is found", found);
  want(name in (await consul.catalog.service.list()), "it is in the catalogue");
  want((await consul.catalog.service.nodes(name))[0].ServiceAddress === "10.0.0.7", "with its address");
  want(`${name}-1` in (await consul.agent.service.list()), "and at its agent");
  want(`service:${name}-1` in (await consul.agent.check.list()), "with its check");
  await consul.agent.service.maintenance({ id: `${name}-1`, enable: true });
  await consul.agent.service.maintenance({ id: `${name}-1`, enable: false });
  await consul.agent.service.deregister(`${name}-1`);
  want((await consul.agent.self()).Config.Datacenter === "dc1", "the agent tells of itself");
  want((await consul.catalog.node.list()).length >= 1, "there are nodes");
  want((await consul.status.leader()) !== "", "somebody answers for it");
  await consul.event.fire({ name: "node-deploy", payload: "now" });
  const done = await consul.transaction.create([{ KV: { Verb: "set", Key: `${prefix}t`, Value: "aGk=" } }]);
  want(done.Results[0].KV.Key === `${prefix}t`, "a transaction is done", done);
  await consul.kv.del({ key: prefix, recurse: true });
  console.log(looked);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
