A hundred old log files are kept, a megabyte each; there was no limit.
