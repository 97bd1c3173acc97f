{{/* Names, labels and sizes that several files need. */}}

{{/* The release's name, with the product's in it. All names begin with it. */}}
{{- define "refrain.name" -}}
{{- if contains "refrain" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-refrain" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "refrain.webhook" -}}{{ include "refrain.name" . }}-webhook{{- end -}}
{{- define "refrain.webhook.host" -}}{{ include "refrain.webhook" . }}.{{ .Release.Namespace }}.svc{{- end -}}

{{/* The same in every release and namespace: pods name it. */}}
{{- define "refrain.proxyConfig" -}}refrain-proxy-config{{- end -}}

{{- define "refrain.tlsSecret" -}}
{{- if eq .Values.certificates.mode "existingSecret" -}}
{{- .Values.certificates.secretName -}}
{{- else -}}
{{- include "refrain.webhook" . }}-tls
{{- end -}}
{{- end -}}

{{- define "refrain.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "refrain.labels" -}}
app.kubernetes.io/name: refrain
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "refrain.webhook.selector" -}}
app.kubernetes.io/name: refrain
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: webhook
{{- end -}}

{{/* Fit for the restricted Pod Security Standard. */}}
{{- define "refrain.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}
{{- define "refrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Namespaces in which nothing is injected nor refused. */}}
{{- define "refrain.excluded" -}}
{{- concat (list "kube-system" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toJson -}}
{{- end -}}

{{/* Whether the cluster has ValidatingAdmissionPolicies. */}}
{{- define "refrain.hasPolicies" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end -}}

{{/* A size such as 64MiB, 512Mi, 10kB or 1048576 in bytes. */}}
{{- define "refrain.bytes" -}}
{{- $written := ternary (toString (int64 .)) (toString .) (kindIs "float64" .) | replace " " "" -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $written -}}
{{- $unit := lower (trimPrefix $number $written) | trimSuffix "b" -}}
{{- $units := dict "" 1 "k" 1000 "m" 1000000 "g" 1000000000 "ki" 1024 "mi" 1048576 "gi" 1073741824 -}}
{{- if or (not $number) (not (hasKey $units $unit)) -}}
{{- fail (printf "expected a size such as 64MiB or 512Mi, found %q" (toString .)) -}}
{{- end -}}
{{- mulf (float64 $number) (get $units $unit) | int64 -}}
{{- end -}}

{{/* Numbers from a values file are floating-point; TOML and the proxy tell 4096 from 4096.0. Changes the map that it is given. */}}
{{- define "refrain.wholeNumbers" -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- include "refrain.wholeNumbers" $value -}}
{{- else if kindIs "slice" $value -}}
{{- $list := list -}}
{{- range $value -}}
{{- if kindIs "map" . -}}{{- include "refrain.wholeNumbers" . -}}{{- end -}}
{{- if kindIs "float64" . -}}
{{- $list = append $list (ternary (int64 .) . (eq (floor .) .)) -}}
{{- else -}}
{{- $list = append $list . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $ $key $list -}}
{{- else if kindIs "float64" $value -}}
{{- if eq (floor $value) $value -}}{{- $_ := set $ $key (int64 $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a sidecar's memory is for, in bytes: config's own sizes where they are set, else shares of the limit. As JSON.
A byte of a request in flight takes up to three (measured: buffers of its connection, and copies while it is read). */}}
{{- define "refrain.memory" -}}
{{- $limit := int64 (include "refrain.bytes" .Values.sidecar.memoryLimit) -}}
{{- $limits := .Values.config.limits | default dict -}}
{{- $store := .Values.config.store | default dict -}}
{{- $inFlight := div (mul $limit 3) 16 -}}
{{- with $limits.bytes_in_flight }}{{ $inFlight = int64 (include "refrain.bytes" .) }}{{ end -}}
{{- $perCaller := div (mul $inFlight 2) 3 -}}
{{- with $limits.bytes_in_flight_per_caller }}{{ $perCaller = int64 (include "refrain.bytes" .) }}{{ end -}}
{{- $message := min 67108864 $perCaller -}}
{{- with $limits.message_bytes }}{{ $message = int64 (include "refrain.bytes" .) }}{{ end -}}
{{- $remembered := div $limit 4 -}}
{{- with $store.bytes }}{{ $remembered = int64 (include "refrain.bytes" .) }}{{ end -}}
{{- dict "limit" $limit "inFlight" $inFlight "perCaller" $perCaller "message" $message "store" $remembered "flight" (mul $inFlight 3) "rest" 50331648 | toJson -}}
{{- end -}}

{{/* The proxy's config.toml. */}}
{{- define "refrain.configToml" -}}
{{- $memory := include "refrain.memory" . | fromJson -}}
{{- $config := deepCopy .Values.config -}}
{{- $limits := $config.limits | default dict -}}
{{- $store := $config.store | default dict -}}
{{- if not $limits.bytes_in_flight }}{{ $_ := set $limits "bytes_in_flight" $memory.inFlight }}{{ end -}}
{{- if not $limits.bytes_in_flight_per_caller }}{{ $_ := set $limits "bytes_in_flight_per_caller" $memory.perCaller }}{{ end -}}
{{- if not $limits.message_bytes }}{{ $_ := set $limits "message_bytes" $memory.message }}{{ end -}}
{{- if not $store.bytes }}{{ $_ := set $store "bytes" $memory.store }}{{ end -}}
{{- $_ := set $config "limits" $limits -}}
{{- $_ := set $config "store" $store -}}
{{- include "refrain.wholeNumbers" $config -}}
{{- toToml $config -}}
{{- end -}}

{{/* The webhook's settings. */}}
{{- define "refrain.webhookToml" -}}
{{- $sidecar := dict
  "image" (include "refrain.image" .)
  "pull_policy" .Values.image.pullPolicy
  "native" .Values.sidecar.native
  "cpu_request" .Values.sidecar.cpuRequest
  "memory_request" .Values.sidecar.memoryRequest
  "memory_limit" .Values.sidecar.memoryLimit
  "admin_port" .Values.sidecar.adminPort
  "probe_port" .Values.sidecar.probePort
  "drain_seconds" .Values.sidecar.drainSeconds
  "probe_rewrite" .Values.sidecar.probeRewrite
  "bypass_check" .Values.sidecar.bypassCheck
  "config_map" (include "refrain.proxyConfig" .)
  "log_level" .Values.sidecar.logLevel
  "env" (deepCopy .Values.sidecar.env)
-}}
{{- with .Values.sidecar.cpuLimit }}{{ $_ := set $sidecar "cpu_limit" . }}{{ end -}}
{{- with .Values.sidecar.digestKeySecret }}{{ $_ := set $sidecar "digest_key_secret" . }}{{ end -}}
{{- $certificates := dict "mode" "files" "certificate" "/tls/tls.crt" "key" "/tls/tls.key" -}}
{{- if eq .Values.certificates.mode "self" -}}
{{- $certificates = dict
  "mode" "self"
  "days" .Values.certificates.days
  "secret" (include "refrain.tlsSecret" .)
  "service" (include "refrain.webhook" .)
  "configuration" (include "refrain.name" .)
  "namespace" .Release.Namespace
-}}
{{- end -}}
{{- $settings := dict
  "listen" "0.0.0.0:8443"
  "admin" "0.0.0.0:15990"
  "kubernetes" (printf "%s.%s" .Capabilities.KubeVersion.Major .Capabilities.KubeVersion.Minor)
  "certificates" $certificates
  "sidecar" $sidecar
  "metrics" (dict "exposed" .Values.sidecar.exposeModelMetrics)
-}}
{{- include "refrain.wholeNumbers" $settings -}}
{{- toToml $settings -}}
{{- end -}}
