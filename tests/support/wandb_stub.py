"""A W&B server as small as the client allows: it keeps what `wandb sync` sends and answers what `wandb.Api` asks."""

import base64
import gzip
import http.server
import json
import re
import threading

ENTITY, PROJECT = "someone", "hies"


class Stub:
    """runs: W&B id -> {config, group, artifacts}; a test may put its own there. files: address -> bytes.

    asked: the names of all operations. unknown: those without an answer. refuses: the names that get HTTP 500.
    """

    def __init__(self):
        self.runs, self.artifacts, self.files, self.asked, self.unknown, self.refuses = {}, {}, {}, [], [], set()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name, config, group=None):
        """A run as somebody else may have uploaded it."""
        self.runs[name] = {"config": config, "group": group, "artifacts": []}

    def answer(self, query, variables):
        """The `data` of a GraphQL answer; None where the server is to fail."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found.group(1) if found else "viewer"
        self.asked.append(name)
        if name in self.refuses:
            return None
        answer = ANSWERS.get(name)
        if answer is None:
            self.unknown.append((name, query, variables))
            return {}
        return answer(self, variables)

    def file(self, name):
        """Where a file is put, and had again."""
        return f"{self.url}/storage/{name}"


def _upsert(stub, sent):
    run = stub.runs.setdefault(sent["name"], {"config": {}, "group": None, "artifacts": []})
    if sent["config"]:
        run["config"] = {key: part["value"] for key, part in json.loads(sent["config"]).items()}
    run["group"] = sent["groupName"] or run["group"]
    project = {"id": "p", "name": sent["project"], "entity": {"id": "e", "name": ENTITY}}
    bucket = {"id": sent["name"], "name": sent["name"], "displayName": sent["displayName"], "project": project}
    return {"upsertBucket": {"inserted": True, "bucket": bucket | {"historyLineCount": 0}}}


def _run_files(stub, sent):
    files = [{"name": name, "uploadUrl": stub.file(f"{sent['run']}/{name}")} for name in sent["files"]]
    return {"createRunFiles": {"runID": sent["run"], "uploadHeaders": [], "files": files}}


def _artifact(stub, sent):
    key = f"artifact{len(stub.artifacts)}"
    stub.artifacts[key] = sent["input"]
    return {
        "createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}
    }


def _manifest(stub, sent):
    key = sent.get("artifactID") or sent["artifactManifestID"]
    file = {"uploadUrl": stub.file(f"{key}/manifest"), "uploadHeaders": [], "id": key}
    name = "createArtifactManifest" if "artifactID" in sent else "updateArtifactManifest"
    return {name: {"artifactManifest": {"id": key, "file": file}}}


def _artifact_files(stub, sent):
    edges = []
    for file in sent["input"]["artifactFiles"]:
        place = base64.b64decode(file["md5"]).hex()  # which is how the client asks for it
        node = {"storagePath": place, "uploadUrl": stub.file(place), "uploadHeaders": [], "uploadMultipartUrls": None}
        edges.append({"node": node | {"name": file["name"], "artifact": {"id": file["artifactID"]}}})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _commit(stub, sent):
    stub.runs[stub.artifacts[sent["artifactID"]]["runName"]]["artifacts"].append(sent["artifactID"])
    return {"commitArtifact": {"artifact": {"id": sent["artifactID"], "digest": "d"}}}


def _runs(stub, sent):
    filters = json.loads(sent.get("filters") or "{}")
    group, names = filters.get("group"), filters.get("name", {}).get("$in", stub.runs)
    found = {name: run for name, run in stub.runs.items() if group in (None, run["group"]) and name in names}
    first = int(sent.get("cursor") or 0)
    page = list(found.items())[first : first + sent.get("perPage", 50)]
    edges = [{"node": _run_node(name, run), "cursor": str(first + i + 1)} for i, (name, run) in enumerate(page)]
    more = {"endCursor": None, "hasNextPage": first + len(page) < len(found)}
    runs = {"edges": edges, "pageInfo": more}
    return {"project": {"internalId": "p", "runCount": len(found), "readOnly": False, "runs": runs}}


def _run_node(name, run):
    config = json.dumps({key: {"value": value} for key, value in run["config"].items()})
    empty = dict.fromkeys(("sweepName", "jobType", "commit", "description", "notes", "historyKeys"))
    times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-02T03:04:05Z")
    texts = {"id": name, "name": name, "displayName": name, "group": run["group"], "state": "finished"}
    metrics = {"config": config, "systemMetrics": "{}", "summaryMetrics": "{}", "historyLineCount": 0}
    others = {"tags": [], "user": {}, "readOnly": False}
    return {**empty, **times, **texts, **metrics, **others, "projectId": "1"}


def _outputs(stub, sent):
    edges = [{"node": _artifact_node(key, stub.artifacts[key])} for key in stub.runs[sent["run"]]["artifacts"]]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"project": {"run": {"artifacts": {"totalCount": len(edges), "pageInfo": page, "edges": edges}}}}


def _artifact_node(key, sent):
    project = {"id": "p", "internalId": "1", "name": PROJECT, "entity": {"name": ENTITY}}
    sequence = {"__typename": "ArtifactSequence", "name": sent["artifactCollectionName"], "project": project}
    empty = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt"))
    numbers = {"ttlDurationSeconds": -1, "versionIndex": 0, "size": 1, "fileCount": 2, "ttlIsInherited": True}
    texts = {"__typename": "Artifact", "id": key, "state": "COMMITTED", "createdAt": "2026-01-02T03:04:05Z"}
    return {
        **empty, **numbers, **texts, "digest": sent["digest"], "digestAlgorithm": "MANIFEST_MD5", "tags": [],
        "aliases": [], "artifactType": {"name": sent["artifactTypeName"]}, "artifactSequence": sequence,
    }  # fmt: skip


VIEWER = {
    "id": "1", "name": ENTITY, "username": ENTITY, "email": "", "admin": False, "entity": ENTITY, "flags": "{}",
    "teams": {"edges": []},
}  # fmt: skip
ANSWERS = {
    "viewer": lambda *_: {"viewer": VIEWER},
    "GetDefaultEntity": lambda *_: {"viewer": VIEWER},
    "Viewer": lambda *_: {"viewer": VIEWER},
    "ServerFeaturesQuery": lambda *_: {"serverInfo": {"features": []}},
    "UpsertBucket": _upsert,
    "CreateRunFiles": _run_files,
    "CreateArtifact": _artifact,
    "CreateArtifactManifest": _manifest,
    "UpdateArtifactManifest": _manifest,
    "CreateArtifactFiles": _artifact_files,
    "CommitArtifact": _commit,
    "Runs": _runs,
    "RunOutputArtifacts": _outputs,
    "FetchArtifactManifest": lambda stub, sent: {
        "artifact": {"currentManifest": {"file": {"directUrl": stub.file(f"{sent['id']}/manifest")}}}
    },
}


def _handler(stub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self._body()
            if self.path != "/graphql":  # the history of a run
                return self._send(b"{}")
            asked = json.loads(body)
            data = stub.answer(asked["query"], asked.get("variables") or {})
            self._send(json.dumps({"data": data}).encode(), 200 if data is not None else 500)

        def do_PUT(self):
            stub.files[self.path] = self._body()
            self._send(b"")

        def do_GET(self):
            path = re.sub(r"^/artifacts(V2)?/.*?([0-9a-f]{32}).*$", r"/storage/\2", self.path)
            self._send(stub.files.get(path, b""), 200 if path in stub.files else 404)

        def _body(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

        def _send(self, body, status=200):
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler
