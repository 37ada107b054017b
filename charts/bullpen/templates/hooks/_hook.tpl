{{/*
A Job that Helm runs, with a ServiceAccount of its own that goes with it. One that failed stays, to be looked at.
Called with (dict "root" $ "name" "redis-password" "hook" "pre-install,pre-upgrade" "args" list "env" list).
The roles are the caller's: "bullpen.hookAnnotations" puts them before the Job.
*/}}
{{- define "bullpen.hookName" -}}
{{- include "bullpen.fullname" .root }}-{{ .name }}
{{- end }}

{{- define "bullpen.hookAnnotations" -}}
helm.sh/hook: {{ .hook }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "bullpen.hookJob" -}}
{{- $name := include "bullpen.hookName" . }}
{{- $labels := include "bullpen.labels" (dict "root" .root "component" "hook") }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bullpen.hookAnnotations" (dict "hook" .hook "weight" "-10") | nindent 4 }}
automountServiceAccountToken: false
{{- if .root.Values.networkPolicy.enabled }}
---
# Where nothing is allowed that no policy allows, the Job would wait for the API server until its time is over.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bullpen.hookAnnotations" (dict "hook" .hook "weight" "-10") | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "bullpen.selectorLabels" (dict "root" .root "component" "hook") | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress: []
  egress:
    {{- include "bullpen.apiServerEgress" .root | nindent 4 }}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name | quote }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- include "bullpen.hookAnnotations" (dict "hook" .hook "weight" "0") | nindent 4 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: {{ int .root.Values.hooks.timeoutSeconds }}
  template:
    metadata:
      labels:
        {{- include "bullpen.podLabels" (dict "root" .root "component" "hook") | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ $name | quote }}
      automountServiceAccountToken: true
      enableServiceLinks: false
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .root.Values.podSecurityContext | nindent 8 }}
      containers:
        - name: hook
          image: {{ include "bullpen.operatorImage" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, bullpen_operator.hooks]
          args: {{ toJson .args }}
          {{- with .env }}
          env:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          resources:
            {{- toYaml .root.Values.hooks.resources | nindent 12 }}
          securityContext:
            {{- include "bullpen.containerSecurityContext" .root | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 16Mi}
      {{- with .root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}
