#!/usr/bin/env python3
"""Writes what the program is made of, as a CycloneDX 1.5 bill of materials: every crate that is linked into it.

    cargo metadata --format-version 1 --locked --features kubernetes --filter-platform TRIPLE | sbom.py Cargo.lock > F

No clock and no chance: the same lock file gives the same bytes.
"""

import hashlib
import json
import re
import sys
import uuid


def checksums(path):
    """Name and version of each package in the lock file, with its checksum where it has one."""
    found = {}
    with open(path, encoding="utf-8") as lock:
        for block in lock.read().split("[[package]]")[1:]:
            fields = dict(re.findall(r'^(name|version|checksum) = "(.*)"$', block, re.MULTILINE))
            found[fields["name"], fields["version"]] = fields.get("checksum")
    return found


def linked(metadata, root):
    """The packages that are linked into `root`: neither build scripts' nor tests' dependencies, nor macros."""
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    kinds = {id: {kind for target in package["targets"] for kind in target["kind"]} for id, package in packages.items()}
    edges, todo = {}, [root]
    while todo:
        at = todo.pop()
        if at in edges:
            continue
        wanted = [
            dep["pkg"]
            for dep in nodes[at]["deps"]
            if any(kind["kind"] is None for kind in dep["dep_kinds"]) and "proc-macro" not in kinds[dep["pkg"]]
        ]
        edges[at] = sorted(set(wanted))
        todo.extend(wanted)
    return {id: packages[id] for id in edges}, edges


def main():
    metadata, sums = json.load(sys.stdin), checksums(sys.argv[1])
    root = next(package["id"] for package in metadata["packages"] if package["name"] == "everring")
    packages, edges = linked(metadata, root)

    def reference(id):
        return f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"

    def component(id):
        package = packages[id]
        made = {
            "type": "application" if id == root else "library",
            "bom-ref": reference(id),
            "name": package["name"],
            "version": package["version"],
            "purl": reference(id),
        }
        if package["license"]:
            made["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", " ".join(package["license"].split()))}]
        checksum = sums.get((package["name"], package["version"]))
        if checksum:
            made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return made

    order = sorted(packages, key=reference)
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(root)},
        "components": [component(id) for id in order if id != root],
        "dependencies": [{"ref": reference(id), "dependsOn": [reference(to) for to in edges[id]]} for id in order],
    }
    name = hashlib.sha256(json.dumps(bill, sort_keys=True).encode()).hexdigest()
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}"
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
