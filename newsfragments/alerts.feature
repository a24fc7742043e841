Alerts for Prometheus with a runbook for each, and a dashboard for Grafana: ``deploy/prometheus``.
