A message put into a queue by memcache, STOMP or HTTP is taken out by any of the three, body and metadata kept. It is on disk before its producer is told.
