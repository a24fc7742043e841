import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import net.spy.memcached.MemcachedClient;

public class Spymemcached {
    public static void main(String[] arguments) throws Exception {
        MemcachedClient queues = new MemcachedClient(new InetSocketAddress("localhost", 22122));

        // What is put in comes out once, as the object it was.
        queues.set("orders", 0, new TreeMap<>(Map.of("id", 7, "who", "Zoë"))).get();
        queues.set("orders", 0, new byte[] {0, -1, 13, 10}).get();
        System.out.println(queues.get("orders")); // => {id=7, who=Zoë}
        System.out.println(((byte[]) queues.get("orders"))[1]); // => -1
        System.out.println(queues.get("orders")); // => null
        System.out.println(queues.get("never-heard-of")); // => null

        // One message of each queue that has one.
        queues.set("north", 0, 1).get();
        queues.set("south", 0, 2).get();
        System.out.println(new TreeMap<>(queues.getBulk("north", "east", "south"))); // => {north=1, south=2}

        // Delivered within a minute or not at all.
        queues.set("calls", 60, "now").get();
        queues.set("calls", -1, "too late").get();
        System.out.println(queues.get("calls")); // => now
        System.out.println(queues.get("calls")); // => null

        // A loan: the message is the reader's until it is closed or given back.
        queues.set("jobs", 0, "paint").get();
        System.out.println(queues.get("jobs/open")); // => paint
        System.out.println(queues.get("jobs/abort")); // => null
        System.out.println(queues.get("jobs/open")); // => paint
        System.out.println(queues.get("jobs/close")); // => null
        System.out.println(queues.get("jobs/t=100")); // => null

        queues.shutdown();
    }
}
