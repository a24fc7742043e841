New policies: `groups` (one consumer at a time per message group, in order, without standing in the way of others; `max_scan`), `rate`, `scheduler`, and `jitter` of a `backoff`.
