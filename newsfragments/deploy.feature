``deploy/`` has what a server needs: units and sockets for systemd, a script that installs them with the code, a Dockerfile
with a health check, and logrotate's configuration.
