"""What this process may use: affinity, cpuset, cgroup quota and memory limit, container, ulimit."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from harness.machine.tree import Tree, integer, number_list
from harness.records.machine import Limits
from harness.units import format_cpu_list

CGROUPS = "sys/fs/cgroup"
_ALLOWED = re.compile(r"^Cpus_allowed_list:\s*(\S{1,4096})\s*$", re.MULTILINE)
# v1 writes "no limit" as the largest page-aligned number
_NO_LIMIT = 1 << 60
_MAX_DEPTH = 32
_MARKS = {
    "docker": ("docker", "/docker"),
    "kubernetes": ("kubepods", "/kubepods"),
    "lxc": ("lxc", "/lxc"),
    "podman": ("libpod", "/libpod"),
}
_HYPERVISORS = (
    ("amazon ec2", "KVM (Nitro)"),
    ("alibaba", "KVM"),
    ("google", "KVM"),
    ("microsoft", "Hyper-V"),
    ("vmware", "VMware"),
    ("innotek", "VirtualBox"),
    ("xen", "Xen"),
    ("qemu", "QEMU or KVM"),
    ("hetzner", "KVM"),
    ("openstack", "KVM"),
    ("digitalocean", "KVM"),
    ("oraclecloud", "KVM"),
    ("kvm", "KVM"),
)


class Cgroup(NamedTuple):
    """The version, and this process's folders from its own group up to the root."""

    version: str | None
    folders: list[str]

    def cpu_path(self, tree: Tree) -> str:
        """The folder below the mount point that accounts for throttling.

        That is the one of the tightest quota, else the nearest that counts it, else its own: in a
        container its own path may not be mounted, and the quota may be on a group above.
        """
        paths = [f"cpu/{own}" if self.version == "v1" else own for own in self.folders]
        counts = [p for p in paths if "nr_throttled" in (tree.text(_stat_of(p)) or "")]
        quotas = {
            path: quota
            for path, own in zip(paths, self.folders, strict=True)
            if path in counts and (quota := _quota_in(tree, self.version, own)) is not None
        }
        return min(quotas, key=quotas.__getitem__) if quotas else (counts or paths or [""])[0]

    def cpu_stat(self, tree: Tree) -> str:
        """The file that counts how often the quota stopped this process."""
        return _stat_of(self.cpu_path(tree))


def available_bytes(limits: Limits) -> int:
    """Memory that this machine can give now, within the limit of its cgroup."""
    import psutil

    free = int(psutil.virtual_memory().available)
    return free if limits.memory_bytes is None else min(free, limits.memory_bytes)


def _stat_of(path: str) -> str:
    return f"{CGROUPS}/{path}/cpu.stat".replace("//", "/")


def read_limits(
    tree: Tree,
    online: list[int],
    ids: dict[str, str],
    features: list[str],
    unknown: dict[str, str],
) -> Limits:
    """The limits of this process; in a captured tree, of the process that captured it."""
    version, folders = cgroup_of(tree)
    allowed = set(_allowed(tree, online, unknown))
    # Inside a partition the top of the tree has only the CPUs that are left outside it.
    both = allowed & set(_cpuset(tree, version) or allowed)
    return Limits(
        allowed_cpus=format_cpu_list(both or allowed),
        cpu_quota=_quota(tree, version, folders),
        memory_bytes=_memory(tree, version, folders),
        cgroup=version,
        container=_container(tree),
        hypervisor=hypervisor_of(tree, ids, features),
        locked_memory_bytes=_locked(tree, unknown),
    )


def _allowed(tree: Tree, online: list[int], unknown: dict[str, str]) -> list[int]:
    if tree.live and hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    match = _ALLOWED.search(tree.text("proc/self/status") or "")
    cpus = [c for c in (number_list(match[1]) if match else None) or [] if c in set(online)]
    if not cpus:
        unknown["limits.allowed_cpus"] = "every online CPU assumed: no process in a captured tree"
    return cpus or online


