"""What is deployed agrees with the code: metrics, settings, routes, ports, and the order of the time limits."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from knowalledge.app import create_app
from knowalledge.config.settings import Settings
from knowalledge.core.parsers import duration, size
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.web.settings import ServerSettings
from tests.support.programs import program

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
BACKENDS = ("backend-1", "backend-2", "backend-3")
# Series that other programs write: the Redis exporter, and Prometheus itself.
RULE_TESTS = sorted((ROOT / "monitoring/prometheus/tests").glob("*.yml"))
FOREIGN = {
    "up",
    "redis_up",
    "redis_commands_processed_total",
    "redis_memory_used_bytes",
    "redis_memory_max_bytes",
    "redis_slowlog_last_id",
}


def k8s(path: str) -> list[dict[str, Any]]:
    return [it for it in yaml.safe_load_all((ROOT / "k8s" / path).read_text()) if it]


def deployment() -> dict[str, Any]:
    return k8s("base/deployment.yaml")[0]


def pod() -> dict[str, Any]:
    found: dict[str, Any] = deployment()["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    found: dict[str, Any] = pod()["containers"][0]
    return found


# -- metrics ----------------------------------------------------------------------------------------------------------


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression that we ship, with where it stands."""
    for file in sorted((ROOT / "monitoring/prometheus/rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield f"{file.name}: {rule.get('alert') or rule['record']}", rule["expr"]
    for file in sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]
    for trigger in k8s("components/keda/scaledobject.yaml")[0]["spec"]["triggers"]:
        if trigger["type"] == "prometheus":
            yield "keda", trigger["metadata"]["query"]


def series() -> dict[str, set[str]]:
    """Every series that the gateway writes, with its labels."""
    known = {}
    metrics = PrometheusMetrics()
    create_app(Settings.load(environ={}), metrics)
    for it in metrics.registered:
        for suffix in ("_bucket", "_sum", "_count") if it.kind == "histogram" else ("",):
            known[it.name + suffix] = set(it.labels) | ({"le"} if suffix == "_bucket" else set())
    return known


def recorded() -> set[str]:
    return {
        rule["record"]
        for file in (ROOT / "monitoring/prometheus/rules").glob("*.yml")
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_every_query_asks_for_series_and_labels_that_exist(where: str, query: str) -> None:
    known = series()
    named = re.findall(
        r"(?<![\w:])((?:[a-z]+:)?(?:knowalledge|redis)[_:]\w+(?::\w+)?|up)(?:\{([^}]*)\})?", query
    )
    assert named, where
    for name, matchers in named:
        assert name in known or name in FOREIGN or name in recorded(), f"{where}: nobody writes {name}"
        if name in known:
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert labels <= known[name] | {"namespace", "pod", "instance"}, (
                f"{where}: {name} has no such label"
            )


def test_the_outcomes_that_queries_name_exist() -> None:
    from knowalledge.gateway.domain.outcomes import Outcome

    for where, query in queries():
        for values in re.findall(r'outcome=~?"([^"]+)"', query):
            assert set(values.split("|")) <= set(Outcome), where


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((ROOT / "monitoring/prometheus/rules/alerts.yml").read_text())["groups"][0][
        "rules"
    ]
    tests = [it for file in RULE_TESTS for it in yaml.safe_load(file.read_text())["tests"]]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    for rule in rules:
        fires = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]}
        assert True in fires, f"{rule['alert']} is never seen to fire"
        assert False in fires, f"{rule['alert']} is never seen to keep quiet"
        assert set(rule["annotations"]) == {"summary", "impact", "action", "runbook_url"}
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_rules_pass_their_own_tests() -> None:
    done = subprocess.run(
        [program("promtool"), "test", "rules", *RULE_TESTS], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_generated_is_current() -> None:
    sys.path.insert(0, str(ROOT / "deploy"))
    try:
        import manifests  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(ROOT / "deploy"))
    stale = [name for name, write in manifests.OUTPUTS.items() if (ROOT / name).read_text() != write()]
    assert stale == [], "run: make manifests"


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["deploy/config/gateway.yaml", "deploy/config/demo.yaml", "k8s/base/gateway.yaml"]
)
def test_every_shipped_configuration_is_without_a_fault(path: str) -> None:
    assert Settings.load(environ={"GOOGLE_API_KEY": "k"}, config=str(ROOT / path)).models


