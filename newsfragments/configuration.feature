The configuration has sections for topics and aliases, and keys for what a full queue does, durability, retention, rates
and more; whatever contradicts itself is refused with the keys named. ``docs/configuration.rst`` has them all.
