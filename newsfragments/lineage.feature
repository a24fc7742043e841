``GET /lineage/ID`` says what became of a message: what stages made of it, by channel, stage, version and state.
