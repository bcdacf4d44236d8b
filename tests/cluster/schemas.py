"""What the files in cluster/ may say: the fields of each API that they use, all others refused.

Written from the APIs' documentation: `ray.io/v1` of KubeRay 1.6, Kubernetes' core, apps and
networking, and the Compose specification.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def record(optional: dict[str, Schema] | None = None, **required: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def several(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


SECRET_KEY = record(secretKeyRef=record(name=TEXT, key=TEXT))
ENV = several(
    {
        "oneOf": [
            record(name=TEXT, value={"type": "string"}),
            record(name=TEXT, valueFrom=SECRET_KEY),
        ]
    }
)
AMOUNTS: Schema = {"type": "object", "additionalProperties": QUANTITY, "minProperties": 1}
LOCKED = record(
    allowPrivilegeEscalation={"const": False},
    capabilities=record(drop={"const": ["ALL"]}),
)
PROBE: Schema = {
    "oneOf": [
        record(
            {
                "initialDelaySeconds": COUNT,
                "periodSeconds": COUNT,
                "timeoutSeconds": COUNT,
                "failureThreshold": COUNT,
            },
            **action,
        )
        for action in (
            {"httpGet": record(path=TEXT, port=PORT)},
            {"tcpSocket": record(port=PORT)},
            {"exec": record(command=several(TEXT))},
        )
    ]
}
CONTAINER = record(
    {
        "command": several(TEXT),
        "livenessProbe": PROBE,
        "readinessProbe": PROBE,
        "volumeMounts": several(record(name=TEXT, mountPath=TEXT)),
        "env": ENV,
        "envFrom": several(record(secretRef=record(name=TEXT))),
        "ports": several(record(name=TEXT, containerPort=PORT)),
    },
    name=TEXT,
    image=TEXT,
    resources=record(requests=AMOUNTS, limits=AMOUNTS),
    securityContext=LOCKED,
)
POD = record(
    {
        "restartPolicy": one_of("Never", "Always", "OnFailure"),
        "terminationGracePeriodSeconds": COUNT,
        "tolerations": several(
            record(
                key=TEXT,
                operator=one_of("Exists", "Equal"),
                effect=one_of("NoSchedule", "NoExecute"),
            )
        ),
        "nodeSelector": LABELS,
        "volumes": several(
            record(
                name=TEXT,
                emptyDir=record({"medium": one_of("Memory"), "sizeLimit": QUANTITY}),
            )
        ),
    },
    automountServiceAccountToken=FLAG,
    securityContext=record(
        {"fsGroup": COUNT},
        runAsNonRoot={"const": True},
        runAsUser={"type": "integer", "minimum": 1},
        seccompProfile=record(type=one_of("RuntimeDefault")),
    ),
    containers=several(CONTAINER),
)
GROUP: dict[str, Schema] = {
    "rayStartParams": LABELS,
    "template": record(metadata=record(labels=LABELS), spec=POD),
}
NAMED = record(name=TEXT)
SELECTOR = record(matchLabels=LABELS)
# No matchLabels in a policy: kustomize adds its labels to them, and not to a RayCluster's pods.
SELECTED = record(
    {
        "matchExpressions": several(
            record(key=TEXT, operator=one_of("In"), values=several(TEXT)),
        )
    }
)


def resource(api: str, kind: str, spec: Schema, metadata: Schema = NAMED) -> Schema:
    return record(apiVersion={"const": api}, kind={"const": kind}, metadata=metadata, spec=spec)


CLUSTER = record(
    {
        "gcsFaultToleranceOptions": record(
            redisAddress=TEXT, redisPassword=record(valueFrom=SECRET_KEY)
        )
    },
    rayVersion=TEXT,
    authOptions=record(mode=one_of("token")),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        version=one_of("v2"),
        idleTimeoutSeconds=COUNT,
        resources=record(requests=AMOUNTS, limits=AMOUNTS),
        securityContext=LOCKED,
    ),
    headGroupSpec=record(**GROUP),
    workerGroupSpecs=several(
        record(groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, **GROUP)
    ),
)

KUBERNETES: dict[str, Schema] = {
    "RayCluster": resource("ray.io/v1", "RayCluster", CLUSTER),
    "RayService": resource(
        "ray.io/v1",
        "RayService",
        record(serveConfigV2=TEXT, rayClusterConfig=CLUSTER, excludeHeadPodFromServeSvc=FLAG),
    ),
    "RayJob": resource(
        "ray.io/v1",
        "RayJob",
        record(clusterSelector=LABELS, entrypoint=TEXT, submitterPodTemplate=record(spec=POD)),
        metadata=record(generateName=TEXT),
    ),
    "Service": resource(
        "v1", "Service", record(selector=LABELS, ports=several(record(name=TEXT, port=PORT)))
    ),
    "StatefulSet": resource(
        "apps/v1",
        "StatefulSet",
        record(
            serviceName=TEXT,
            replicas=COUNT,
            selector=SELECTOR,
            template=record(metadata=record(labels=LABELS), spec=POD),
            volumeClaimTemplates=several(
                record(
                    metadata=NAMED,
                    spec=record(
                        accessModes=several(one_of("ReadWriteOnce")),
                        resources=record(requests=AMOUNTS),
                    ),
                )
            ),
        ),
    ),
    "NetworkPolicy": resource(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        record(
            podSelector=SELECTED,
            policyTypes=several(one_of("Ingress", "Egress")),
            ingress=several(
                {
                    "type": "object",
                    "properties": {
                        "from": several(
                            record({"podSelector": SELECTED, "namespaceSelector": SELECTED})
                        ),
                        "ports": several(record(protocol=one_of("TCP"), port=PORT)),
                    },
                    "required": ["from"],
                    "additionalProperties": False,
                }
            ),
        ),
    ),
    "Kustomization": record(
        apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
        kind={"const": "Kustomization"},
        resources=several(TEXT),
        images=several(record(name=TEXT, newName=TEXT, newTag=TEXT)),
        replacements=several(
            record(
                source=record(kind=TEXT, fieldPath=TEXT),
                targets=several(
                    record(
                        select=record(kind=TEXT),
                        fieldPaths=several(TEXT),
                        options=record(delimiter=TEXT, index=COUNT),
                    )
                ),
            )
        ),
    ),
}

SERVICE = record(
    {
        "command": several(TEXT),
        "ports": several({"type": "string", "pattern": r"^127\.0\.0\.1:[0-9]+:[0-9]+$"}),
        "volumes": several({"type": "string", "pattern": r"^[a-z0-9]+:/[a-z/]+$"}),
        "healthcheck": record(
            {"start_period": TEXT},
            test={"type": "array", "items": TEXT, "minItems": 2},
            interval=TEXT,
            retries=COUNT,
        ),
        "depends_on": {
            "type": "object",
            "additionalProperties": record(
                condition=one_of("service_healthy", "service_completed_successfully")
            ),
        },
    },
    image={"type": "string", "pattern": r"^[a-z/]+:[a-z0-9.-]+$"},
    environment={"type": "object", "additionalProperties": {"type": "string"}},
    restart=one_of("no", "unless-stopped"),
)
COMPOSE = record(
    name=TEXT,
    services={"type": "object", "additionalProperties": SERVICE},
    volumes={"type": "object", "additionalProperties": {"type": "null"}},
)
