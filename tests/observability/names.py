#!/usr/bin/env python3
"""Every metric that a dashboard or an alert asks for is in conventions.md, every alert has its chapter in the runbooks,
every query is one (names.py PROMTOOL)."""

import json
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What OpenMetrics adds to a name.
SUFFIXES = ("", "_total", "_seconds", "_seconds_count", "_seconds_sum", "_seconds_bucket")
# Made by Prometheus, by its rules, and by the collector of spans.
OTHERS = re.compile(r"^(up|everring:.*|traces_span_metrics_.*)$")


def names_in(expression):
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    return {name for name in re.findall(r"[a-zA-Z_:][\w:]*", bare) if "_" in name or ":" in name or name == "up"}


def main():
    promtool = sys.argv[1]
    text = (ROOT / "observability" / "conventions.md").read_text()
    metrics = text.split("## Metrics", 1)[1]
    known = {name + suffix for name in re.findall(r"^\| `(\w+)` \|", metrics, re.MULTILINE) for suffix in SUFFIXES}
    functions = {"histogram_quantile"}
    found = []
    queries = []
    for path in sorted((ROOT / "observability" / "dashboards").glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            if not panel["title"] or not panel["targets"]:
                found.append(f"{path.name}: a panel without a title or a query")
            queries += [(f"{path.stem}: {panel['title']}", target["expr"]) for target in panel["targets"]]
    listed = yaml.safe_load((ROOT / "observability" / "alerts" / "everring.yaml").read_text())
    runbooks = (ROOT / "docs" / "runbooks.md").read_text()
    for rule in (rule for group in listed["groups"] for rule in group["rules"]):
        queries.append((rule.get("alert") or rule["record"], rule["expr"]))
        if "alert" not in rule:
            continue
        name = rule["alert"]
        if rule["annotations"].get("runbook") != f"docs/runbooks.md#{name.lower()}":
            found.append(f"{name} does not name its chapter in docs/runbooks.md")
        if not re.search(rf"^## {name}$", runbooks, re.MULTILINE):
            found.append(f"docs/runbooks.md has no chapter {name}")
    for where, expression in queries:
        for name in names_in(expression) - known - functions:
            if not OTHERS.match(name):
                found.append(f"{where}: {name} is not in observability/conventions.md")
        formatted = subprocess.run([promtool, "--experimental", "promql", "format", expression], capture_output=True, text=True)
        if formatted.returncode:
            found.append(f"{where}: {formatted.stderr.strip()}")
    print("\n".join(found) or f"{len(queries)} queries")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
