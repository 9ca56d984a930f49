"""Finds in workflows what only a deployment to Google, or a long run, would show.

    python check.py FILE...

A line for each fault: an expression that is too long or does not parse, a variable that is never assigned, or only in
another block, a step name that stands twice, a jump to nowhere, too many assignments, a call of what is not there, wrong
arguments or parameters of a connector (by the discovery documents) or arguments of a subworkflow.
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


class Names:
    """Which names are there, step by step in the order of the text.

    What a `for` or an `except` is the first to assign is gone after it. So is what a `try` assigned, if its `except`
    assigns it too: nobody knows which of them it was.
    """

    def __init__(self, workflow):
        self.faults = []
        self.ever = params_of(workflow)
        self.ever |= ever_assigned(workflow["steps"])
        self.steps(workflow["steps"], params_of(workflow))

    def steps(self, steps, there):
        for step in steps:
            self.step(next(iter(step.values())), there)

    def step(self, step, there):
        if "try" in step:
            self.tried(step, there)
        elif "for" in step or "parallel" in step:
            self.loop(step, there)
        elif "switch" in step:
            for branch in step["switch"]:
                self.read(branch["condition"], there)
                self.step({name: part for name, part in branch.items() if name != "condition"}, there)
        elif "steps" in step:
            self.steps(step["steps"], there)
        elif isinstance(step.get("assign"), list):
            for variable in step["assign"]:
                keys = [f"${{{key}}}" for key in re.findall(r"\[(.*?)\]", next(iter(variable)))]
                self.read([*variable.values(), *keys], there)
                there |= assigned_by({"assign": [variable]})
        else:
            self.read(step, there)
            there |= assigned_by(step)

    def tried(self, step, there):
        inside, caught = set(there), set(there)
        body = step["try"]
        self.step(body if "steps" in body else {"steps": [{"try": body}]}, inside)
        self.read(step.get("retry"), there)
        if "except" in step:
            caught.add(step["except"]["as"])
            self.steps(step["except"]["steps"], caught)
        there |= inside - (caught - there)

    def loop(self, step, there):
        outer = step.get("parallel", step)
        loop = outer["for"]
        self.read([loop.get("in"), loop.get("range"), outer.get("concurrency_limit")], there)
        self.steps(loop["steps"], there | {loop[what] for what in ("value", "index") if what in loop})

    def read(self, value, there):
        for code in expressions(value):
            try:
                tree = ast.parse(re.sub(r"\bif\(", "if_(", code.strip()), mode="eval")
            except SyntaxError as error:
                self.faults.append(f"{code}: {error}")
                continue
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            for name in sorted(used - there - LIBRARY):
                elsewhere = "read before or outside of where it is assigned"
                self.faults.append(f"{code}: {name} is {elsewhere if name in self.ever else 'never assigned'}")


def ever_assigned(value):
    names = {step["as"] for step in find(value, "as")}
    for what in ("assign", "call"):
        names |= {name for step in find(value, what) for name in assigned_by(step)}
    for step in find(value, "for"):
        names |= {step["for"][what] for what in ("value", "index") if what in step["for"]}
    return names


def params_of(workflow):
    return {name if isinstance(name, str) else next(iter(name)) for name in workflow.get("params", [])}


def assigned_by(step):
    names = {step["result"]} if isinstance(step.get("result"), str) else set()
    if isinstance(step.get("assign"), list):
        names |= {re.match(r"\w+", next(iter(variable)))[0] for variable in step["assign"]}
    return names


def faults(path):
    source = open(path, encoding="utf-8").read()
    workflows = yaml.safe_load(source)
    if len(source.encode()) > run.SOURCE:
        yield "the source is larger than 128 KB"
    for name, workflow in workflows.items():
        for fault in of_subworkflow(workflow, workflows):
            yield f"{name}: {fault}"


def of_subworkflow(workflow, workflows):
    names = [next(iter(step)) for steps in steps_below(workflow) for step in steps]
    yield from (f"two steps are called {name}" for name in sorted(set(names)) if names.count(name) > 1)
    yield from (
        f"an expression has {len(code)} characters: {code}"
        for code in expressions(workflow)
        if len(code) > run.EXPRESSION
    )
    yield from Names(workflow).faults
    for step in find(workflow, "next"):
        if step["next"] not in names and step["next"] not in JUMPS:
            yield f"next: {step['next']} is no step"
    for step in find(workflow, "assign"):
        if isinstance(step["assign"], list) and len(step["assign"]) > 50:
            yield "a step has more than 50 assignments"
    for step in find(workflow, "call"):
        if isinstance(step["call"], str):
            yield from of_call(step, workflows)
    for step in find(workflow, "connector_params"):
        if unknown := run.unknown_params(step["connector_params"]):
            yield f"connector_params has no {unknown}"


def of_call(step, workflows):
    called, args = step["call"], set(step.get("args", {}))
    if called in workflows:
        params = params_of(workflows[called])
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
