Programs made of queues: ``broker.stages`` connects functions by channels, each output committed together with the ack of its input.
