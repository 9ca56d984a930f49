"""Finds in workflows what only a deployment to Google, or a long run, would show.

    python check.py FILE...

A line for each fault: an expression that is too long or does not parse, a variable that is never assigned, a step name
that stands twice, a jump to nowhere, too many assignments, a call of what is not there, wrong arguments of a connector
(by the discovery documents) or of a subworkflow, an error's text with a colon that YAML would cut.
Limits: cloud.google.com/workflows/quotas.
"""

import ast
import re
import sys

import yaml

sys.argv[1:1] = ["", "", ""]
import run  # noqa: E402

LIBRARY = set(run.render.STANDARD_LIBRARY) | {"if_", "null", "true", "false"}
JUMPS = {"continue", "break", "end"}
# Not in a discovery document: cloud.google.com/workflows/docs/reference/googleapis/workflowexecutions/…/run
RUN = {"workflow_id", "argument", "location", "project_id"}


def expressions(value):
    if isinstance(value, str):
        yield from (text for kind, text in run.pieces(value) if kind == "expression")
    elif isinstance(value, dict):
        for part in value.values():
            yield from expressions(part)
    elif isinstance(value, list):
        for part in value:
            yield from expressions(part)


def steps_below(value):
    """Every list of steps, the whole one first, and with each whether it is a loop's."""
    if isinstance(value, dict):
        if isinstance(value.get("steps"), list):
            yield value["steps"]
        for part in value.values():
            yield from steps_below(part)
    elif isinstance(value, list):
        for part in value:
            yield from steps_below(part)


def find(value, key):
    if isinstance(value, dict):
        if key in value:
            yield value
        for part in value.values():
            yield from find(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from find(part, key)


def assigned(workflow):
    names = {name if isinstance(name, str) else next(iter(name)) for name in workflow.get("params", [])}
    for step in find(workflow["steps"], "assign"):
        if isinstance(step["assign"], list):
            names |= {re.match(r"\w+", next(iter(variable)))[0] for variable in step["assign"]}
    names |= {step["result"] for step in find(workflow["steps"], "call") if isinstance(step.get("result"), str)}
    for step in find(workflow["steps"], "for"):
        names |= {step["for"][what] for what in ("value", "index") if what in step["for"]}
    return names | {step["as"] for step in find(workflow["steps"], "as")}


def faults(path):
    source = open(path, encoding="utf-8").read()
    workflows = yaml.safe_load(source)
    if len(source.encode()) > run.SOURCE:
        yield "the source is larger than 128 KB"
    for name, workflow in workflows.items():
        for fault in of_subworkflow(workflow, workflows):
            yield f"{name}: {fault}"


def of_subworkflow(workflow, workflows):
    names, known = [next(iter(step)) for steps in steps_below(workflow) for step in steps], assigned(workflow)
    yield from (f"two steps are called {name}" for name in sorted(set(names)) if names.count(name) > 1)
    for code in expressions(workflow):
        if len(code) > run.EXPRESSION:
            yield f"an expression has {len(code)} characters: {code}"
        try:
            tree = ast.parse(re.sub(r"\bif\(", "if_(", code.strip()), mode="eval")
        except SyntaxError as error:
            yield f"{code}: {error}"
            continue
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        yield from (f"{code}: {name} is never assigned" for name in sorted(used - known - LIBRARY))
    for step in find(workflow, "next"):
        if step["next"] not in names and step["next"] not in JUMPS:
            yield f"next: {step['next']} is no step"
    for step in find(workflow, "assign"):
        if isinstance(step["assign"], list) and len(step["assign"]) > 50:
            yield "a step has more than 50 assignments"
    for step in find(workflow, "call"):
        if isinstance(step["call"], str):
            yield from of_call(step, workflows)


def of_call(step, workflows):
    called, args = step["call"], set(step.get("args", {}))
    if called in workflows:
        params = {name if isinstance(name, str) else next(iter(name)) for name in workflows[called].get("params", [])}
        if args != params:
            yield f"{called} takes {sorted(params)}, and gets {sorted(args)}"
    elif called.startswith("googleapis."):
        yield from of_connector(called, args)
    else:
        library, _, function = called.partition(".")
        if not hasattr(run.render.STANDARD_LIBRARY.get(library), function):
            yield f"{called} is not there"


def of_connector(called, args):
    _, service, version, *path, method = called.split(".")
    args = args - {"connector_params"}
    if (service, method) == ("workflowexecutions", "run"):
        if not {"workflow_id"} <= args <= RUN:
            yield f"{called} gets {sorted(args)}"
        return
    found = run.discovery(service, version)
    for part in path:
        found = found["resources"].get(part, {"resources": {}, "methods": {}})
    found = found["methods"].get(method)
    if found is None:
        yield f"{called} is not there"
        return
    known = set(found.get("parameters", {})) | ({"body"} if "request" in found else set())
    needed = {name for name, what in found.get("parameters", {}).items() if what.get("required")}
    if not needed <= args <= known:
        yield f"{called} takes {sorted(known)}, needs {sorted(needed)}, and gets {sorted(args)}"


if __name__ == "__main__":
    found = [f"{path}: {fault}" for path in sys.argv[4:] for fault in faults(path)]
    print("\n".join(found))
    sys.exit(1 if found else 0)
