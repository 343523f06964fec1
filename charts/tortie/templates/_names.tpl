{{- define "tortie.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name alone where it says tortie already. */}}
{{- define "tortie.fullname" -}}
{{- $name := include "tortie.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What pods are selected by; it never changes, for a DaemonSet's selector cannot. */}}
{{- define "tortie.selector" -}}
app.kubernetes.io/name: {{ include "tortie.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "tortie.labels" -}}
{{ include "tortie.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "tortie.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "tortie.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "tortie.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The agent's settings, in the words of tortie-agent --help. */}}
{{- define "tortie.settings" -}}
store = "consul"
consul_address = {{ .Values.consul.address | toJson }}
{{- with .Values.consul.datacenter }}
consul_datacenter = {{ . | toJson }}
{{- end }}
{{- if .Values.consul.token.existingSecret }}
consul_token_file = "/run/secrets/tortie/token/token"
{{- end }}
{{- with .Values.consul.tls }}
{{- if .existingSecret }}
consul_ca_file = "/run/secrets/tortie/tls/ca.crt"
{{- if .clientCertificate }}
consul_cert_file = "/run/secrets/tortie/tls/tls.crt"
consul_key_file = "/run/secrets/tortie/tls/tls.key"
{{- end }}
{{- end }}
{{- end }}
as_number = {{ int64 .Values.bgp.asNumber }}
{{- with .Values.bgp.clusterID }}
cluster_id = {{ . | toJson }}
{{- end }}
hold_time_seconds = {{ int .Values.bgp.holdTimeSeconds }}
restart_time_seconds = {{ int .Values.bgp.restartTimeSeconds }}
ipv4_address = {{ .Values.agent.ipv4Address | toJson }}
ipv6_address = {{ .Values.agent.ipv6Address | toJson }}
mtu_bytes = {{ int .Values.agent.mtuBytes }}
http_listen = ":{{ int .Values.metrics.port }}"
status_page_listen = {{ .Values.statusPage.listen | toJson }}
log_level = {{ .Values.agent.logLevel | toJson }}
{{- range $name, $value := .Values.agent.settings }}
{{ $name }} = {{ $value | toJson }}
{{- end }}
{{- with .Values.agent.labels }}

[labels]
{{- range $name, $value := . }}
{{ $name | toJson }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end -}}
