{{/* What the schema cannot say. Each failure is a sentence that names the key. */}}
{{- define "taskyard.validate" -}}
{{- $broker := .Values.broker -}}
{{- if and (not $broker.url) (not $broker.existingSecret) -}}
{{- fail "broker.existingSecret and broker.url are both empty: set broker.existingSecret to the name of a Secret that holds the broker's URL, or broker.url to amqp://user:password@host:5672/." -}}
{{- end -}}
{{- if and $broker.url $broker.existingSecret -}}
{{- fail "broker.existingSecret and broker.url are both set: set only one, so that it is clear which broker is meant." -}}
{{- end -}}
{{- if and $broker.url (not (regexMatch "^amqps?://" $broker.url)) -}}
{{- fail "broker.url must begin with amqp:// or amqps://: pods on several nodes cannot share a file." -}}
{{- end -}}
{{- $taken := dict
  "TASKYARD_BROKER_URL" "broker.existingSecret"
  "TASKYARD_BROKER_URL_FILE" "broker.existingSecret"
  "TASKYARD_METRICS_HOST" "nothing (pods listen on all addresses)"
  "TASKYARD_METRICS_PORT" "metrics.port"
  "TASKYARD_STATE_DIR" "nothing (it is a volume of the pod)"
  "TASKYARD_CONCURRENCY" "workerDefaults.concurrency"
  "TASKYARD_GRACE" "workerDefaults.grace" -}}
{{- range $name, $value := .Values.settings -}}
{{- if hasKey $taken $name -}}
{{- fail (printf "settings.%s would be overridden: set %s instead." $name (get $taken $name)) -}}
{{- end -}}
{{- if regexMatch "_(URL|URL_FILE|KEY|KEYS)$" $name -}}
{{- fail (printf "settings.%s may hold a secret, and a ConfigMap is no place for one: give it to workerDefaults.extraEnv with valueFrom.secretKeyRef." $name) -}}
{{- end -}}
{{- end -}}
{{- $groups := include "taskyard.groups" . | fromYaml -}}
{{- if not $groups -}}
{{- fail "workers has no enabled group: add one, such as workers.default={}." -}}
{{- end -}}
{{- range $name, $group := $groups -}}
{{- if not $group.modules -}}
{{- fail (printf "workers.%s.modules is empty: name the import paths that declare its queues, such as shop.tasks." $name) -}}
{{- end -}}
{{- $budget := default dict $group.podDisruptionBudget -}}
{{- if $budget.enabled -}}
{{- $max := kindIs "invalid" $budget.maxUnavailable | not -}}
{{- $min := kindIs "invalid" $budget.minAvailable | not -}}
{{- if and $max $min -}}
{{- fail (printf "workers.%s.podDisruptionBudget has both maxUnavailable and minAvailable: set the other one to null." $name) -}}
{{- end -}}
{{- if not (or $max $min) -}}
{{- fail (printf "workers.%s.podDisruptionBudget has neither maxUnavailable nor minAvailable: set one, or enabled=false." $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
