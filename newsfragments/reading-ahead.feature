What follows in a long backlog is read from the store while the messages before it are being delivered, as far as the
memory for windows allows, so that consumers do not wait for reads.
