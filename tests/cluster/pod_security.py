"""What the level "restricted" of Kubernetes' Pod Security Standards refuses in a pod.

Written from https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
KINDS = ("initContainers", "containers", "ephemeralContainers")


def pods(document: Any, place: str = "") -> Iterator[tuple[str, dict]]:
    """Every pod's spec in a document, however deep, with its place."""
    if isinstance(document, dict):
        if "containers" in document:
            yield place, document
        for name, value in document.items():
            yield from pods(value, f"{place}.{name}" if place else name)
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from pods(value, f"{place}[{number}]")


def refusals(pod: dict) -> list[str]:
    """Why the level would not admit a pod of this spec; empty if it would."""
    whole = pod.get("securityContext", {})
    found = [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    found += [f"sysctl {each['name']}" for each in whole.get("sysctls", [])]
    found += [
        f"volume {volume['name']}"
        for volume in pod.get("volumes", [])
        if not set(volume) - {"name"} <= VOLUMES
    ]
    for container in (each for kind in KINDS for each in pod.get(kind, [])):
        own = container.get("securityContext", {})
        both = whole | own
        added = own.get("capabilities", {}).get("add", [])
        reasons = {
            "privileged": bool(own.get("privileged")),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": both.get("runAsNonRoot") is not True,
            "runAsUser": both.get("runAsUser") == 0,
            "capabilities.drop": "ALL" not in own.get("capabilities", {}).get("drop", []),
            "capabilities.add": not set(added) <= {"NET_BIND_SERVICE"},
            "seccompProfile": both.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "procMount": own.get("procMount", "Default") != "Default",
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        }
        found += [f"{container['name']}: {reason}" for reason, bad in reasons.items() if bad]
    return found
