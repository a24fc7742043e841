``twistd broker`` starts the broker in the foreground or the background. What keeps it from starting is one line and exit status 1.
