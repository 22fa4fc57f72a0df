{{/* Name of everything; short enough that `-worker-<group>` fits into 63 characters. */}}
{{- define "taskyard.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 35 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 35 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 35 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What Deployments select by: never changes over the life of a release. */}}
{{- define "taskyard.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "taskyard.labels" -}}
{{ include "taskyard.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "taskyard.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "taskyard.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "taskyard.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Name of the Secret with the broker's URL. */}}
{{- define "taskyard.brokerSecretName" -}}
{{- default (printf "%s-broker" (include "taskyard.fullname" .)) .Values.broker.existingSecret -}}
{{- end -}}

{{/* The variables that every container gets beside `settings`. The URL is a file, never a variable. */}}
{{- define "taskyard.environment" -}}
TASKYARD_BROKER_URL_FILE: /run/secrets/taskyard/broker-url
TASKYARD_METRICS_HOST: 0.0.0.0
TASKYARD_METRICS_PORT: {{ .Values.metrics.port | int | quote }}
TASKYARD_STATE_DIR: /var/lib/taskyard
{{- end -}}

{{/* Volumes and mounts of every pod: the secret, and the two folders that can be written to. */}}
{{- define "taskyard.volumes" -}}
- name: broker
  secret:
    secretName: {{ .secretName }}
    # 0440 in octal: for the group of podSecurityContext.fsGroup.
    defaultMode: 288
    items:
      - key: {{ .secretKey | quote }}
        path: broker-url
- name: state
  emptyDir:
    sizeLimit: 256Mi
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- end -}}

{{- define "taskyard.volumeMounts" -}}
- name: broker
  mountPath: /run/secrets/taskyard
  readOnly: true
- name: state
  mountPath: /var/lib/taskyard
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/*
Lay the map .over on the map .base, as YAML: maps are merged, null removes, everything else replaces.
Not mergeOverwrite, which would keep the base where the other says false, 0 or [].
*/}}
{{- define "taskyard.merge" -}}
{{- $merged := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $merged $key -}}
{{- else if and (kindIs "map" $value) (kindIs "map" (get $merged $key)) -}}
{{- $_ := set $merged $key (include "taskyard.merge" (dict "base" (get $merged $key) "over" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}

{{/* The enabled worker groups with their defaults laid under, by name, as YAML. */}}
{{- define "taskyard.groups" -}}
{{- $groups := dict -}}
{{- range $name, $group := .Values.workers -}}
{{- $merged := include "taskyard.merge" (dict "base" $.Values.workerDefaults "over" (default dict $group)) | fromYaml -}}
{{- if $merged.enabled -}}
{{- $_ := set $groups $name $merged -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{/* Import paths of all groups and of the set-up, each once, as YAML. */}}
{{- define "taskyard.modules" -}}
{{- $modules := default list .Values.setup.modules -}}
{{- range $name, $group := include "taskyard.groups" . | fromYaml -}}
{{- $modules = concat $modules (default list $group.modules) -}}
{{- end -}}
{{- $modules | uniq | sortAlpha | toYaml -}}
{{- end -}}
