{{/*
Names. They leave room for the longest suffix within a label's 63 characters.
*/}}
{{- define "bullpen.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "bullpen.fullname" -}}
{{- $name := include "bullpen.untriedFullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "the chart's objects would be called %q, and no Service may be: a name begins with a letter and has letters, digits and hyphens; set fullnameOverride" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "bullpen.untriedFullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "bullpen.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "bullpen.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "bullpen.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "bullpen.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{/* The lease as the operator names it: its class is appended (bullpen_operator.settings). */}}
{{- define "bullpen.leaseName" -}}
{{- include "bullpen.fullname" . }}{{ with .Values.className }}-{{ . }}{{ end }}
{{- end }}

{{/*
Labels. Called with (dict "root" $ "component" "operator"). Those by which objects are found are the chart's alone; of the others
"more", where it is given, goes before commonLabels, and those before the chart's. No key comes twice.
*/}}
{{- define "bullpen.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bullpen.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "bullpen.labels" -}}
{{- $own := merge (include "bullpen.selectorLabels" . | fromYaml) (dict
  "app.kubernetes.io/part-of" "bullpen"
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")) }}
{{- merge dict (.more | default dict) .root.Values.commonLabels $own | toYaml }}
{{- end }}

{{/* Of pods: nothing that an upgrade of the chart alone would change, so that it restarts nobody. */}}
{{- define "bullpen.podLabels" -}}
{{- $own := merge (include "bullpen.selectorLabels" . | fromYaml) (dict "app.kubernetes.io/part-of" "bullpen") }}
{{- merge dict (.more | default dict) .root.Values.commonLabels $own | toYaml }}
{{- end }}

{{/* An image by digest, or by tag. Called with (dict "image" .Values.image "tag" .Chart.AppVersion). */}}
{{- define "bullpen.image" -}}
{{- with .image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{- define "bullpen.operatorImage" -}}
{{- include "bullpen.image" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
{{- end }}

{{/* What restricted PodSecurity asks of each container, and more: nothing can be written but to volumes. */}}
{{- define "bullpen.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Rules of a NetworkPolicy for whoever asks the API server. */}}
{{- define "bullpen.apiServerEgress" -}}
- ports: # names
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ . }}, protocol: UDP}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
- ports: # the API server, which has no pod that could be selected
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{/*
Roles. "bullpen.grant" gives rules to a ServiceAccount: cluster-wide, or in each of the namespaces that are looked after.
Called with (dict "root" $ "name" "kinds" "rules" rules).
*/}}
{{- define "bullpen.grant" -}}
{{- $root := .root }}
{{- $name := printf "%s-%s" (include "bullpen.fullname" $root) .name }}
{{- $labels := include "bullpen.labels" (dict "root" $root "component" "operator") }}
{{- if $root.Values.namespaces }}
{{- range $namespace := $root.Values.namespaces }}
---
{{ include "bullpen.role" (dict "root" $root "kind" "Role" "name" $name "namespace" $namespace "labels" $labels "rules" $.rules) }}
{{- end }}
{{- else }}
---
{{ include "bullpen.role" (dict "root" $root "kind" "ClusterRole" "name" $name "labels" $labels "rules" $.rules) }}
{{- end }}
{{- end }}

{{/* One role and its binding; "account" is the operator's unless given, "annotations" are those of hooks. */}}
{{- define "bullpen.role" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name | quote }}
  {{- with .namespace }}
  namespace: {{ . | quote }}
  {{- end }}
  labels:
    {{- .labels | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
rules:
  {{- .rules | trim | replace "\n\n" "\n" | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name | quote }}
  {{- with .namespace }}
  namespace: {{ . | quote }}
  {{- end }}
  labels:
    {{- .labels | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- . | nindent 4 }}
  {{- end }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ .account | default (include "bullpen.serviceAccountName" .root) | quote }}
    namespace: {{ .root.Release.Namespace | quote }}
{{- end }}

{{/* The chart's own Redis. */}}
{{- define "bullpen.redisName" -}}
{{- include "bullpen.fullname" . }}-redis
{{- end }}

{{/* What `redis.maxmemory` is of the pod's memory limit, in percent; 0 without a limit. */}}
{{- define "bullpen.redisShare" -}}
{{- $units := dict "mb" 1048576.0 "gb" 1073741824.0 "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 }}
{{- $limit := dig "limits" "memory" "" .Values.redis.resources | toString }}
{{- if $limit }}
{{- $bytes := list }}
{{- range list .Values.redis.maxmemory $limit }}
{{- $number := regexFind "^[0-9.]+(e[+][0-9]+)?" . }}
{{- $bytes = append $bytes (mulf (float64 $number) (get $units (trimPrefix $number .))) }}
{{- end }}
{{- divf (mulf 100 (first $bytes)) (last $bytes) | floor | int }}
{{- else }}0{{ end }}
{{- end }}

{{- define "bullpen.redisSecretName" -}}
{{- .Values.redis.auth.existingSecret | default (include "bullpen.redisName" .) }}
{{- end }}

{{- define "bullpen.connectionName" -}}
{{- .Values.redis.connection.name | default (include "bullpen.fullname" .) }}
{{- end }}

{{/* Which kind offers it: a namespaced install knows RedisConnection alone. */}}
{{- define "bullpen.connectionKind" -}}
{{- ternary "RedisConnection" "ClusterRedisConnection" (gt (len .Values.namespaces) 0) }}
{{- end }}
