use strict;
use warnings;
use utf8;
use Cache::Memcached;
use JSON::PP;

my $queues = Cache::Memcached->new({ servers => ["localhost:22122"] });
my $json = JSON::PP->new->canonical->allow_nonref->utf8;
$| = 1;

sub show { print $json->encode(shift), "\n" }

# What is put in comes out once, as the value it was.
$queues->set("orders", { id => 7, who => "Zoë", tags => [ "a", undef ] });
$queues->set("orders", "\0\xFF\r\n");
show($queues->get("orders"));                # => {"id":7,"tags":["a",null],"who":"Zoë"}
print unpack("H*", $queues->get("orders")), "\n"; # => 00ff0d0a
show($queues->get("orders"));                # => null
show($queues->get("never-heard-of"));        # => null

# One message of each queue that has one.
$queues->set("north", 1);
$queues->set("south", 2);
show($queues->get_multi("north", "east", "south")); # => {"north":"1","south":"2"}

# Delivered within a minute or not at all.
$queues->set("calls", "now", 60);
$queues->set("calls", "too late", -1);
show($queues->get("calls"));                 # => "now"
show($queues->get("calls"));                 # => null

# A loan: the message is the reader's until it is closed or given back.
$queues->set("jobs", "paint");
show($queues->get("jobs/open"));             # => "paint"
show($queues->get("jobs/abort"));            # => null
show($queues->get("jobs/open"));             # => "paint"
show($queues->get("jobs/close"));            # => null
show($queues->get("jobs/t=100"));            # => null
