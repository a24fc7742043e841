MEMCACHED_SERVERS=localhost:22122
export MEMCACHED_SERVERS

memcping && echo "it is there"              # => it is there

# The queue is called as the file. What is put in comes out once, byte for byte.
printf 'Zoë' > orders
memccp orders
printf '\000\377\r\n' > orders
memccp --flag=5 orders
memccat orders                              # => Zoë
memccat --file=taken orders
cmp taken orders && echo "the same bytes"   # => the same bytes
memccat orders || echo "nothing there"      # => nothing there
memccat never-heard-of || echo "nothing there" # => nothing there

# One message of each queue that has one.
printf 1 > north
printf 2 > south
memccp north south
memccat north south                         # => 1
                                            # => 2

# Delivered within a minute or not at all.
printf now > calls
memccp --expire=60 calls
memccp --expire=-1 calls
memccat calls                               # => now
memccat calls || echo "nothing there"       # => nothing there

# What waits is deleted with its queue. memcexist says yes to everything: a queue cannot be added to.
memccp calls
memcrm calls && echo "gone"                 # => gone
memcrm calls || echo "nothing there"        # => nothing there
