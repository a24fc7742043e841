# encoding: UTF-8
require "dalli"

queues = Dalli::Client.new("localhost:22122", socket_timeout: 5)

# What is put in comes out once, as the object it was.
queues.set("orders", { id: 7, who: "Zoë", tags: [1.5, nil, true] })
queues.set("orders", "\0\xFF\r\n".b)
p queues.get("orders")                 # => {:id=>7, :who=>"Zoë", :tags=>[1.5, nil, true]}
p queues.get("orders")                 # => "\x00\xFF\r\n"
p queues.get("orders")                 # => nil
p queues.get("never-heard-of")         # => nil

# One message of each queue that has one.
queues.set("north", 1)
queues.set("south", 2)
p queues.get_multi("north", "east", "south").sort # => [["north", 1], ["south", 2]]

# Delivered within a minute or not at all; -1 is the past.
queues.set("calls", "now", 60)
queues.set("calls", "too late", -1)
p queues.get("calls")                  # => "now"
p queues.get("calls")                  # => nil

# A loan: the message is the reader's until it is closed or given back.
queues.set("jobs", "paint")
p queues.get("jobs/open")              # => "paint"
p queues.get("jobs/abort")             # => nil
p queues.get("jobs/open")              # => "paint"
p queues.get("jobs/close")             # => nil
p queues.get("jobs/t=100")             # => nil
