#!/usr/bin/env python3
"""A real Kubernetes of one node for tests: upstream's programs in network, mount and process namespaces of their own.

    cluster.py up [IMAGE.tar ...]    brings it up, with these images and six volumes of a default storage class
    cluster.py load IMAGE.tar ...    puts more images on the node
    cluster.py exec COMMAND ...      runs a command as a client: in the clients' namespace, with KUBECONFIG and kubectl
    cluster.py down                  takes it away, whatever state it is in
    cluster.py why-not               says why it cannot run on this machine; says nothing and exits 0 if it can

Needs root, cgroup v1, and Debian's containerd, runc, containernetworking-plugins, nftables, iptables, conntrack,
openssl and iproute2 (packages.sh installs them). One at a time a machine. Neither the node nor its clients have a way out.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "everring"
STATE = pathlib.Path(os.environ.get("EVERRING_K8S_STATE", CACHE / "kubernetes"))
TOOLS = pathlib.Path(os.environ["EVERRING_K8S_TOOLS"]) if "EVERRING_K8S_TOOLS" in os.environ else None
PKI = STATE / "pki"

CLIENT_NETNS, NODE_NETNS = "everring-client", "everring-node"
CLIENT_IP, NODE_IP = "172.31.251.1", "172.31.251.2"
PODS, SERVICES, API_SERVICE_IP, DNS_IP = "10.244.1.0/24", "10.96.0.0/16", "10.96.0.1", "10.96.0.10"
NODE = "node1"
CGROUP = "everring-node"
VOLUMES = 16
PROGRAMS = ["containerd", "runc", "ctr", "nft", "iptables", "conntrack", "openssl", "ip", "nsenter", "unshare"]
PAUSE_IMAGE, DNS_IMAGE = "everring.test/pause:1", "everring.test/dns:1"


def run(*command, quiet=False, **options):
    where = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(part) for part in command], check=True, stdout=options.pop("stdout", where), **options)


def output(*command):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def why_not():
    """Why this machine cannot run it, as a sentence; None if it can."""
    if os.geteuid() != 0:
        return "it needs root, to make namespaces; run it as root, or name a cluster with KUBECONFIG"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"these programs are missing: {', '.join(missing)}; tests/kubernetes/packages.sh installs them on Debian"
    if not pathlib.Path("/usr/lib/cni/ptp").exists():
        return "the plugins of containernetworking-plugins are not in /usr/lib/cni"
    if not pathlib.Path("/sys/fs/cgroup/memory/tasks").exists():
        return "it knows cgroup v1 only, and this machine has cgroup v2; name a cluster with KUBECONFIG"
    return None


def wait_for(what, seconds, check):
    until = time.monotonic() + seconds
    while True:
        if check():
            return
        if time.monotonic() > until:
            raise SystemExit(f"cluster: {what} did not come within {seconds} s; the logs are in {STATE / 'log'}")
        time.sleep(0.2)


# Certificates: one authority, one pair for each who talks.


def certificates():
    PKI.mkdir(parents=True)
    authority = PKI / "ca"
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{authority}.key")
    run("openssl", "req", "-x509", "-new", "-key", f"{authority}.key", "-subj", "/CN=everring-test", "-days", "365",
        "-out", f"{authority}.crt")
    run("openssl", "genrsa", "-out", PKI / "accounts.key", "2048", stderr=subprocess.DEVNULL)
    run("openssl", "rsa", "-in", PKI / "accounts.key", "-pubout", "-out", PKI / "accounts.pub", stderr=subprocess.DEVNULL)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    addresses = ["127.0.0.1", NODE_IP, API_SERVICE_IP]
    certificate("server", "/CN=kube-apiserver", [f"DNS:{name}" for name in names] + [f"IP:{ip}" for ip in addresses])
    for name, subject in [
        ("admin", "/O=system:masters/CN=admin"),
        ("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        ("controllers", "/CN=system:kube-controller-manager"),
        ("scheduler", "/CN=system:kube-scheduler"),
        ("proxy", "/CN=system:kube-proxy"),
        ("kubelet", f"/O=system:nodes/CN=system:node:{NODE}"),
    ]:
        certificate(name, subject)
        kubeconfig(name)


def certificate(name, subject, alternatives=()):
    extensions = "extendedKeyUsage=clientAuth,serverAuth\n"
    if alternatives:
        extensions += f"subjectAltName={','.join(alternatives)}\n"
    (PKI / f"{name}.ext").write_text(extensions)
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", PKI / f"{name}.key")
    run("openssl", "req", "-new", "-key", PKI / f"{name}.key", "-subj", subject, "-out", PKI / f"{name}.csr")
    run("openssl", "x509", "-req", "-in", PKI / f"{name}.csr", "-CA", PKI / "ca.crt", "-CAkey", PKI / "ca.key",
        "-CAcreateserial", "-days", "365", "-extfile", PKI / f"{name}.ext", "-out", PKI / f"{name}.crt",
        stderr=subprocess.DEVNULL)


def kubeconfig(name):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": f"https://{NODE_IP}:6443", "certificate-authority": str(PKI / "ca.crt")}}],
        "users": [{"name": name, "user": {
            "client-certificate": str(PKI / f"{name}.crt"), "client-key": str(PKI / f"{name}.key")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
    }
    (PKI / f"{name}.kubeconfig").write_text(json.dumps(config, indent=1))


# The network: the node and its clients, joined by one cable.


def network():
    for name in (CLIENT_NETNS, NODE_NETNS):
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    run("ip", "-n", CLIENT_NETNS, "link", "add", "node", "type", "veth", "peer", "name", "eth0", "netns", NODE_NETNS)
    for name, link, address in ((CLIENT_NETNS, "node", CLIENT_IP), (NODE_NETNS, "eth0", NODE_IP)):
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", link)
        run("ip", "-n", name, "link", "set", link, "up")
    # Pods and Services are reached through the node.
    for network in (PODS, SERVICES):
        run("ip", "-n", CLIENT_NETNS, "route", "add", network, "via", NODE_IP)
    # A Service's address is rewritten on its way out; it only needs a way to be on: a bridge that leads nowhere.
    run("ip", "-n", NODE_NETNS, "link", "add", "services", "type", "bridge")
    run("ip", "-n", NODE_NETNS, "link", "set", "services", "up")
    run("ip", "-n", NODE_NETNS, "route", "add", SERVICES, "dev", "services", "src", NODE_IP)


def cgroups():
    for controller in pathlib.Path("/sys/fs/cgroup").iterdir():
        if not (controller / "tasks").exists():
            continue
        ours = controller / CGROUP
        ours.mkdir(exist_ok=True)
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (controller / inherited).exists():
                (ours / inherited).write_text((controller / inherited).read_text())


# The node: what follows runs as process 1 of its namespaces.


def node():
    log = STATE / "log"
    for folder in ("kubelet", "containerd", "pod-logs", "cni", "etcd"):
        (STATE / folder).mkdir(exist_ok=True)
    log.mkdir(exist_ok=True)
    run("mount", "--make-rshared", "/")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    pathlib.Path("/run/netns").mkdir()
    shield_settings()
    pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    configure()
    children = {}

    def start(name, *command):
        with open(log / f"{name}.log", "wb") as sink:
            children[name] = subprocess.Popen([str(part) for part in command], stdout=sink, stderr=sink)

    start("etcd", TOOLS / "etcd", "--data-dir", STATE / "etcd", "--unsafe-no-fsync", "--log-level=warn",
          "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
          "--listen-peer-urls=http://127.0.0.1:2380")
    start("kube-apiserver", TOOLS / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
          f"--advertise-address={NODE_IP}", f"--service-cluster-ip-range={SERVICES}",
          f"--tls-cert-file={PKI}/server.crt", f"--tls-private-key-file={PKI}/server.key",
          f"--client-ca-file={PKI}/ca.crt", "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
          f"--service-account-key-file={PKI}/accounts.pub", f"--service-account-signing-key-file={PKI}/accounts.key",
          f"--kubelet-client-certificate={PKI}/kubelet-client.crt",
          f"--kubelet-client-key={PKI}/kubelet-client.key", "--kubelet-preferred-address-types=InternalIP",
          "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--profiling=false")
    start("containerd", "containerd", "--config", STATE / "containerd.toml")
    wait_for("containerd", 60, lambda: subprocess.run(["ctr", "version"], capture_output=True).returncode == 0)
    for image in sorted((STATE / "images").glob("*.tar")):
        run("ctr", "-n", "k8s.io", "images", "import", image)
    wait_for("the API server", 120, lambda: kubectl_quiet("get", "--raw", "/readyz"))
    start("kube-controller-manager", TOOLS / "kube-controller-manager", f"--kubeconfig={PKI}/controllers.kubeconfig",
          f"--service-account-private-key-file={PKI}/accounts.key", f"--root-ca-file={PKI}/ca.crt",
          "--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1",
          "--authentication-skip-lookup")
    start("kube-scheduler", TOOLS / "kube-scheduler", f"--kubeconfig={PKI}/scheduler.kubeconfig",
          "--leader-elect=false", "--bind-address=127.0.0.1", "--authentication-skip-lookup")
    start("kubelet", TOOLS / "kubelet", "--config", STATE / "kubelet.json", f"--kubeconfig={PKI}/kubelet.kubeconfig",
          f"--hostname-override={NODE}", f"--node-ip={NODE_IP}", f"--root-dir={STATE}/kubelet",
          f"--cert-dir={STATE}/kubelet/pki", "--node-labels=topology.kubernetes.io/zone=z1")
    start("kube-proxy", TOOLS / "kube-proxy", "--config", STATE / "proxy.json")
    # Process 1 waits for whatever ends, also for what is none of its own children.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def shield_settings():
    """The kubelet sets these for the whole machine: it gets plain files to write to instead."""
    for setting in ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
                    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"):
        real = pathlib.Path("/proc/sys") / setting
        if not real.exists():
            continue
        copy = STATE / "settings" / setting
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(real.read_text())
        run("mount", "--bind", copy, real)


def configure():
    (STATE / "cni" / "10-pods.conflist").write_text(json.dumps({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp", "ipMasq": False, "mtu": 1500,
            "ipam": {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": PODS}]],
                     "routes": [{"dst": "0.0.0.0/0"}]},
        }],
    }))
    runtime = 'plugins."io.containerd.grpc.v1.cri"'
    (STATE / "containerd.toml").write_text(f"""version = 2
