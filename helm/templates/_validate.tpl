{{/* Values that contradict each other fail here, in a sentence that says what to change, before anything is installed. */}}
{{- define "refrain.validate" -}}
{{- $values := .Values -}}

{{- /* config */ -}}
{{- $modes := list $values.config.mode -}}
{{- range $values.config.models | default dict }}{{ $modes = append $modes .mode }}{{ end -}}
{{- if and (has "enforce" $modes) (not $values.perPodMemoryAcknowledged) -}}
{{- fail "config.mode: under enforce each pod answers from its own memory alone, so with several replicas of a model a caller whose calls are spread is remembered in parts. Keep a caller on one pod (README.md, Replicas) and set perPodMemoryAcknowledged to true, or stay with observe." -}}
{{- end -}}
{{- if ((($values.config.telemetry).digest_key)) -}}
{{- fail "config.telemetry.digest_key: a ConfigMap is no place for a secret. Put the key into a Secret and name it in sidecar.digestKeySecret." -}}
{{- end -}}

{{- /* memory */ -}}
{{- $memory := include "refrain.memory" . | fromJson -}}
{{- $request := int64 (include "refrain.bytes" $values.sidecar.memoryRequest) -}}
{{- if gt $request (int64 $memory.limit) -}}
{{- fail (printf "sidecar.memoryRequest (%s) is above sidecar.memoryLimit (%s)." $values.sidecar.memoryRequest $values.sidecar.memoryLimit) -}}
{{- end -}}
{{- $need := add (int64 $memory.flight) (int64 $memory.store) (int64 $memory.rest) -}}
{{- if gt $need (int64 $memory.limit) -}}
{{- fail (printf "sidecar.memoryLimit: %s is not enough for three times config.limits.bytes_in_flight (3 x %d MiB), config.store.bytes (%d MiB) and %d MiB for all the rest: the sidecar would be killed under load. Raise it to %dMi or lower one of the two." $values.sidecar.memoryLimit (div (int64 $memory.inFlight) 1048576) (div (int64 $memory.store) 1048576) (div (int64 $memory.rest) 1048576) (div (add $need 1048575) 1048576)) -}}
{{- end -}}
{{- if or (gt (int64 $memory.perCaller) (int64 $memory.inFlight)) (gt (int64 $memory.message) (int64 $memory.perCaller)) -}}
{{- fail "config.limits: a message (message_bytes) must fit one caller's share (bytes_in_flight_per_caller), and that the whole (bytes_in_flight)." -}}
{{- end -}}

{{- /* sidecar */ -}}
{{- if eq (int $values.sidecar.adminPort) (int $values.sidecar.probePort) -}}
{{- fail "sidecar.adminPort and sidecar.probePort are one and the same; they must differ." -}}
{{- end -}}
{{- range $port := list $values.sidecar.adminPort $values.sidecar.probePort -}}
{{- range $values.networkPolicy.servingPorts -}}
{{- if eq (int .) (int $port) -}}
{{- fail (printf "networkPolicy.servingPorts: %d is the sidecar's own port; callers must not reach it." (int .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $values.sidecar.native "always") (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "sidecar.native: native sidecars need Kubernetes 1.29, and this is %s. Use auto or never." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- range $name, $_ := $values.sidecar.env -}}
{{- if eq $name "REFRAIN_TELEMETRY__DIGEST_KEY" -}}
{{- fail "sidecar.env.REFRAIN_TELEMETRY__DIGEST_KEY: everybody who may read pods would read it. Put the key into a Secret and name it in sidecar.digestKeySecret." -}}
{{- else if hasPrefix "REFRAIN_" $name -}}
{{- fail (printf "sidecar.env.%s: settings of the proxy belong into config, where they can be changed without a restart." $name) -}}
{{- else if has $name (list "POD_IP" "POD_NAME" "POD_NAMESPACE" "POD_UID" "NODE_NAME") -}}
{{- fail (printf "sidecar.env.%s is set for each pod by the webhook." $name) -}}
{{- end -}}
{{- end -}}

{{- /* namespaces */ -}}
{{- $excluded := include "refrain.excluded" . | fromJsonArray -}}
{{- range $values.namespaces -}}
{{- if has . $excluded -}}
{{- fail (printf "namespaces: nothing is injected in %s (kube-system, the release's own namespace, webhook.excludedNamespaces)." .) -}}
{{- end -}}
{{- end -}}

{{- /* webhook */ -}}
{{- if and (eq $values.webhook.failurePolicy "Ignore") (not (and $values.admissionPolicy.enabled (include "refrain.hasPolicies" .))) -}}
{{- fail "webhook.failurePolicy: with Ignore pods come up unprotected while the webhook is away, and no admission policy would refuse them. Use Fail, or admissionPolicy.enabled on Kubernetes 1.30 or later." -}}
{{- end -}}

{{- /* certificates */ -}}
{{- $certificates := $values.certificates -}}
{{- if eq $certificates.mode "existingSecret" -}}
{{- if or (not $certificates.secretName) (not $certificates.caBundle) -}}
{{- fail "certificates: existingSecret needs secretName, and caBundle for the API server to trust it." -}}
{{- end -}}
{{- else if or $certificates.secretName $certificates.caBundle -}}
{{- fail (printf "certificates: secretName and caBundle are for the mode existingSecret; under %s they would be ignored." $certificates.mode) -}}
{{- end -}}
{{- if and $certificates.issuerRef (ne $certificates.mode "certManager") -}}
{{- fail (printf "certificates.issuerRef is for the mode certManager; under %s it would be ignored." $certificates.mode) -}}
{{- end -}}

{{- /* monitoring */ -}}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.metricsFrom) (or $values.monitoring.podMonitor $values.monitoring.serviceMonitor) -}}
{{- fail "monitoring: nobody may reach the metrics that the monitors name. Say in networkPolicy.metricsFrom where your Prometheus is, for instance [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]." -}}
{{- end -}}
{{- end -}}
