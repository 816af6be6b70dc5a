#!/usr/bin/env python3
"""The product's own test on a real cluster: whatever KUBECONFIG names.

    fleet_test.py [--quick] [--overlay DIR] [--everring PROGRAM] [--next-image NAME:TAG] [--figures FILE]

Applies an overlay, kills pods under load from outside, and looks at everything that should tell of it: the verdict,
the Events, the traces in Jaeger, the figures in Prometheus; rolls the fleet to another image and back under load and
kills; scales gateways and storage nodes up and down; loses a volume; starts a twin; and takes all of it away. Each check prints a line; the last line is JSON.

Needs kubectl and the program outside, and a way to Services (EVERRING_K8S_GATEWAY names the gateway's URL where a
Service's address is not reached from here).
"""

import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMESPACE = "everring"
NODE = "everring-storage-node"
STORAGE = f"statefulset/{NODE}"
TESTED_MINOR = 35


class Fault(Exception):
    """Something that must hold does not."""


class Test:
    def __init__(self, args):
        self.args = args
        self.passed, self.failures, self.figures = 0, [], {}
        # The promise is one second. The short form runs where other work may go on, and looks at all but lateness.
        self.deadline = "3s" if args.quick else "1s"
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="everring-k8s-"))

    # Talking to the cluster.

    def kubectl(self, *arguments, text=None, check=True, timeout=180):
        command = ["kubectl", "-n", NAMESPACE, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode:
            raise Fault(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout if check else done

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def pods(self, component=None):
        label = "app.kubernetes.io/part-of=everring"
        if component:
            label += f",app.kubernetes.io/component={component}"
        return self.get("pods", "-l", label)["items"]

    def service(self, name, path, **query):
        """Asks a Service through the cluster's API, so that no way to it is needed."""
        url = f"/api/v1/namespaces/{NAMESPACE}/services/{name}/proxy{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query)
        return json.loads(self.kubectl("get", "--raw", url))

    def chaos(self, path):
        return self.service("everring-chaos:8090", path)

    def ring(self):
        with urllib.request.urlopen(f"{self.gateway}/v1/ring", timeout=5) as answer:
            return json.loads(answer.read())

    def ring_of(self, size, seconds):
        """Waits until these are the ring's members, all of them reached, and no change is under way."""
        names = sorted(f"{NODE}-{number}" for number in range(size))

        def settled():
            ring = self.ring()
            members = sorted(member["name"] for member in ring["members"])
            if members != names or ring.get("pending_change") or not all(member["alive"] for member in ring["members"]):
                raise Fault(f"members {members}, pending: {ring.get('pending_change')}")
            return True

        began = time.monotonic()
        self.eventually(f"a ring of {size} nodes", seconds, settled)
        return round(time.monotonic() - began, 1)

    def query(self, expression):
        answer = self.service("everring-prometheus:9090", "/api/v1/query", query=expression)
        return answer["data"]["result"]

    # Saying what was found.

    def check(self, what, holds, detail=""):
        if holds:
            self.passed += 1
            print(f"ok      {what}" + (f" ({detail})" if detail else ""), flush=True)
        else:
            self.failures.append(what)
            print(f"FAILED  {what}" + (f": {detail}" if detail else ""), flush=True)

    def eventually(self, what, seconds, look):
        until = time.monotonic() + seconds
        why = "it was never looked at"
        while time.monotonic() < until:
            try:
                found = look()
                if found is not None and found is not False:
                    return found
                why = "not yet"
            except (Fault, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
                why = str(error)
            time.sleep(0.5)
        raise Fault(f"{what} did not come within {seconds} s: {why}")

    # The parts.

    def preflight(self):
        version = json.loads(self.kubectl("version", "-o", "json"))["serverVersion"]
        minor = int(re.sub(r"\D", "", version["minor"]))
        print(f"cluster {version['gitVersion']}; tested with 1.{TESTED_MINOR}", flush=True)
        if minor < 33:
            raise Fault(f"Kubernetes 1.{minor} is older than the oldest supported, 1.33")
        if self.kubectl("get", "namespace", NAMESPACE, check=False).returncode == 0:
            raise Fault(f"there is a namespace {NAMESPACE} already; this test makes and removes it: delete it first")
        classes = json.loads(self.kubectl("get", "storageclass", "-o", "json"))["items"]
        default = "storageclass.kubernetes.io/is-default-class"
        if not any(item["metadata"].get("annotations", {}).get(default) == "true" for item in classes):
            raise Fault("the cluster has no default storage class, so no volume would ever come; mark one as default")
        for verb, what in [("create", "namespaces"), ("delete", "pods"), ("get", "nodes/proxy")]:
            answer = self.kubectl("auth", "can-i", verb, what, check=False)
            if "yes" not in answer.stdout:
                raise Fault(f"this account may not {verb} {what}; use one that may")

    def apply(self):
        began = time.monotonic()
        self.kubectl("apply", "-k", str(self.args.overlay))
        self.gateway = os.environ.get("EVERRING_K8S_GATEWAY") or self.eventually(
            "the gateway's Service", 30,
            lambda: f"http://{self.get('service', 'everring-gateway')['spec']['clusterIP']}:8080",
        )

        def served():
            request = urllib.request.Request(f"{self.gateway}/v1/kv/records/first", data=b"1", method="PUT")
            with urllib.request.urlopen(request, timeout=2) as answer:
                return answer.status in (200, 201)

        self.eventually("the first served request", 300, served)
        self.figures["apply_to_first_request_s"] = round(time.monotonic() - began, 1)
        self.everything_ready()
        if self.args.built:
            self.figures["image_mib"] = self.args.built["unpacked_mib"]
            self.check("the image is at most 40 MiB", self.figures["image_mib"] <= 40, f"{self.figures['image_mib']} MiB")
        self.check("from apply to the first served request", True, f"{self.figures['apply_to_first_request_s']} s")
        self.figures["pod_ready_s"] = self.pod_ready()

    def everything_ready(self, seconds=300):
        for kind in ("statefulset", "deployment"):
            for item in self.get(kind)["items"]:
                name = item["metadata"]["name"]
                self.kubectl("rollout", "status", f"{kind}/{name}", f"--timeout={seconds}s", timeout=seconds + 10)

    def pod_ready(self):
        """From a pod's start to its being ready, of the program's own pods, in seconds: the median."""
        times = []
        for pod in self.pods():
            if pod["metadata"]["labels"].get("app.kubernetes.io/name") != "everring":
                continue
            ready = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")
            started = pod["status"]["startTime"]
            times.append(seconds_of(ready["lastTransitionTime"]) - seconds_of(started))
        return sorted(times)[len(times) // 2]

    def halt(self, why):
        value = f"everring.dev/halt={why}" if why else "everring.dev/halt-"
        self.kubectl("annotate", "--overwrite", "lease", "everring-chaos", value)

    def idle(self, seconds):
        """Memory and processor time of all pods at rest: without the monkey and its verifier's requests."""
        self.kubectl("scale", "deploy/everring-chaos", "--replicas=0")
        self.eventually("the monkey is gone", 120, lambda: not self.pods("chaos"))
        before, at = self.usage(), time.monotonic()
        time.sleep(seconds)
        after, took = self.usage(), time.monotonic() - at
        shares = {name: (after[name][0] - before[name][0]) / took for name in after if name in before}
        self.figures["idle_cpu"] = round(sum(shares.values()), 3)
        self.figures["memory_mib"] = round(sum(memory for _, memory in after.values()) / 2**20)
        self.figures["pods"] = {
            name: {"cpu": round(shares.get(name, 0), 4), "memory_mib": round(memory / 2**20, 1)}
            for name, (_, memory) in sorted(after.items())
        }
        self.kubectl("scale", "deploy/everring-chaos", "--replicas=1")
        self.check("memory of all pods is below 3 GiB", self.figures["memory_mib"] < 3072, f"{self.figures['memory_mib']} MiB")
        print(f"        idle: {self.figures['idle_cpu']} cores", flush=True)

    def usage(self):
        used = {}
        for node in json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]:
            raw = self.kubectl("get", "--raw", f"/api/v1/nodes/{node['metadata']['name']}/proxy/stats/summary")
            for pod in json.loads(raw)["pods"]:
                if pod["podRef"]["namespace"] == NAMESPACE and "cpu" in pod:
                    used[pod["podRef"]["name"]] = (
                        pod["cpu"]["usageCoreNanoSeconds"] / 1e9,
                        pod["memory"]["workingSetBytes"],
                    )
        return used

    def load(self, name, seconds=3600):
        """Clients outside, until they are told to end; each waits one second."""
        report = self.work / f"{name}.json"
        command = [self.args.everring, "verify", "--gateway", self.gateway, "--for", f"{seconds}s", "--rate", "60",
                   "--clients", "8", "--deadline", self.deadline, "--report", str(report), "--quiet", "--output", "json"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
        return process, report

    def end_load(self, loaded):
        process, report = loaded
        process.send_signal(signal.SIGINT)
        process.wait(timeout=180)
        return json.loads(report.read_text())

    def under_load(self, name, what):
        loaded = self.load(name)
        try:
            what()
        finally:
            verdict = self.end_load(loaded)
        requests = verdict["requests"]
        failed = requests["failed"] + requests["unknown"]
        self.check(f"{name}: no request of {requests['total']} failed", failed == 0 and requests["total"] > 0,
                   f"{failed} failed, worst {verdict['latency_ms']['steady'].get('max')} ms")
        self.check(f"{name}: no acknowledged write lost", verdict["acked_writes"]["lost"] == 0,
                   f"{verdict['acked_writes']['total']} acknowledged")
        return failed, verdict

    def kills(self):
        """One run of the monkey, with load from outside as well."""
        duration = "45s" if self.args.quick else "300s"
        mean = "5s" if self.args.quick else "8s"
        # Counted from the new pod on: its first run is the one that is looked at.
        self.kubectl("set", "env", "deploy/everring-chaos", f"EVERRING_FOR={duration}", f"EVERRING_MEAN={mean}",
                     f"EVERRING_DEADLINE={self.deadline}", "EVERRING_RATE=80" if self.args.quick else "EVERRING_RATE=150")
        self.kubectl("rollout", "status", "deploy/everring-chaos", "--timeout=180s", timeout=200)
        seconds = 60 if self.args.quick else 330

        def run():
            found = self.eventually("the monkey's verdict", seconds + 240, lambda: self.chaos("/v1/verdict"))
            self.verdict = found

        failed, outside = self.under_load("kills", run)
        verdict = self.verdict
        (self.work / "verdict.json").write_text(json.dumps(verdict, indent=1))
        for note in verdict["notes"]:
            print(f"        note: {note}", flush=True)
        struck = [fault for fault in verdict["faults"] if "not_injected" not in fault]
        wanted = 3 if self.args.quick else 20
        requests = verdict["requests"]
        self.figures.update({
            "kills": len(struck),
            "failed_requests": requests["failed"] + requests["unknown"] + failed,
            "lost_writes": verdict["acked_writes"]["lost"] + outside["acked_writes"]["lost"],
            "verdict": verdict["verdict"],
        })
        self.check("verdict of the run in the cluster is kept", verdict["verdict"] == "kept", "; ".join(verdict["because"]))
        self.check(f"at least {wanted} faults were injected", len(struck) >= wanted, f"{len(struck)}")
        self.check("each victim was back", all(fault["healed_at"] for fault in struck))
        self.faults(struck)

    def faults(self, struck):
        """Each fault has an Event on its victim, a span of its own in Jaeger, and its requests' traces."""
        events = self.get("events.events.k8s.io")["items"]
        told = {event["metadata"].get("annotations", {}).get("everring.dev/trace-id") for event in events}
        with_event = [fault for fault in struck if fault["trace_id"] in told]
        self.figures["events"] = len(with_event)
        self.check("each fault has an Event on its victim", len(with_event) == len(struck), f"{len(with_event)} of {len(struck)}")
        linked = [event for event in events if "/trace/" in (event.get("note") or "")]
        self.check("Events link to the fault's trace", len(linked) >= len(struck))
        traced, requests, found = 0, 0, 0
        for fault in struck:
            spans = self.trace(fault["trace_id"])
            chaos = [span for span in spans if span["operationName"].startswith("chaos ")]
            traced += bool(chaos) and tag(chaos[0], "chaos.victim.name") == fault["target"]
            for request in fault["requests"][:10]:
                requests += 1
                found += bool(self.trace(request["trace_id"]))
        self.figures["kills_with_traces"] = traced
        self.check("each fault has its span in Jaeger", traced == len(struck), f"{traced} of {len(struck)}")
        self.check("the traces of the requests that faults met are in Jaeger", found == requests and requests > 0,
                   f"{found} of {requests}")
        self.check("the verdict links to its traces", all("/trace/" in fault.get("trace_url", "") for fault in struck))

    def two_monkeys(self):
        """Of two monkeys one acts, and the other says what it waits for; the halt switch stops the one that acts."""
        self.kubectl("scale", "deploy/everring-chaos", "--replicas=2")
        self.kubectl("rollout", "status", "deploy/everring-chaos", "--timeout=120s", timeout=130)

        def states():
            names = [pod["metadata"]["name"] for pod in self.ready("chaos")]
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{{}}:8090/proxy/v1/status"
            found = [json.loads(self.kubectl("get", "--raw", path.format(name))) for name in names]
            waiting = [state["waiting"] for state in found if "the lease is held by" in (state["waiting"] or "")]
            return (found, waiting) if len(found) == 2 and waiting else None

        found, waiting = self.eventually("one of two monkeys waits", 60, states)
        acting = [state for state in found if state["running"]]
        self.check("of two monkeys one acts", len(waiting) == 1 and len(acting) <= 1, waiting[0])
        self.halt("a test of the switch")

        def halted():
            reasons = [state["why_no_fault_now"] or "" for state in states()[0] if state["running"]]
            return any("a test of the switch" in reason for reason in reasons)

        try:
            self.check("a halted monkey says who halted it", self.eventually("the halt is seen", 60, halted))
        finally:
            self.halt(None)
            self.kubectl("scale", "deploy/everring-chaos", "--replicas=1")

    def trace(self, trace_id):
        try:
            return self.service("everring-jaeger:16686", f"/api/traces/{trace_id}")["data"][0]["spans"]
        except (Fault, IndexError, KeyError, TypeError):
            return []

    def observability(self):
        """Every query of every dashboard, and every figure that an alert looks at, is there."""
        # Who was killed without grace stays registered for a minute.
        self.halt("looking at the figures")
        self.eventually("all targets are scraped", 180, lambda: not self.query('up{job=~"everring|tools"} == 0'))
        empty = []
        asked = 0
        for dashboard in sorted((ROOT / "observability" / "dashboards").glob("*.json")):
            for panel in json.loads(dashboard.read_text())["panels"]:
                for target in panel["targets"]:
                    asked += 1
                    if not self.soon(target["expr"]):
                        empty.append(f"{dashboard.stem}: {panel['title']}: {target['expr']}")
        self.check(f"all {asked} dashboard queries return data", not empty, "; ".join(empty))
        rules = self.service("everring-prometheus:9090", "/api/v1/rules")["data"]["groups"]
        alerts = [rule for group in rules for rule in group["rules"]]
        broken = [rule["name"] for rule in alerts if rule["health"] == "err"]
        self.check(f"all {len(alerts)} rules are evaluated", not broken, ", ".join(broken))
        selector = re.compile(r"(?<![\w:])((?:everring|http_server|up)[\w:]*(?:\{[^}]*\})?)")
        missing = []
        for rule in alerts:
            for found in selector.findall(rule["query"]):
                # A status or verdict that never came is the good case: the figure itself must be there.
                plain = re.sub(r',?(status|verdict)="[^"]*"', "", found)
                if not self.soon(plain):
                    missing.append(f"{rule['name']}: {plain}")
        self.check("every figure that an alert looks at is there", not missing, "; ".join(missing))
        end = time.time()
        points = self.service("everring-prometheus:9090", "/api/v1/query_exemplars", start=end - 900, end=end,
                              query='http_server_request_duration_seconds_bucket{service="gateway"}')["data"]
        ids = {point["labels"].get("trace_id") for series in points for point in series["exemplars"]}
        self.check("latency figures have exemplars with trace ids", any(ids), f"{len(ids)}")
        firing = [rule["name"] for rule in alerts if rule.get("state") == "firing"]
        pages = [rule["name"] for rule in alerts if rule.get("state") == "firing" and rule["labels"].get("severity") == "page"]
        self.check("no alert that would wake somebody fires", not pages, ", ".join(firing))
        self.halt(None)

    def soon(self, expression):
        try:
            return self.eventually(expression, 60, lambda: self.query(expression) or None)
        except Fault:
            return None

    def upgrade(self):
        """To another image and back, under load and kills."""
        images = [self.args.next_image, self.image]

        def roll():
            for image in images:
                for target in (STORAGE, "deploy/everring-gateway", "deploy/everring-router", "statefulset/everring-discovery"):
                    self.kubectl("set", "image", target, f"everring={image}")
                self.everything_ready(600)

        failed, _ = self.under_load("upgrade", roll)
        self.figures["upgrade_failed_requests"] = failed
        running = {container["image"].rpartition("/")[2] for pod in self.pods("storage-node") for container in pod["spec"]["containers"]}
        self.check("the fleet runs the first image again", running == {self.image.rpartition("/")[2]}, str(running))

    def scale(self):
        """Gateways and storage nodes up and down by nothing but `kubectl scale`, under load and kills."""
        # The second time up, a node begins on the volume of one that has left.
        sizes, seconds = ((6, 5) if self.args.quick else (7, 5, 6, 5)), []

        def there_and_back():
            for number in (4, 2):
                self.kubectl("scale", "deploy/everring-gateway", f"--replicas={number}")
                self.eventually(f"{number} gateways", 180, lambda: len(self.ready("gateway")) == number)
            for size in sizes:
                self.kubectl("scale", STORAGE, f"--replicas={size}")
                seconds.append(self.ring_of(size, 300))
                self.eventually("the pods are as many", 120, lambda: len(self.pods("storage-node")) == size)

        failed, _ = self.under_load("scale", there_and_back)
        self.figures["scale_failed_requests"] = failed
        self.figures["scale_seconds"] = seconds
        self.check("storage nodes joined and left by kubectl scale", len(seconds) == len(sizes), f"{sizes} in {seconds} s")

    def lost_volume(self):
        """A node whose volume is gone comes back under its name as a new member, and copies."""
        victim = f"{NODE}-1"
        before = {member["name"]: member["id"] for member in self.ring()["members"]}

        def lose():
            self.kubectl("delete", "pvc", f"data-{victim}", "--wait=false")
            self.kubectl("delete", "pod", victim, "--grace-period=0", "--force")

            def replaced():
                now = {member["name"]: member["id"] for member in self.ring()["members"]}
                return victim in now and now[victim] != before[victim]

            self.eventually("a new member replaces it", 240, replaced)
            self.ring_of(len(before), 240)

        self.halt("a volume is lost on purpose")
        try:
            self.under_load("lost volume", lose)
        finally:
            self.halt(None)
        after = {member["name"]: member["id"] for member in self.ring()["members"]}
        changed = [name for name in before if before[name] != after.get(name)]
        self.check("a node without its volume is a new member, and all others are who they were", changed == [victim], str(changed))

    def twin(self):
        """A second pod with a node's volume and name does not start, and says why; the first one goes on."""
        original = f"{NODE}-0"
        pod = self.get("pod", original)
        spec = json.loads(self.kubectl("get", STORAGE, "-o", "json"))["spec"]["template"]["spec"]
        spec.update(restartPolicy="Never", nodeName=pod["spec"]["nodeName"])
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{original}"}}]
        for variable in spec["containers"][0]["env"]:
            if variable["name"] == "EVERRING_NAME":
                variable.pop("valueFrom")
                variable["value"] = original
        labels = {"app.kubernetes.io/component": "storage-node", "app.kubernetes.io/part-of": "everring"}
        twin = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "everring-twin", "labels": labels}, "spec": spec}
        self.kubectl("apply", "-f", "-", text=json.dumps(twin))
        incarnation = pod["metadata"]["uid"]
        try:
            def refused():
                for status in self.get("pod", "everring-twin")["status"].get("containerStatuses", []):
                    ended = status.get("state", {}).get("terminated")
                    if ended:
                        return (ended.get("message") or "ended without a word").strip().splitlines()[-1]
                return None

            found = self.eventually("the twin ends", 120, refused)
            self.check("a twin is refused with a sentence", "another process" in found or "lock" in found, found[-200:])
            now = self.get("pod", original)
            same = now["metadata"]["uid"] == incarnation and now["status"]["containerStatuses"][0]["ready"]
            self.check("the node that the twin copied goes on", same)
        finally:
            self.kubectl("delete", "pod", "everring-twin", "--grace-period=0", "--force", "--ignore-not-found")

    def ready(self, component):
        pods = [pod for pod in self.pods(component) if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in pods if any(c["type"] == "Ready" and c["status"] == "True"
                                           for c in pod["status"].get("conditions", []))]

    def wrong_secret(self):
        """A node that is given another secret says what is wrong, in its log and its pod's status."""
        self.kubectl("create", "secret", "generic", "everring-other", "--from-literal=secret=other")
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "everring", "env": [
            {"name": "EVERRING_CLUSTER_SECRET", "valueFrom": {"secretKeyRef": {"name": "everring-other"}}}]}]}}}}
        patch["spec"]["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["key"] = "secret"
        self.kubectl("patch", STORAGE, "-p", json.dumps(patch))

        def sentence():
            for pod in self.pods("storage-node"):
                for status in pod["status"].get("containerStatuses", []):
                    for state in (status.get("lastState", {}), status.get("state", {})):
                        message = state.get("terminated", {}).get("message", "")
                        if "belongs to" in message or "cluster" in message:
                            return message.strip().splitlines()[-1]
            return None

        try:
            found = self.eventually("a sentence about the wrong secret", 120, sentence)
            self.check("a node with a wrong secret says so in its pod's status", True, found[-160:])
        finally:
            self.kubectl("rollout", "undo", STORAGE)
            # A set does not replace a pod of the wrong revision that is not ready: it is taken out of the way.
            self.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=storage-node",
                         "--field-selector=status.phase!=Succeeded", "--wait=false")
            self.everything_ready()

    def teardown(self):
        self.kubectl("delete", "-k", str(self.args.overlay), "--ignore-not-found", "--timeout=240s", timeout=300)

        def gone():
            return self.kubectl("get", "namespace", NAMESPACE, check=False).returncode != 0

        self.eventually("the namespace is gone", 120, gone)
        self.check("nothing is left behind", True)

    def run(self):
        parts = [self.preflight, self.apply, lambda: self.idle(15 if self.args.quick else 60), self.kills,
                 self.two_monkeys, self.observability, self.upgrade, self.scale]
        if not self.args.quick:
            parts += [self.lost_volume, self.twin, self.wrong_secret]
        self.image = self.args.image
        applied = False
        for part in parts:
            name = getattr(part, "__name__", "idle")
            applied = applied or name == "apply"
            try:
                part()
            except (Fault, subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
                self.check(name, False, str(error))
                self.show_trouble()
                if name in ("preflight", "apply"):
                    break
        if applied and not self.args.keep:
            try:
                self.teardown()
            except (Fault, subprocess.SubprocessError) as error:
                self.check("teardown", False, str(error))
        return self.report()

    def show_trouble(self):
        for arguments in (("get", "pods", "-o", "wide"), ("get", "events", "--sort-by=.lastTimestamp"),
                          ("logs", "deploy/everring-chaos", "--tail=30")):
            shown = self.kubectl(*arguments, check=False)
            print("\n".join((shown.stdout + shown.stderr).splitlines()[-40:]), flush=True)

    def report(self):
        for failure in self.failures:
            print(f"failed: {failure}")
        if self.args.figures:
            self.args.figures.parent.mkdir(parents=True, exist_ok=True)
            self.args.figures.write_text(json.dumps(self.figures, indent=1) + "\n")
        # The words that the test summary of CI reads.
        print(f"{self.passed} passed, {len(self.failures)} failed")
        print(json.dumps(self.figures))
        return 1 if self.failures else 0


def seconds_of(text):
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def tag(span, key):
    return next((tag["value"] for tag in span["tags"] if tag["key"] == key), None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short form, for CI")
    parser.add_argument("--keep", action="store_true", help="leave everything as it is at the end")
    parser.add_argument("--overlay", type=pathlib.Path, default=ROOT / "deploy" / "k8s")
    parser.add_argument("--everring", default="everring", help="the program, for the load from outside")
    parser.add_argument("--image", default="everring:dev", help="the image that the overlay names")
    parser.add_argument("--built", type=json.loads, help="what deploy/image/build.sh said of the image, as JSON")
    parser.add_argument("--next-image", default="everring:next", help="the image to roll to and back from")
    parser.add_argument("--figures", type=pathlib.Path, help="where the figures are written")
    sys.exit(Test(parser.parse_args()).run())


if __name__ == "__main__":
    main()
