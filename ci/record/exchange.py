"""Shared by the recorders: one HTTP exchange, and the replacement of what differs from run to run."""

import http.client
import json
import re
import socket
import time

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?")


class Recorder:
    """Sends requests and keeps what came back, with volatile values replaced.

    `fixed` holds identifiers that the recorder chose itself and that therefore stay; `replace` maps other literal
    texts to their place-holders; `headers` names the response headers that are kept.
    """

    def __init__(self, port, headers, fixed=(), replace=None):
        self.port = port
        self.kept = [name.lower() for name in headers]
        self.fixed = set(fixed)
        self.replace = dict(replace or {})
        self.clocks = {"started_at"}
        self.seen = {}
        self.exchanges = []

    def ask(self, name, method, path, body=None, headers=None, raw=None, keep=True, shape=None):
        """One exchange. `body` is sent as JSON, `raw` as it is. Of the key `shape` of the answer only the types of
        the values are kept. Returns status and parsed body."""
        data = raw if raw is not None else None if body is None else json.dumps(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = dict(headers or {})
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        try:
            parsed = json.loads(content) if content else None
        except ValueError:
            parsed = content.decode()
        if keep:
            answered = {k.lower(): v for k, v in response.getheaders()}
            request = {"method": method, "path": path}
            if headers:
                request["headers"] = headers
            if raw is not None:
                # A text holds the bytes one to one where they are no UTF-8.
                request["raw" if isinstance(raw, str) else "bytes"] = raw if isinstance(raw, str) else raw.hex()
            elif body is not None:
                request["body"] = body
            self.exchanges.append(self.tidy({
                "name": name,
                "request": request,
                "response": {
                    "status": response.status,
                    "headers": {k: in_order(k, answered[k]) for k in self.kept if k in answered},
                    "body": {**parsed, shape: shape_of(parsed[shape])} if shape else parsed,
                },
            }))
        return response.status, parsed

    def tidy(self, value):
        """Replaces volatile values, keeping the order of keys."""
        if isinstance(value, dict):
            return {
                self.text(key): "FLOAT" if isinstance(item, float) and key in self.clocks else self.tidy(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.tidy(item) for item in value]
        if isinstance(value, str):
            return self.text(value)
        return value

    def text(self, text):
        text = text.replace(f"127.0.0.1:{self.port}", "HOST")
        for literal, name in self.replace.items():
            text = text.replace(literal, name)
        text = STAMP.sub("TIMESTAMP", text)
        return UUID.sub(self.identifier, text)

    def identifier(self, match):
        found = match.group(0)
        if found in self.fixed:
            return found
        return self.seen.setdefault(found, f"UUID-{len(self.seen) + 1}")

    def take(self):
        """The exchanges since the last call."""
        taken, self.exchanges = self.exchanges, []
        return taken


def in_order(name, value):
    """Allow lists methods in an order that changes from request to request."""
    return ", ".join(sorted(value.split(", "))) if name == "allow" else value


def shape_of(value):
    """A value with its scalars replaced by the names of their types: for answers that describe this machine."""
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes = []
        for item in value:
            if shape_of(item) not in shapes:
                shapes.append(shape_of(item))
        return shapes
    return {str: "str", bool: "bool", int: "int", float: "float", type(None): "null"}[type(value)]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, check, seconds=60):
    """Waits for a condition; says which one when it does not come."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{what} did not happen within {seconds} s")


def write(path, note, exchanges, **more):
    document = {"recorded": note, **more, "exchanges": exchanges}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        json.dump(document, out, indent=1, ensure_ascii=False)
        out.write("\n")