root = "{STATE}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[{runtime}]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
[{runtime}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{runtime}.containerd.runtimes.runc.options]
  SystemdCgroup = false
[{runtime}.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{STATE}/cni"
""")
    (STATE / "kubelet.json").write_text(json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": NODE_IP,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(PKI / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": str(STATE / "pod-logs"),
        "failSwapOn": False,
        "maxPods": 100,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%",
                         "imagefs.available": "1%"},
    }))
    (STATE / "proxy.json").write_text(json.dumps({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NODE,
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": str(PKI / "proxy.kubeconfig")},
        # Zero leaves the machine's own limits alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }))


def kubectl_quiet(*arguments):
    command = [TOOLS / "kubectl", f"--kubeconfig={PKI}/admin.kubeconfig", *arguments]
    return subprocess.run(command, capture_output=True).returncode == 0


# From outside.


def as_client(*command):
    return ["nsenter", f"--net=/run/netns/{CLIENT_NETNS}", *[str(part) for part in command]]


def client_environment():
    return {**os.environ, "KUBECONFIG": str(PKI / "admin.kubeconfig"), "PATH": f"{TOOLS}:{os.environ['PATH']}"}


def up(images):
    if (STATE / "pid").exists():
        raise SystemExit("cluster: one is up already; `cluster.py down` takes it away")
    began = time.monotonic()
    (STATE / "images").mkdir(parents=True)
    maker = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "image" / "image.py"
    for name, program in ((PAUSE_IMAGE, "pause"), (DNS_IMAGE, "dns")):
        run(sys.executable, maker, STATE / "images" / f"{program}.tar", name, "--file", f"/{program}={TOOLS / program}",
            "--entrypoint", f"/{program}", quiet=True)
    for image in images:
        shutil.copy(image, STATE / "images")
    certificates()
    network()
    cgroups()
    inside = ["nsenter", f"--net=/run/netns/{NODE_NETNS}", "unshare", "--mount", "--pid", "--fork", "--kill-child",
              "--mount-proc", sys.executable, __file__, "node"]
    (STATE / "log").mkdir()
    with open(STATE / "log" / "node.log", "wb") as sink:
        keeper = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
    (STATE / "pid").write_text(str(keeper.pid))
    environment = client_environment()

    def kubectl(*arguments, text=None):
        command = as_client("kubectl", *arguments)
        return subprocess.run(command, env=environment, input=text, capture_output=True, text=True)

    def node_is_ready():
        if keeper.poll() is not None:
            raise SystemExit(f"cluster: the node ended; see {STATE / 'log'}")
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        return kubectl("get", "node", NODE, "-o", path).stdout == "True"

    wait_for("the node", 240, node_is_ready)
    here = pathlib.Path(__file__).resolve().parent
    applied = kubectl("apply", "-f", here / "dns.yaml")
    applied = applied if applied.returncode else kubectl("apply", "-f", "-", text=volumes())
    if applied.returncode:
        raise SystemExit(f"cluster: {applied.stderr}")
    ready = kubectl("-n", "kube-system", "rollout", "status", "deploy/dns", "--timeout=120s")
    if ready.returncode:
        raise SystemExit(f"cluster: its DNS did not come: {ready.stderr}")
    print(f"cluster: up in {time.monotonic() - began:.0f} s", file=sys.stderr)


def volumes():
    """A default storage class without a provisioner, and volumes in folders of the node."""
    objects = [{
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }]
    for number in range(1, VOLUMES + 1):
        folder = STATE / "volumes" / f"v{number}"
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
        objects.append({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"v{number}"},
            "spec": {
                "capacity": {"storage": "50Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": "local",
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
            },
        })
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


def load(images):
    keeper = int((STATE / "pid").read_text())
    inner = output("pgrep", "-P", str(keeper)).split()[0]
    for image in images:
        run("nsenter", "-t", inner, "-m", "-p", "ctr", "-n", "k8s.io", "images", "import",
            pathlib.Path(image).resolve(), quiet=True)


def down():
    pid_file = STATE / "pid"
    if pid_file.exists():
        keeper = int(pid_file.read_text())
        # With the first process of its namespace every other one of the node ends.
        try:
            os.kill(keeper, signal.SIGKILL)
            while pathlib.Path(f"/proc/{keeper}").exists():
                try:
                    os.waitpid(keeper, os.WNOHANG)
                except ChildProcessError:
                    pass
                time.sleep(0.05)
        except ProcessLookupError:
            pass
    for name in (CLIENT_NETNS, NODE_NETNS):
        if pathlib.Path(f"/run/netns/{name}").exists():
            run("ip", "netns", "del", name)
    until = time.monotonic() + 20
    while time.monotonic() < until and not remove_cgroups():
        time.sleep(0.2)
    shutil.rmtree(STATE, ignore_errors=True)
    left = leftovers()
    if left:
        raise SystemExit(f"cluster: still there: {', '.join(left)}")


def remove_cgroups():
    for ours in pathlib.Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"):
        for folder, _, _ in os.walk(ours, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass
    return not list(pathlib.Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"))


def leftovers():
    left = [str(path) for path in pathlib.Path("/sys/fs/cgroup").glob(f"*/{CGROUP}")]
    left += [f"/run/netns/{name}" for name in (CLIENT_NETNS, NODE_NETNS) if pathlib.Path(f"/run/netns/{name}").exists()]
    left += [str(STATE)] if STATE.exists() else []
    left += [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines() if str(STATE) in line]
    return left


def main():
    match sys.argv[1:]:
        case ["why-not"]:
            if reason := why_not():
                raise SystemExit(f"cluster: {reason}")
        case ["up", *images]:
            if reason := why_not():
                raise SystemExit(f"cluster: {reason}")
            up(images)
        case ["load", *images]:
            load(images)
        case ["exec", *command] if command:
            command = as_client(*command)
            os.execvpe(command[0], command, client_environment())
        case ["down"]:
            down()
        case ["node"]:
            node()
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
