``broker trace`` and ``GET /debug/trace`` show the frames of one connection, or what becomes of the messages of one queue,
while it happens; passwords are never shown.
