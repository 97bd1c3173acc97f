"""A pod without a cluster: reads a patched pod and runs its containers' commands as processes in a network of their own.

    python tests/rehearsal/rehearse.py tests/rehearsal/triton.yaml [--drain SECONDS] [--exposed]

It plays the kubelet: the native sidecar first and the others once its startup probe passes, probes on the pod's address, and at
the end all preStop hooks at once, SIGTERM to a container when its hook is over, to the sidecar when the others have ended. It
plays the clients too: callers from other addresses who ask without a pause, and stop when readiness says so, as a Service's
endpoints do. `--exposed` starts the model server on all addresses, as an image would that ignores its flags.

The namespace is made by `unshare --user --net`; no rights are needed where user namespaces are allowed. Prints what happened as
JSON. `tritonserver` is the real one of tests/servers; `refrain` is REFRAIN_BIN.
"""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "servers"), str(ROOT / "tests" / "triton")]
POD_IP, CALLERS = "10.244.1.7", ("10.244.2.1", "10.244.2.2", "10.244.2.3", "10.244.2.4")
PATIENCE = 120
# Calls that must be served by a pod that is not ready any more before callers stop coming.
SERVED = 100
# Beside the mode. The callers draw pictures of noise, which all hold the same colours and are suspects of each other.
SETTINGS = "[store]\nsuspicions = 1000000\n[timing]\nmode = \"off\"\n"
# What every probe has that says nothing.
PERIOD, TIMEOUT, FAILURES = 10, 1, 3


def enter_own_network(arguments):
    """Runs this program again, in a network namespace with the pod's address and the callers'."""
    addresses = "; ".join(f"ip address add {address}/32 dev lo" for address in (POD_IP, *CALLERS))
    script = f'ip link set lo up; {addresses}; exec "$0" "$@"'
    environment = os.environ | {"REFRAIN_REHEARSAL": "inside"}
    command = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvpe(command[0], [*command, "sh", "-ec", script, sys.executable, __file__, *arguments], environment)


def until(what, holds, patience=PATIENCE, pause=0.05):
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {patience} s")
        time.sleep(pause)


def accepts(address, port):
    with contextlib.closing(socket.socket()) as dialled:
        dialled.settimeout(1)
        return dialled.connect_ex((address, port)) == 0


def get(port, path, headers=(), timeout=5, address=POD_IP):
    request = urllib.request.Request(f"http://{address}:{port}{path}", headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


class Container:
    """One of the pod's containers as a process."""

    def __init__(self, spec, pod, folder):
        self.spec, self.pod, self.name = spec, pod, spec["name"]
        self.log = folder / f"{self.name}.log"
        self.process = None

    def variables(self):
        fields = {
            "status.podIP": POD_IP,
            "metadata.name": self.pod["metadata"]["name"],
            "metadata.namespace": self.pod["metadata"]["namespace"],
            "metadata.uid": "00000000-0000-0000-0000-000000000000",
            "spec.nodeName": "node",
        }
        found = {}
        for each in self.spec.get("env", ()):
            value = each.get("value") or ""
            if "valueFrom" in each:
                value = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            # What is not known stays as it is written, as in Kubernetes.
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found.get(match[1], match[0]), value)
        return found

    def start(self, command, environment):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, env=environment | self.variables(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def passes(self, kind):
        """Whether a probe passes, asked as the kubelet asks it: on the pod's address."""
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self.process.returncode}:\n{self.said()}")
        probe = self.spec.get(kind)
        if probe is None:
            return True
        http = probe["httpGet"]
        headers = [(each["name"], each["value"]) for each in http.get("httpHeaders", ())]
        status, _ = get(http["port"], http.get("path", "/"), headers, probe.get("timeoutSeconds", TIMEOUT))
        return status is not None and 200 <= status < 400

    def pre_stop(self, environment, refrain):
        """Runs its preStop hook to the end; the exit code of a command."""
        hook = self.spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
        if "exec" in hook:
            command = [refrain if word == "/refrain" else word for word in hook["exec"]["command"]]
            return subprocess.run(command, env=environment | self.variables(), capture_output=True).returncode
        return 0

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def said(self):
        return self.log.read_text(errors="replace")[-4000:]


