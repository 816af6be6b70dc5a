#!/usr/bin/env python3
"""What a rendered overlay must always be, beyond what a schema or a general linter knows: policy.py NAME FILE."""

import sys

import yaml

RESTRICTED = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/component", "app.kubernetes.io/part-of")
RIGHTS = {
    "everring-storage-node": {("apps", "statefulsets"): {"get"}},
    "everring-chaos": {
        ("", "pods"): {"get", "list", "watch", "delete"},
        ("", "pods/eviction"): {"create"},
        ("events.k8s.io", "events"): {"create"},
        ("coordination.k8s.io", "leases"): {"get", "update"},
    },
}


def complaints(objects):
    def named(kind):
        return [item for item in objects if item["kind"] == kind]

    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] in ("Deployment", "StatefulSet"):
            yield from (f"{name}: {what}" for what in workload(item))
        if item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            yield f"{name}: nothing of ours needs rights in the whole cluster"
    sets = {item["metadata"]["name"]: item for item in named("StatefulSet")}
    nodes = sets["everring-storage-node"]["spec"]
    if nodes["podManagementPolicy"] != "Parallel":
        yield "the storage nodes start one after the other, which waits for ever while the ring forms"
    config = next(item for item in named("ConfigMap") if item["metadata"]["name"] == "everring-fleet")["data"]
    if config["EVERRING_RING_SIZE"] != str(nodes["replicas"]):
        yield f"the ring forms with {config['EVERRING_RING_SIZE']} nodes, and {nodes['replicas']} are started"
    budgets = {item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for item in named("PodDisruptionBudget")}
    roles = {"discovery", "storage-node", "gateway", "router"}
    if roles - budgets:
        yield f"no disruption budget for {', '.join(sorted(roles - budgets))}"
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in named("HorizontalPodAutoscaler")}
    for item in named("Deployment"):
        if item["metadata"]["name"] in scaled and "replicas" in item["spec"]:
            yield f"{item['metadata']['name']} has a number of replicas and an autoscaler: each apply would undo the latter"
    denied = [item for item in named("NetworkPolicy") if not item["spec"]["podSelector"]]
    if not any(not item["spec"].get("ingress") and not item["spec"].get("egress") for item in denied):
        yield "there is no network policy that denies everything by default"
    for role in named("Role"):
        name = role["metadata"]["name"]
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    extra = set(rule["verbs"]) - RIGHTS.get(name, {}).get((group, resource), set())
                    if extra:
                        yield f"Role/{name}: {', '.join(sorted(extra))} {resource} is more than it needs"
            if {"leases", "statefulsets"} & set(rule["resources"]) and rule.get("resourceNames") != [name]:
                yield f"Role/{name}: any of {', '.join(rule['resources'])}, and not its own alone"
    allowed = [item["metadata"]["name"] for item in objects if template(item).get("everring.dev/chaos") == "allowed"]
    if any("chaos" in name for name in allowed):
        yield "the monkey has opted in to be struck itself"
    space = named("Namespace")[0]["metadata"]["labels"]
    if space.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted profile"


def template(item):
    return item.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {}) if isinstance(item.get("spec"), dict) else {}


def workload(item):
    pod = item["spec"]["template"]
    for key in LABELS:
        if key not in pod["metadata"]["labels"]:
            yield f"its pods have no label {key}"
    context = pod["spec"].get("securityContext", {})
    for key, value in RESTRICTED.items():
        if context.get(key) != value:
            yield f"securityContext.{key} is {context.get(key)}, and must be {value}"
    component = pod["metadata"]["labels"].get("app.kubernetes.io/component")
    if pod["spec"].get("automountServiceAccountToken") and component not in ("chaos", "storage-node"):
        yield "it gets a token for the cluster's API, which only the monkey and the storage nodes need"
    for container in pod["spec"]["containers"]:
        for key, value in CONTAINER.items():
            if container.get("securityContext", {}).get(key) != value:
                yield f"container {container['name']}: securityContext.{key} must be {value}"
        for probe in ("readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"container {container['name']} has no {probe}"
        if not {"cpu", "memory"} <= set(container["resources"].get("requests", {})):
            yield f"container {container['name']} does not say what it needs"
        image = container["image"]
        if image.startswith("everring:"):
            if "startupProbe" not in container:
                yield f"container {container['name']} has no startupProbe"
            path = container["livenessProbe"]["httpGet"]["path"]
            if path != "/livez":
                yield f"container {container['name']}: liveness at {path}, which may depend on peers"
        elif not image.startswith("everring.test/") and "@sha256:" not in image:
            yield f"image {image} is not named by its digest"


def main():
    name, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        objects = [item for item in yaml.safe_load_all(file) if item]
    found = list(complaints(objects))
    for complaint in found:
        print(f"FAILED  {name}: {complaint}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
