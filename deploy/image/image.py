#!/usr/bin/env python3
"""Makes a container image from files, without a container engine: one archive that docker, podman and containerd load.

The same input gives the same bytes: no clock, no names of the machine, entries in order.

    image.py OUT.tar NAME:TAG --file /everring=path/to/everring --entrypoint /everring [--label key=value]
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import tarfile

USER = 65532  # "nonroot", as distroless images have it
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def entry(name, mode, kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size = kind, mode, size
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def layer(files):
    """The files with their folders, as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        made = set()
        for target in sorted(files):
            parts = target.strip("/").split("/")
            for depth in range(1, len(parts)):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    tar.addfile(entry(folder, 0o755, tarfile.DIRTYPE))
            with open(files[target], "rb") as source:
                data = source.read()
            mode = 0o755 if os.access(files[target], os.X_OK) else 0o644
            tar.addfile(entry("/".join(parts), mode, size=len(data)), io.BytesIO(data))
    return out.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def as_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(out, name, files, entrypoint, labels, user):
    plain = layer(files)
    packed = gzip.compress(plain, compresslevel=6, mtime=0)
    # Python writes the system's number into the gzip header; the format has one for "unknown".
    packed = packed[:9] + b"\xff" + packed[10:]
    config = as_json(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "User": f"{user}:{user}",
                "Entrypoint": [entrypoint],
                "Env": ["PATH=/"],
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(plain)}"]},
            "history": [{"created_by": "deploy/image/image.py"}],
        }
    )

    def described(kind, data):
        return {"mediaType": kind, "digest": f"sha256:{digest(data)}", "size": len(data)}

    manifest = as_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("application/vnd.oci.image.config.v1+json", config),
            "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", packed)],
        }
    )
    full = name if "/" in name else f"docker.io/library/{name}"
    index = as_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                {
                    **described("application/vnd.oci.image.manifest.v1+json", manifest),
                    "annotations": {
                        "io.containerd.image.name": full,
                        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                    },
                }
            ],
        }
    )
    blobs = {f"blobs/sha256/{digest(data)}": data for data in (config, packed, manifest)}
    docker = as_json(
        [
            {
                "Config": f"blobs/sha256/{digest(config)}",
                "RepoTags": [name],
                "Layers": [f"blobs/sha256/{digest(packed)}"],
            }
        ]
    )
    parts = {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"}), "index.json": index, "manifest.json": docker}
    parts.update(blobs)
    building = f"{out}.building"
    with tarfile.open(building, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(entry(folder, 0o755, tarfile.DIRTYPE))
        for path in sorted(parts):
            tar.addfile(entry(path, 0o644, size=len(parts[path])), io.BytesIO(parts[path]))
    os.replace(building, out)
    return {
        "image": name,
        "archive": out,
        "manifest": f"sha256:{digest(manifest)}",
        "unpacked_mib": round(len(plain) / 2**20, 2),
        "packed_mib": round(len(packed) / 2**20, 2),
    }


def pair(text):
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return key, value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("--file", type=pair, action="append", default=[], metavar="TARGET=SOURCE")
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--label", type=pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--user", type=int, default=USER)
    args = parser.parse_args()
    made = write(args.out, args.name, dict(args.file), args.entrypoint, dict(args.label), args.user)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
