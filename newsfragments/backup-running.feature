``broker dump`` and ``broker backup`` work while the broker runs: they give what was stored at one moment, and no commit waits
for them.
