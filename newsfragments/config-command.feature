``broker config check`` says what is wrong with a configuration file, and ``broker config show`` what holds for a queue or
topic and which section says so.
