STOMP listeners may have a flavour: the ways of RabbitMQ, ActiveMQ or CoilMQ. Every ERROR has an `error-code`; NACK takes `delay` and `reason`.
