``--log-format json`` writes the log as one JSON object a line.
