{{- define "intaglio.labels" -}}
app.kubernetes.io/name: intaglio
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "intaglio.selector" -}}
app.kubernetes.io/name: intaglio
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "intaglio.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "intaglio.container" -}}
imagePullPolicy: {{ .Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "intaglio.database" -}}
- name: INTAGLIO_SERVER_DATABASE
  value: {{ .Values.database.matching | quote }}
- name: INTAGLIO_SERVER_LOG_DATABASE
  value: {{ .Values.database.log | quote }}
- name: PGPASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.existing.databasePassword }}, key: password}
{{- end }}

{{- define "intaglio.probes" -}}
# A process that runs has started, whatever it waits for. A bridge waits for the service, and a service for its database.
startupProbe:
  httpGet: {path: /metrics, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /health, port: metrics}
  periodSeconds: 5
# A server that does not serve is not restarted for it: the database is away, or the log refuses. One that is dead is.
livenessProbe:
  httpGet: {path: /metrics, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
