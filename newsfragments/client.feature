``broker publish`` and ``broker get`` put messages in and take them out from a shell.
