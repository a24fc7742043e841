STOMP: `activemq.exclusive` on SUBSCRIBE makes a consumer the only one of its queue while it is there.