def cgroup_of(tree: Tree) -> Cgroup:
    """Where this process stands in the cgroup tree, whichever version is mounted."""
    lines = (tree.text("proc/self/cgroup") or "").splitlines()
    paths = {parts[1]: parts[2] for line in lines if len(parts := line.split(":", 2)) == 3}
    if tree.exists(f"{CGROUPS}/cgroup.controllers"):
        return Cgroup("v2", _upwards(paths.get("", "/")))
    if tree.exists(f"{CGROUPS}/cpu") or tree.exists(f"{CGROUPS}/memory"):
        by_name = {n: path for names, path in paths.items() for n in names.split(",")}
        return Cgroup("v1", _upwards(by_name.get("cpu", by_name.get("memory", "/"))))
    return Cgroup(None, [])


def _upwards(path: str) -> list[str]:
    parts = [p for p in path.split("/") if p not in ("", ".", "..")][:_MAX_DEPTH]
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def _cpuset(tree: Tree, version: str | None) -> list[int] | None:
    """The cpuset at the top of what this process sees; deeper ones are in the affinity already."""
    name = "cpuset.cpus.effective" if version == "v2" else "cpuset/cpuset.effective_cpus"
    return tree.cpus(f"{CGROUPS}/{name}") or None if version else None


def _quota(tree: Tree, version: str | None, folders: list[str]) -> float | None:
    """CPUs' worth of time: the tightest quota from here to the root, or None without one."""
    found = [q for f in folders if (q := _quota_in(tree, version, f)) is not None]
    return min(found, default=None)


def _quota_in(tree: Tree, version: str | None, folder: str) -> float | None:
    if version == "v2":
        words = (tree.line(f"{CGROUPS}/{folder}/cpu.max") or "").split()
        quota, period = (integer(w) for w in [*words, "", ""][:2])
    else:
        base = f"{CGROUPS}/cpu/{folder}/cpu.cfs"
        quota, period = tree.number(f"{base}_quota_us"), tree.number(f"{base}_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _memory(tree: Tree, version: str | None, folders: list[str]) -> int | None:
    """Bytes: the tightest memory limit from here to the root, or None without one."""
    if version == "v2":
        paths = [f"{CGROUPS}/{f}/memory.max" for f in folders]
    else:
        paths = [f"{CGROUPS}/memory/{f}/memory.limit_in_bytes" for f in folders]
    found = [n for p in paths if (n := tree.number(p)) is not None and 0 < n < _NO_LIMIT]
    return min(found, default=None)


def _container(tree: Tree) -> str | None:
    """The kind of container, or None where nothing points to one."""
    if named := tree.line("run/systemd/container"):
        return named
    if tree.exists(".dockerenv"):
        return "docker"
    if tree.exists("run/.containerenv"):
        return "podman"
    groups = (tree.text("proc/self/cgroup") or "").lower()
    return next((k for k, words in _MARKS.items() if any(w in groups for w in words)), None)


def hypervisor_of(tree: Tree, ids: dict[str, str], features: list[str]) -> str | None:
    """The hypervisor below this guest, or None on hardware as far as one can see."""
    if ".metal" in ids.get("product_name", ""):  # AWS: c8g.metal-24xl
        return None
    if kind := tree.line("sys/hypervisor/type"):
        return kind
    told = " | ".join(ids.values()).lower()
    for word, name in _HYPERVISORS:
        if word in told:
            return name
    return "some hypervisor (cpuid flag)" if "hypervisor" in features else None


def _locked(tree: Tree, unknown: dict[str, str]) -> int | None:
    if not tree.live:
        unknown["limits.locked_memory_bytes"] = "a captured tree has no process"
        return None
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    except (ImportError, OSError, ValueError):
        unknown["limits.locked_memory_bytes"] = "this system does not tell it"
        return None
    if soft in (resource.RLIM_INFINITY, -1):
        unknown["limits.locked_memory_bytes"] = "unlimited"
        return None
    return soft
