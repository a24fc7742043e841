STOMP: message groups (`JMSXGroupID`), publishes that are not stored twice (`dedup-id`), and priorities of consumers (`x-priority`, `activemq.priority`).