class ConfigMap:
    """A mounted ConfigMap as the kubelet has it: a folder whose files lead through a link that is changed at once."""

    def __init__(self, folder, text):
        self.folder, self.version = folder, 0
        folder.mkdir()
        (folder / "config.toml").symlink_to("..data/config.toml")
        self.becomes(text)

    def becomes(self, text):
        self.version += 1
        data = self.folder / f"..{self.version}"
        data.mkdir()
        (data / "config.toml").write_text(text)
        (self.folder / "..data_tmp").symlink_to(data.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")


class Load:
    """Callers at addresses of their own, each asking one call after the other while the pod is among the endpoints."""

    def __init__(self, port):
        self.port, self.answers, self.failures = port, 0, []
        self.in_service, self.over = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    def call_on(self, number, address):
        import grpc
        import numpy as np
        from asking import SERVICE, question

        # The caller's own address, so that each has a past of its own.
        channel = grpc.insecure_channel(f"{POD_IP}:{self.port}", [("grpc.local_address", address), ("grpc.use_local_subchannel_pool", 1)])
        ask = channel.unary_unary(f"{SERVICE}ModelInfer")
        random = np.random.default_rng(number)
        while not self.over.is_set():
            if not self.in_service.wait(0.1):
                continue
            picture = random.integers(0, 256, (32, 32, 3), np.uint8)
            try:
                ask(question("clf_u8", picture).SerializeToString(), timeout=30)
                with self.lock:
                    self.answers += 1
            except grpc.RpcError as error:
                with self.lock:
                    self.failures.append(f"{error.code().name}: {error.details()}")
        channel.close()


def rehearse(options):
    import triton as servers
    import yaml

    pod = yaml.safe_load(options.pod.read_text())
    said = {"pod": str(options.pod)}
    refrain = str(pathlib.Path(os.environ.get("REFRAIN_BIN", ROOT / "target/release/refrain")).resolve())
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REFRAIN_", "OTEL_"))}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="refrain-rehearsal-")))
        server = stack.enter_context(servers.Triton(only=("clf_u8",), prepare_only=True))
        sidecar = Container(pod["spec"]["initContainers"][0], pod, folder)
        (model,) = (Container(spec, pod, folder) for spec in pod["spec"]["containers"])
        for container in (sidecar, model):
            stack.callback(lambda each=container: each.process and each.process.poll() is None and each.process.kill())

        # The ConfigMap's folder; nothing else of the pod's volumes is needed.
        config_map = ConfigMap(folder / "config", 'mode = "enforce"\n' + SETTINGS)
        config = config_map.folder / "config.toml"
        for each in sidecar.spec["env"]:
            if each["name"] == "REFRAIN_CONFIG":
                each["value"] = str(config)
            if each["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT":
                each["value"] = ""
            if each["name"] == "REFRAIN_DRAIN_SECONDS" and options.drain is not None:
                hook = model.spec["lifecycle"]["preStop"]["sleep"]
                hook["seconds"] += options.drain - int(each["value"])
                each["value"] = str(options.drain)
        own = sidecar.variables()
        port = int(own["REFRAIN_LISTEN"].rsplit(":", 1)[1])
        admin = int(own["REFRAIN_ADMIN__LISTEN"].rsplit(":", 1)[1])
        closed = [int(each) for each in own["REFRAIN_BYPASS__PORTS"].split(",")]
        moved = json.loads(pod["metadata"]["annotations"]["refrain.dev/status"])["moved"].values()

        # The kubelet's order: the native sidecar's startup probe must pass while there is no model server yet.
        begun = time.monotonic()
        sidecar.start([refrain, *sidecar.spec["args"]], clean)
        until("the sidecar's startup probe", lambda: sidecar.passes("startupProbe"))
        said["sidecar_started_after"] = round(time.monotonic() - begun, 2)
        said["ready_without_model_server"] = sidecar.passes("readinessProbe")
        flags = [flag for flag in model.spec["args"][1:] if not flag.startswith("--model-repository=")]
        if options.exposed:
            flags = [flag.replace("--grpc-address=127.0.0.1", "--grpc-address=0.0.0.0") for flag in flags]
        model.start([*server.program(), *flags], server.environment())
        until("the model server's startup probe", lambda: model.passes("startupProbe"))
        until("its readiness", lambda: model.passes("readinessProbe"))

        if options.exposed:
            until("the exposure is seen", lambda: "reached past us" in get(admin, "/readyz")[1])
            said["readiness"] = get(admin, "/readyz")
            said["exposed"] = exposed(admin)
            said["exit_codes"] = [model.terminate(), sidecar.terminate()]
            return said

        until("the sidecar's readiness", lambda: sidecar.passes("readinessProbe"))
        said["ready_after"] = round(time.monotonic() - begun, 2)
        said["probes"] = {
            f"{each.name}.{kind}": each.passes(kind)
            for each in (sidecar, model)
            for kind in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        said["answers_past_us"] = [each for each in closed if accepts(POD_IP, each)]
        said["answers_on_loopback"] = sorted(each for each in moved if accepts("127.0.0.1", each))
        said["answers_on_the_callers_port"] = accepts(POD_IP, port)
        said["operator_pages_from_outside"] = [get(admin, path)[0] for path in ("/config", "/sessions")]
        said["exposed"] = exposed(admin)

        load = Load(port)
        callers = concurrent.futures.ThreadPoolExecutor(len(CALLERS))
        asking = [callers.submit(load.call_on, number, address) for number, address in enumerate(CALLERS)]
        load.in_service.set()
        until("the load runs", lambda: load.answers > 200 or load.failures)
        said["forwarded"] = counted(admin, "forwarded")
        # Break glass: the ConfigMap changes under a pod that serves.
        config_map.becomes('mode = "off"\n' + SETTINGS)
        changed = time.monotonic()
        until("calls pass unread", lambda: unread(admin) > 0, patience=30)
        said["off_after"] = round(time.monotonic() - changed, 2)
        ends = end(pod, sidecar, model, load, clean, refrain, admin)
        load.over.set()
        for each in asking:
            each.result(PATIENCE)
        said |= ends
        said["answers"], said["failures"] = load.answers, load.failures[:10]
        said["panicked"] = "panicked" in sidecar.said()
    return said


def end(pod, sidecar, model, load, clean, refrain, admin):
    """The pod's end, as the kubelet and the endpoints' controller have it."""
    told = time.monotonic()
    since = lambda: round(time.monotonic() - told, 2)  # noqa: E731
    events = {}
    answered_before = load.answers
    with concurrent.futures.ThreadPoolExecutor(3) as hooks:

        def end_model():
            model.pre_stop(clean, refrain)
            events["model_told"] = since()
            code = model.terminate()
            events["model_ended"] = since()
            return code

        def drain():
            code = sidecar.pre_stop(clean, refrain)
            events["drained"] = since()
            return code

        def leave():
            # The readiness probe comes round once a period; then calls go elsewhere.
            until("not ready", lambda: get(admin, "/readyz")[0] == 503)
            events["not_ready"] = since()
            # Endpoints take a while to spread: until then calls still come, and are served.
            at_not_ready = load.answers
            until("calls are served while it drains", lambda: load.answers - at_not_ready >= SERVED)
            events["served_while_draining"] = load.answers - answered_before
            load.in_service.clear()
            events["out_of_service"] = since()

        model_ends, drained, left = hooks.submit(end_model), hooks.submit(drain), hooks.submit(leave)
        drained_with, model_ended_with = drained.result(), model_ends.result()
        left.result()
    sidecar_ended_with = sidecar.terminate()
    events["sidecar_ended"] = since()
    return {
        "events": events,
        "drained_with": drained_with,
        "exit_codes": [model_ended_with, sidecar_ended_with],
        "grace": pod["spec"]["terminationGracePeriodSeconds"],
    }


def counted(admin, ruling):
    page = get(admin, "/metrics")[1]
    lines = (line for line in page.splitlines() if line.startswith("refrain_decisions_total") and f'decision="{ruling}"' in line)
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def unread(admin):
    page = get(admin, "/metrics")[1]
    found = re.search(r'^refrain_\w+\{[^}]*reason="mode_off"[^}]*\} (\S+)', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


def exposed(admin):
    page = get(admin, "/metrics")[1]
    return float(re.search(r"^refrain_upstream_exposed (\S+)", page, re.MULTILINE)[1])


if __name__ == "__main__":
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("pod", type=pathlib.Path)
    reader.add_argument("--drain", type=int, metavar="SECONDS", help="in place of the pod's own drain time")
    reader.add_argument("--exposed", action="store_true", help="the model server listens on all addresses")
    arguments = reader.parse_args()
    if os.environ.get("REFRAIN_REHEARSAL") != "inside":
        enter_own_network(sys.argv[1:])
    print(json.dumps(rehearse(arguments), indent=2))
