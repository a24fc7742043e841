Queues have policies, by pattern of their names: dead letter queues, a queue for what expired, growing pauses between
attempts, pause, limits on what is on loan, one exclusive consumer.
