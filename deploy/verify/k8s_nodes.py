"""The part of a cluster that deploy/verify/k8s.sh has no machines for: nodes whose pods "run", and their metrics.

The API server, the controllers, the scheduler and the autoscaler are real. Three nodes in three zones call every pod
that is bound to them ready half a second later, unless its image is called never-ready, and let go of what is deleted.
The metrics API spreads the millicores in the file ``load`` over the gateway's pods.
`python k8s_nodes.py SERVER TOKEN PORT CERT KEY LOAD_FILE`
"""

import json
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SERVER, TOKEN, PORT, CERT, KEY, LOAD = sys.argv[1:]
TLS = ssl._create_unverified_context()  # the certificate that the server of this test made itself
MERGE = "application/strategic-merge-patch+json"


def api(method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
    request = urllib.request.Request(SERVER + path, data, headers, method=method)
    with urllib.request.urlopen(request, context=TLS, timeout=10) as answer:
        return json.load(answer)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def join(number: int) -> None:
    """A node says that it is there and well."""
    name = f"node-{number}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number}"}
    try:
        api("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it is known already
            raise
    room = {"cpu": "8", "memory": "16Gi", "pods": "50"}
    well = {
        "type": "Ready",
        "status": "True",
        "reason": "simulated",
        "message": "",
        "lastHeartbeatTime": now(),
    }
    api(
        "PATCH",
        f"/api/v1/nodes/{name}/status",
        {"status": {"capacity": room, "allocatable": room, "conditions": [well]}},
        MERGE,
    )


def serve_pod(pod: dict[str, Any], seen: dict[str, float]) -> None:
    """What a kubelet would do about a pod."""
    name, space, uid = (pod["metadata"][key] for key in ("name", "namespace", "uid"))
    path = f"/api/v1/namespaces/{space}/pods/{name}"
    if pod["metadata"].get("deletionTimestamp"):
        api("DELETE", path, {"gracePeriodSeconds": 0})
        return
    if not pod["spec"].get("nodeName") or pod["status"].get("phase") == "Running":
        return
    if any("never-ready" in it["image"] for it in pod["spec"]["containers"]):
        return
    if time.monotonic() - seen.setdefault(uid, time.monotonic()) < 0.5:
        return
    running = {"running": {"startedAt": now()}}
    containers = [
        {
            "name": it["name"],
            "ready": True,
            "restartCount": 0,
            "image": it["image"],
            "imageID": "simulated",
            "state": running,
        }
        for it in pod["spec"]["containers"]
    ]
    ready = [
        {"type": kind, "status": "True", "lastTransitionTime": now()} for kind in ("Ready", "ContainersReady")
    ]
    status = {
        "phase": "Running",
        "podIP": f"198.18.{len(seen) // 250}.{len(seen) % 250 + 1}",
        "startTime": now(),
        "conditions": ready,
        "containerStatuses": containers,
    }
    api("PATCH", f"{path}/status", {"status": status}, MERGE)


def kubelets() -> None:
    seen: dict[str, float] = {}
    beat = 0.0
    while True:
        try:
            if time.monotonic() - beat > 5:
                for number in (1, 2, 3):
                    join(number)
                beat = time.monotonic()
            for pod in api("GET", "/api/v1/pods")["items"]:
                serve_pod(pod, seen)
        except (OSError, KeyError) as error:  # the server restarts, a pod is gone meanwhile
            sys.stderr.write(f"{error}\n")
        time.sleep(0.3)


class Metrics(BaseHTTPRequestHandler):
    """metrics.k8s.io, as much of it as the autoscaler asks for."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[-1] == "pods":
            body = self.pods(parts[parts.index("namespaces") + 1])
        elif parts[-1] == "v1beta1":
            resource = {
                "name": "pods",
                "singularName": "",
                "namespaced": True,
                "kind": "PodMetrics",
                "verbs": ["get", "list"],
            }
            body = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": "metrics.k8s.io/v1beta1",
                "resources": [resource],
            }
        else:
            version = {"groupVersion": "metrics.k8s.io/v1beta1", "version": "v1beta1"}
            body = {
                "kind": "APIGroup",
                "apiVersion": "v1",
                "name": "metrics.k8s.io",
                "versions": [version],
                "preferredVersion": version,
            }
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def pods(self, space: str) -> dict[str, Any]:
        load = int(Path(LOAD).read_text())
        selector = "labelSelector=app.kubernetes.io%2Fcomponent%3Dgateway"
        running = [
            it
            for it in api("GET", f"/api/v1/namespaces/{space}/pods?{selector}")["items"]
            if it["status"].get("phase") == "Running"
        ]
        usage = {"cpu": f"{load // max(1, len(running))}m", "memory": "100Mi"}
        items = [
            {
                "metadata": {
                    "name": it["metadata"]["name"],
                    "namespace": space,
                    "labels": it["metadata"]["labels"],
                },
                "timestamp": now(),
                "window": "30s",
                "containers": [{"name": "gateway", "usage": usage}],
            }
            for it in running
        ]
        return {
            "kind": "PodMetricsList",
            "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {},
            "items": items,
        }


def main() -> None:
    threading.Thread(target=kubelets, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(PORT)), Metrics)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
