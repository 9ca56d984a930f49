"""Runs a workflow in `workflows-emulator`, with what it lacks of Google's Workflows, against the sandbox.

    python run.py FOLDER NAME ADDRESS < arguments.json

FOLDER holds the workflows as NAME.yaml, ADDRESS is where the sandbox listens. What happens is told on stdout, a JSON
object a line: {"step": …} and {"log": …} as they come, at last {"result": …} or {"error": …}, with the number of steps
and the largest size that the variables had.

What is put in place of the emulator's own, and why:
  expressions   theirs pass values through YAML, which damages nulls and texts; `if`, null, true and false are missing
  connectors    theirs send no query, take any argument, and do not wait for operations
  retries       theirs do not read the delay of http.default_retry, and fail on errors without a code
  scopes        theirs keeps what an except block was the first to assign
  parallel      theirs has no limit, and its branches share their variables
  events        theirs has none; the sandbox has
  executions    a child runs here, in its own execution
  sleep         theirs takes as long as it says; here it is twenty times as fast
  schema        theirs wants literal numbers where expressions are allowed
  limits        theirs has none; Google's are at cloud.google.com/workflows/quotas
"""

import concurrent.futures
import contextvars
import copy
import importlib.resources
import json
import os
import re
import sys
import threading
import time
import types
import uuid

import google.auth
import requests
import yaml
from addict import Dict
from google.auth.transport.requests import AuthorizedSession
from workflows_emulator import main as emulator
from workflows_emulator import render, utils
from workflows_emulator.utils import WorkflowError

FOLDER, NAME, ADDRESS = sys.argv[1:4]
MEMORY = 512 * 1024
STEPS = 100_000
ARGUMENT = 32 * 1024
EXPRESSION = 400
SOURCE = 128 * 1024

execution = contextvars.ContextVar("execution")
callers = contextvars.ContextVar("callers", default=0)
telling = threading.Lock()
counted = {"steps": 0, "largest": 0}


def tell(**what):
    with telling:
        print(json.dumps(what, default=str), flush=True)


def failed(message, tags, **more):
    return WorkflowError(message=message, tags=tags, **more)


def plain(value):
    """Without the emulator's dictionaries that answer to attributes."""
    if isinstance(value, dict):
        return {key: plain(value) for key, value in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


# Expressions


class Scope(Dict):
    """Answers to attributes. The emulator's own mixes up variables with those of Python's contexts."""

    def __missing__(self, key):
        raise AttributeError(key)


def pieces(text):
    """A string as its literal parts and its expressions, in order."""
    at = 0
    while (start := text.find("${", at)) >= 0:
        quoted, depth, end = False, 1, start + 2
        while depth:
            if text[end] == "\\" and quoted:
                end += 1
            elif text[end] == '"':
                quoted = not quoted
            elif not quoted:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield from ([("text", text[at:start])] if start > at else [])
        yield ("expression", text[start + 2 : end - 1])
        at = end
    yield from ([("text", text[at:])] if at < len(text) else [])


def evaluate(code, context):
    if len(code) > EXPRESSION:
        raise SyntaxError(f"an expression of {len(code)} characters: {code}")
    scope = Scope(copy.deepcopy(context))
    scope.update(render.STANDARD_LIBRARY)
    scope.update({"null": None, "true": True, "false": False})
    try:
        return plain(eval(re.sub(r"\bif\(", "if_(", code.strip()), scope))
    except AttributeError as error:
        raise failed(f"{code}: {error} is not there", ["KeyError"]) from error
    except TypeError as error:
        raise failed(f"{code}: {error}", ["TypeError"]) from error


def render_str(value, context):
    if not isinstance(value, str):
        return value
    parts = list(pieces(value))
    if len(parts) == 1 and parts[0][0] == "expression":
        return evaluate(parts[0][1], context)
    return "".join(text if kind == "text" else as_string(evaluate(text, context)) for kind, text in parts)


def as_string(value):
    if get_type(value) not in ("string", "integer", "double", "boolean"):
        raise failed(f"string: a {get_type(value)} is no text", ["TypeError"])
    return value if isinstance(value, str) else encode(value)


def encode(value):
    return json.dumps(value, separators=(",", ":"))


def get_type(value):
    kinds = {bool: "boolean", bytes: "bytes", float: "double", int: "integer", str: "string", type(None): "null"}
    return "map" if isinstance(value, dict) else "list" if isinstance(value, list) else kinds[type(value)]


def substring(source, start, end):
    if not 0 <= start <= end <= len(source):
        raise failed(f"text.substring: {start} to {end} of {len(source)}", ["IndexError"])
    return source[start:end]


def map_get(obj, keys):
    """Null where something is missing. That it passes over what is no map is written nowhere."""
    for key in keys if isinstance(keys, list) else [keys]:
        if obj is not None and not isinstance(obj, dict):
            raise failed(f"map.get: a {get_type(obj)} has no {key}", ["TypeError"])
        obj = (obj or {}).get(key)
    return obj


def get_env(name, *default):
    known = {
        "GOOGLE_CLOUD_PROJECT_ID": execution.get()["project"],
        "GOOGLE_CLOUD_LOCATION": "europe-west1",
        "GOOGLE_CLOUD_WORKFLOW_ID": execution.get()["workflow"],
        "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID": execution.get()["id"],
    }
    if name not in known:
        raise failed(f"{name} is not set", ["KeyError"])
    return known[name]


def log(text=None, severity="INFO", json=None, data=None, timeout=None):
    tell(log=plain(json or data or text), severity=severity)


# Callbacks


def events(what, **asked):
    return requests.post(f"http://{ADDRESS}/events/{what}", json=asked)


def create_callback_endpoint(http_callback_method="POST"):
    return events("endpoints", execution=execution.get()["name"], method=http_callback_method).json()


def await_callback(callback, timeout=43200):
    answer = events("await", url=callback["url"], seconds=timeout)
    if answer.status_code == 408:
        raise failed(f"no callback in {timeout} seconds", ["TimeoutError"])
    answer.raise_for_status()
    return answer.json()


render.ContextDict = utils.ContextDict = Scope
render.render_str = render_str
render.STANDARD_LIBRARY.update(
    {
        "default": lambda value, other: other if value is None else value,
        "get_type": get_type,
        "if_": lambda condition, yes, no: yes if condition else no,
        "string": as_string,
        "events": types.SimpleNamespace(
            create_callback_endpoint=create_callback_endpoint, await_callback=await_callback
        ),
    }
)
render.lib_text.substring = substring
render.lib_map.get = map_get
render.lib_json.encode_to_string = encode
render.lib_sys.get_env = get_env
render.lib_sys.log = log
render.lib_sys.sleep = lambda seconds: time.sleep(seconds / 20)
render.lib_http.default_retry = {"codes": [429, 502, 503, 504], "max_retries": 5, "delay": 0.1}


# Connectors


def discovery(service, version):
    path = importlib.resources.files("workflows_emulator") / "discovery_documents" / f"{service}_{version}.json"
    return json.loads(path.read_text())


PARAMS = {"timeout", "polling_policy", "skip_polling", "scopes"}
POLLING = {"initial_delay", "max_delay", "multiplier"}


def unknown_params(params):
    """Those that Workflows does not know: cloud.google.com/workflows/docs/connectors."""
    return sorted((set(params) - PARAMS) | (set(params.get("polling_policy", {})) - POLLING))


def connect(step):
    _, service, version, *path, method = step["call"].split(".")
    args = dict(step.get("args", {}))
    params = args.pop("connector_params", {})
    if unknown := unknown_params(params):
        raise SyntaxError(f"{step['call']}: connector_params has no {unknown}")
    if (service, method) == ("workflowexecutions", "run"):
        return run_child(**args)
    document = discovery(service, version)
    found = document
    for resource in path:
        found = found["resources"][resource]
    found = found["methods"][method]
    body, known = args.pop("body", None), found.get("parameters", {})
    if unknown := [name for name in args if name not in known]:
        raise SyntaxError(f"{step['call']} has no arguments {unknown}")
    if missing := [name for name, what in known.items() if what.get("required") and name not in args]:
        raise SyntaxError(f"{step['call']} needs the arguments {missing}")
    url = re.sub(r"{\+?(\w+)}", lambda name: args[name[1]], found["path"])
    query = {name: value for name, value in args.items() if known[name]["location"] == "query"}
    answer = call(document, found["httpMethod"], url, query, body)
    if answer.get("kind") == "compute#operation" and not params.get("skip_polling"):
        answer = finish(document, answer)
    return answer


def call(document, method, path, query=None, body=None):
    host = document["rootUrl"].removeprefix("https://").rstrip("/")
    credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    answer = AuthorizedSession(credentials).request(
        method,
        f"http://{ADDRESS}/{document['servicePath']}{path}",
        headers={"X-Forwarded-Host": host},
        params=query,
        json=body,
    )
    if not answer.ok:
        message = f"HTTP server responded with error code {answer.status_code}"
        raise failed(message, ["HttpError"], code=answer.status_code, body=answer.json())
    return answer.json()


def finish(document, operation):
    path = operation["selfLink"].split("/compute/v1/")[1]
    while operation["status"] != "DONE":
        time.sleep(0.05)
        operation = call(document, "GET", path)
    if "error" in operation:
        message = operation["error"]["errors"][0]["message"]
        raise failed(message, ["OperationError"], operation=operation)
    return operation


def run_child(workflow_id, argument, location=None, project_id=None):
    """An execution that failed is in its error as a whole, its argument too, and its own error is text."""
    if len(encode(argument)) > ARGUMENT:
        error = {"code": 400, "message": f"argument: larger than {ARGUMENT} bytes", "status": "INVALID_ARGUMENT"}
        raise failed("HTTP server responded with error code 400", ["HttpError"], code=400, body={"error": error})
    told = contextvars.copy_context().run(run, workflow_id, argument)
    if "error" in told:
        operation = {
            "argument": encode(argument),
            "error": {"context": 'in step "step", routine "main", line: 1', "payload": encode(told["error"])},
            "name": told["name"],
            "state": "FAILED",
        }
        raise failed("Long-running operation failed", ["OperationError"], operation=operation)
    return told["result"]


# Steps


class Call(emulator.StepCall):
    execute_connector = staticmethod(connect)


class Try(emulator.Step):
    """With a retry or without. What an except block is the first to assign is gone after it, as with Google."""

    def execute(self):
        try:
            return self.attempt()
        except WorkflowError as error:
            if "except" not in self.config:
                raise
            before = set(self.context)
            self.context[self.config["except"]["as"]] = plain(error.payload)
            _, jump, value = emulator.execute_steps_list(self.config["except"]["steps"], self.context)
            for name in set(self.context) - before:
                del self.context[name]
            return self.context, jump, value

    def attempt(self):
        retry = render.render_config(self.config.get("retry", {"max_retries": 0, "codes": []}), self.context)
        for left in range(retry["max_retries"], -1, -1):
            try:
                return emulator.execute_step(self.step_id, self.config["try"], self.context)
            except WorkflowError as error:
                may_pass = isinstance(error.payload, dict) and error.payload.get("code") in retry["codes"]
                if not left or not may_pass:
                    raise
                time.sleep(retry["delay"])


class Assign(emulator.StepAssign):
    """What is shared between branches is read and written under one lock, an assign step at a time."""

    def execute(self):
        shared = self.context.get("__shared")
        if shared is None:
            return self.assign()
        with shared.lock:
            self.context.update({name: shared.owner[name] for name in shared.names})
            done = self.assign()
            shared.owner.update({name: self.context[name] for name in shared.names})
            return done

    def assign(self):
        for variable in self.config["assign"]:
            (name, value), *_ = variable.items()
            root, value = emulator.assign_var(name, render.render_config(value, self.context), self.context)
            self.context[root] = plain(value)
        return self.context, self.config.get("next"), None


class Shared:
    def __init__(self, owner, names):
        self.owner, self.names, self.lock = owner, names, threading.RLock()

    def __deepcopy__(self, memo):
        return self


class Parallel(emulator.Step):
    def execute(self):
        config = self.config["parallel"]
        loop = config["for"]
        values = emulator.StepFor(self.step_id, config, self.context).get_iterator()
        shared = Shared(self.context, config.get("shared", []))
        limit = min(render.render_config(config.get("concurrency_limit", 20), self.context), 20)
        if limit < 1:
            raise failed("concurrency_limit", ["ValueError"])

        def iteration(value):
            context = {**copy.deepcopy(self.context), loop["value"]: value, "__shared": shared}
            emulator.execute_steps_list(loop["steps"], context)

        errors = []
        with concurrent.futures.ThreadPoolExecutor(limit) as pool:
            branches = [pool.submit(contextvars.copy_context().run, iteration, value) for value in values]
            for branch in branches:
                try:
                    branch.result()
                except WorkflowError as error:
                    errors.append(error.payload)
        if errors:
            raise failed("branches failed", ["UnhandledBranchError"], branches=errors)
        return self.context, self.config.get("next"), None


emulator.StepCall, emulator.StepRetry, emulator.StepTry = Call, Try, Try
emulator.StepAssign, emulator.StepParallel = Assign, Parallel
emulator.render_config = render.render_config
execute_step, execute_subworkflow = emulator.execute_step, emulator.execute_subworkflow
get_step = emulator.get_step


SCHEMA = json.loads(re.sub(r'"type": "(number|integer)"', r'"type": ["\1", "string"]', json.dumps(emulator.WORKFLOW_SCHEMA)))


def size(context):
    own = {name: value for name, value in context.items() if name != "__shared" and not is_workflow(value)}
    return len(json.dumps(own, default=str))


def is_workflow(value):
    return isinstance(value, dict) and "steps" in value


def watched_get_step(steps, wanted):
    step_id, index, config = get_step(steps, wanted)
    if step_id is not None:
        counted["steps"] += 1
        tell(step=step_id, execution=execution.get()["id"])
    return step_id, index, config


def watched_step(step_id, config, context):
    done = execute_step(step_id, config, context)
    held = callers.get() + size(context)
    counted["largest"] = max(counted["largest"], held)
    if held > MEMORY:
        raise failed(f"{held} bytes of variables after {step_id}", ["ResourceLimitError", "MemoryLimitExceededError"])
    return done


def watched_subworkflow(workflow, params, context):
    """What the caller holds counts too while it waits."""
    before = callers.set(callers.get() + held_by_caller.get())
    try:
        known = [name if isinstance(name, str) else next(iter(name)) for name in workflow.get("params", [])]
        if unknown := [name for name in params if name not in known]:
            raise SyntaxError(f"a subworkflow has no parameters {unknown}")
        return execute_subworkflow(workflow, params, context)
    finally:
        callers.reset(before)


held_by_caller = contextvars.ContextVar("held_by_caller", default=0)


class CountedCall(Call):
    def execute(self):
        before = held_by_caller.set(size(self.context))
        try:
            return super().execute()
        finally:
            held_by_caller.reset(before)


emulator.StepCall = CountedCall
emulator.get_step = watched_get_step
emulator.execute_step, emulator.execute_subworkflow = watched_step, watched_subworkflow


# Under which names Terraform deploys them.
FILES = {"long-run": "workflow", "fan-out": "fan-out"}


def run(name, argument):
    with open(os.path.join(FOLDER, f"{FILES.get(name, name)}.yaml"), encoding="utf-8") as file:
        source = file.read()
    if len(source.encode()) > SOURCE:
        raise SyntaxError(f"{name}.yaml is larger than Workflows takes")
    if len(encode(argument)) > ARGUMENT:
        raise SyntaxError(f"the argument is larger than the {ARGUMENT} bytes that Workflows takes")
    workflow = yaml.safe_load(source)
    emulator.validate(workflow, SCHEMA)
    project, own = "longrun-sandbox", str(uuid.uuid4())
    path = f"projects/{project}/locations/europe-west1/workflows/{name}/executions/{own}"
    execution.set({"project": project, "workflow": name, "id": own, "name": path})
    callers.set(0)
    held_by_caller.set(0)
    try:
        return {"name": path, "result": plain(emulator.execute_workflow(workflow, {"args": argument}))}
    except WorkflowError as error:
        return {"name": path, "error": plain(error.payload)}


if __name__ == "__main__":
    emulator.logger.disabled = render.logger.disabled = True
    told = run(NAME, json.load(sys.stdin))
    tell(**told, **counted)
