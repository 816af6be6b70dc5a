{{ range services }}service {{ .Name }}
{{ end }}{{ range service "template-web" }}instance {{ .ID }} {{ .Address }}:{{ .Port }} {{ .Status }}
{{ end }}key {{ keyOrDefault "template/key" "none" }}