def test_the_environment_of_containers_is_one_that_the_gateway_takes(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://r:6379/0")
    compose = COMPOSE["services"]["backend-1"]["environment"]
    cluster = {it["name"]: it["value"] for it in container()["env"]}
    for environ, config in ((compose, "deploy/config/gateway.yaml"), (cluster, "k8s/base/gateway.yaml")):
        there = {
            name: str(secret) if name.endswith("_FILE") else re.sub(r"\$\{\w+:-(.*)}", r"\1", value)
            for name, value in environ.items()
        }
        there["KNOWALLEDGE_CONFIG"] = str(ROOT / config)
        assert Settings.load(environ=there).redis_url == "redis://r:6379/0"


def test_files_that_the_environment_names_are_mounted_there() -> None:
    compose = COMPOSE["services"]["backend-1"]
    for name, value in compose["environment"].items():
        if name.endswith("_FILE"):
            assert Path(value).name in compose["secrets"]
            assert Path(value).name in COMPOSE["secrets"]
    keys = set(k8s("base/secret.example.yaml")[0]["stringData"])
    mounts = {it["mountPath"]: it["name"] for it in container()["volumeMounts"]}
    for variable in container()["env"]:
        if variable["name"].endswith("_FILE"):
            path = Path(variable["value"])
            assert str(path.parent) in mounts
            assert path.name in keys
    for component in ("external-secrets/externalsecret.yaml", "sealed-secrets/sealedsecret.yaml"):
        spec = k8s(f"components/{component}")[0]["spec"]
        given = (
            set(spec["encryptedData"])
            if "encryptedData" in spec
            else {it["secretKey"] for it in spec["data"]}
        )
        assert given == keys


def test_the_exporter_finds_its_password_by_the_address_that_it_uses() -> None:
    made = (ROOT / "deploy/secrets.sh").read_text()
    exporter = next(
        it
        for it in k8s("components/redis/redis.yaml")[0]["spec"]["template"]["spec"]["containers"]
        if it["name"] == "exporter"
    )
    in_pod = next(it["value"] for it in exporter["env"] if it["name"] == "REDIS_ADDR")
    for address in (in_pod, COMPOSE["services"]["redis-exporter"]["environment"]["REDIS_ADDR"]):
        assert f'\\"{address}\\": ' in made


def test_no_service_can_leak_its_variables_into_the_gateways_environment() -> None:
    assert pod()["enableServiceLinks"] is False


# -- routes and ports -------------------------------------------------------------------------------------------------


def routes() -> set[str]:
    app = create_app(Settings.load(environ={}))
    return {rule.rule for rule in app.url_map.iter_rules()}


def test_what_is_probed_and_scraped_are_routes_of_the_gateway() -> None:
    probes = {container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    monitors = [
        it for it in k8s("components/monitoring/servicemonitor.yaml") if it["metadata"]["name"] == "gateway"
    ]
    scrape = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = probes | {monitors[0]["spec"]["endpoints"][0]["path"]} | {scrape[0]["metrics_path"]}
    asked |= set(re.findall(r"'GET', '(/api/[^']+)'", (ROOT / "backend/Dockerfile").read_text()))
    asked |= set(re.findall(r'\.url = "([^"]+)"', (ROOT / "deploy/varnish/default.vcl").read_text()))
    assert len(asked) >= 3
    assert asked <= routes()


def test_what_is_kept_from_the_world_are_routes_of_the_gateway_and_not_in_the_ingress() -> None:
    hidden = set(
        re.findall(r"location = (/\S+) +\{ return 404", (ROOT / "deploy/nginx/routes.conf").read_text())
    )
    assert {"/metrics", "/api/cache/invalidate", "/console", "/api/console/stream"} <= hidden
    assert hidden <= routes()
    for path in k8s("components/ingress-nginx/ingress.yaml")[0]["spec"]["rules"][0]["http"]["paths"]:
        for secret in hidden:
            assert path["path"] != secret
            assert not (path["pathType"] == "Prefix" and secret.startswith(path["path"] + "/"))


def test_everybody_means_the_same_port() -> None:
    dockerfile = (ROOT / "backend/Dockerfile").read_text()
    exposed = re.findall(r"^EXPOSE (\d+)", dockerfile, re.M)
    assert exposed == ["8080"]
    assert "0.0.0.0:8080" in dockerfile
    assert container()["ports"][0]["containerPort"] == 8080
    assert f"0.0.0.0:{container()['ports'][0]['containerPort']}" in container()["args"]
    scrape = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {job["job_name"]: job["static_configs"][0]["targets"] for job in scrape}
    assert asked["knowalledge"] == [f"{name}:8080" for name in BACKENDS]
    nginx = (ROOT / "deploy/nginx/upstreams.conf").read_text()
    assert re.findall(r"server (backend-\d):8080", nginx) == list(BACKENDS)
    varnish = (ROOT / "deploy/varnish/default.vcl").read_text()
    assert re.findall(r'\.host = "(backend-\d)"; \.port = "8080"', varnish) == list(BACKENDS)
    assert re.search(r"server varnish:(\d+)", nginx)[1] in "".join(COMPOSE["services"]["varnish"]["command"])  # type: ignore[index]


def test_a_port_is_published_on_the_loopback_only() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), name


# -- time limits ------------------------------------------------------------------------------------------------------


def test_the_longest_stream_fits_into_the_drain_and_the_drain_into_the_grace() -> None:
    cluster = yaml.safe_load((ROOT / "k8s/base/gateway.yaml").read_text())
    stream, drain = duration(cluster["request"]["max_timeout"]), duration(cluster["server"]["drain"])
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert stream < drain
    assert pause + drain < pod()["terminationGracePeriodSeconds"]
    for path in ("deploy/config/gateway.yaml", "deploy/config/demo.yaml"):
        compose = yaml.safe_load((ROOT / path).read_text())
        stream, drain = duration(compose["request"]["max_timeout"]), duration(compose["server"]["drain"])
        assert stream < drain < duration(COMPOSE["services"]["backend-1"]["stop_grace_period"])
        nginx = (ROOT / "deploy/nginx/nginx.conf").read_text()
        shutdown = duration(re.search(r"worker_shutdown_timeout (\w+);", nginx)[1])  # type: ignore[index]
        assert stream < shutdown < duration(COMPOSE["services"]["nginx"]["stop_grace_period"])


def test_a_waiting_stream_is_never_silent_for_as_long_as_a_proxy_waits() -> None:
    heartbeat = ServerSettings().heartbeat
    nginx = (ROOT / "deploy/nginx/proxy.conf").read_text()
    ingress = k8s("components/ingress-nginx/ingress.yaml")[0]["metadata"]["annotations"]
    assert 2 * heartbeat < duration(re.search(r"proxy_read_timeout (\w+);", nginx)[1])  # type: ignore[index]
    assert 2 * heartbeat < int(ingress["nginx.ingress.kubernetes.io/proxy-read-timeout"])


def test_proxies_drop_idle_connections_before_the_gateway_does() -> None:
    keepalive = ServerSettings().keepalive
    upstreams = (ROOT / "deploy/nginx/upstreams.conf").read_text()
    assert all(duration(it) < keepalive for it in re.findall(r"keepalive_timeout (\w+);", upstreams))


def test_proxies_take_the_bodies_that_the_gateway_takes() -> None:
    largest = ServerSettings().max_body
    nginx = (ROOT / "deploy/nginx/nginx.conf").read_text()
    assert size(re.search(r"client_max_body_size +(\w+);", nginx)[1]) == largest  # type: ignore[index]
    ingress = k8s("components/ingress-nginx/ingress.yaml")[0]["metadata"]["annotations"]
    assert size(ingress["nginx.ingress.kubernetes.io/proxy-body-size"]) == largest


# -- hardening and scaling --------------------------------------------------------------------------------------------


def test_every_compose_service_is_read_only_bounded_and_without_capabilities() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert not re.search(r":latest$|^[^:]+$", service["image"]), name


def test_an_end_of_the_demo_leaves_nothing_of_any_profile_or_of_the_developers_stack() -> None:
    makefile = (ROOT / "Makefile").read_text()
    down = re.search(r"^\t\$\(DEMO\)(.*) down (.*)$", makefile, re.M)
    assert down is not None
    assert set(re.findall(r"--profile (\w+)", down[1])) | {"demo"} == {
        profile for service in COMPOSE["services"].values() for profile in service.get("profiles", ())
    }
    assert {"--volumes", "--remove-orphans"} <= set(down[2].split())


def test_every_pod_is_restricted() -> None:
    stateful = k8s("components/redis/redis.yaml")[0]
    for template in (deployment()["spec"]["template"]["spec"], stateful["spec"]["template"]["spec"]):
        assert template["automountServiceAccountToken"] is False
        assert template["securityContext"]["runAsNonRoot"] is True
        assert template["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in template["containers"]:
            assert one["securityContext"]["readOnlyRootFilesystem"] is True
            assert one["securityContext"]["allowPrivilegeEscalation"] is False
            assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(one["resources"]["limits"])


def test_the_number_of_replicas_belongs_to_the_autoscaler_and_quota_does_not_move_it() -> None:
    assert "replicas" not in deployment()["spec"]
    hpa = k8s("base/hpa.yaml")[0]["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (3, 10)
    assert {
        it["resource"]["name"]: it["resource"]["target"]["averageUtilization"] for it in hpa["metrics"]
    } == {
        "cpu": 70,
        "memory": 80,
    }
    assert k8s("base/pdb.yaml")[0]["spec"]["minAvailable"] == 2 < hpa["minReplicas"]
    recording = (ROOT / "monitoring/prometheus/rules/recording.yml").read_text()
    assert "knowalledge_quota_used / knowalledge_quota_limit) < bool" in recording


def test_the_shared_files_and_images_of_compose_and_cluster_are_the_same() -> None:
    assert (ROOT / "deploy/redis/redis.conf").read_bytes() == (
        ROOT / "k8s/components/redis/redis.conf"
    ).read_bytes()
    images = {
        it["image"] for it in k8s("components/redis/redis.yaml")[0]["spec"]["template"]["spec"]["containers"]
    }
    assert images == {COMPOSE["services"][name]["image"] for name in ("redis", "redis-exporter")}


def test_git_holds_no_secret() -> None:
    done = subprocess.run(
        [program("git"), "ls-files", "secrets"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    if done.returncode != 0:
        pytest.skip("this is not a git checkout")
    assert all(name == "secrets/README.md" or name.endswith(".example") for name in done.stdout.split())


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_an_overlay_renders_and_its_parts_find_each_other(overlay: str) -> None:
    path = ROOT / "k8s/overlays" / overlay
    done = subprocess.run([program("kubectl"), "kustomize", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    of = {(it["kind"], it["metadata"]["name"]): it for it in objects}
    assert len(of) == len(objects)
    namespaces = {it["metadata"]["namespace"] for it in objects if "namespace" in it["metadata"]}
    assert len(namespaces) == 1
    assert ("Namespace", namespaces.pop()) in of
    spec = of["Deployment", "gateway"]["spec"]["template"]["spec"]
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in of
        if "secret" in volume:
            assert ("ExternalSecret", volume["secret"]["secretName"]) in of
    assert ("PriorityClass", spec["priorityClassName"]) in of
    assert ("ServiceAccount", spec["serviceAccountName"]) in of
    labels = of["Deployment", "gateway"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
        found = of[kind, "gateway"]["spec"]
        selector = found.get("podSelector", found.get("selector"))
        selector = selector.get("matchLabels", selector)
        assert selector.items() <= labels.items(), kind
    target = of["HorizontalPodAutoscaler", "gateway"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in of
    backend = of["HTTPRoute", "gateway"]["spec"]["rules"][0]["backendRefs"][0]
    assert backend["port"] in {it["port"] for it in of["Service", backend["name"]]["spec"]["ports"]}


COMPONENTS = sorted(it.parent.name for it in (ROOT / "k8s/components").glob("*/kustomization.yaml"))


def rendered(folder: Path, component: str) -> dict[tuple[str, str], Any]:
    """The base with one component, by kind and name."""
    parts = [os.path.relpath(ROOT / "k8s" / it, folder) for it in ("base", f"components/{component}")]
    (folder / "kustomization.yaml").write_text(json.dumps({"resources": parts[:1], "components": parts[1:]}))
    done = subprocess.run(
        [program("kubectl"), "kustomize", folder], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {(it["kind"], it["metadata"]["name"]): it for it in yaml.safe_load_all(done.stdout)}


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_can_be_put_over_the_base_by_itself(component: str, tmp_path: Path) -> None:
    assert ("Deployment", "gateway") in rendered(tmp_path, component)


def test_with_tracing_the_gateway_may_reach_the_collector_that_it_is_told(tmp_path: Path) -> None:
    of = rendered(tmp_path, "tracing")
    env = of["Deployment", "gateway"]["spec"]["template"]["spec"]["containers"][0]["env"]
    given = {it["name"]: it["value"] for it in env if "TRACING" in it["name"]}
    endpoint = urlsplit(Settings.load(environ=given).tracing.endpoint)
    rule = of["NetworkPolicy", "gateway"]["spec"]["egress"][-1]
    assert [it["port"] for it in rule["ports"]] == [endpoint.port]
    space = rule["to"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert f".{space}." in str(endpoint.hostname)
