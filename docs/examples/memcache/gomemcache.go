package main

import (
	"fmt"

	"github.com/bradfitz/gomemcache/memcache"
)

var queues = memcache.New("localhost:22122")

func put(queue string, value []byte, flags uint32, seconds int32) {
	message := &memcache.Item{Key: queue, Value: value, Flags: flags, Expiration: seconds}
	if failed := queues.Set(message); failed != nil {
		panic(failed)
	}
}

func take(queue string) (string, uint32) {
	message, failed := queues.Get(queue)
	if failed != nil {
		return failed.Error(), 0
	}
	return string(message.Value), message.Flags
}

func main() {
	// What is put in comes out once, with its flags.
	put("orders", []byte(`{"id": 7, "who": "Zoë"}`), 5, 0)
	put("orders", []byte("\x00\xff\r\n"), 0, 0)
	fmt.Println(take("orders")) // => {"id": 7, "who": "Zoë"} 5
	raw, _ := queues.Get("orders")
	fmt.Println(raw.Value)              // => [0 255 13 10]
	fmt.Println(take("orders"))         // => memcache: cache miss 0
	fmt.Println(take("never-heard-of")) // => memcache: cache miss 0

	// One message of each queue that has one.
	put("north", []byte("1"), 0, 0)
	put("south", []byte("2"), 0, 0)
	found, _ := queues.GetMulti([]string{"north", "east", "south"})
	fmt.Println(len(found), string(found["north"].Value), string(found["south"].Value)) // => 2 1 2

	// Delivered within a minute or not at all.
	put("calls", []byte("now"), 0, 60)
	put("calls", []byte("too late"), 0, -1)
	fmt.Println(take("calls")) // => now 0
	fmt.Println(take("calls")) // => memcache: cache miss 0

	// A loan: the message is the reader's until it is closed or given back.
	put("jobs", []byte("paint"), 0, 0)
	fmt.Println(take("jobs/open"))  // => paint 0
	fmt.Println(take("jobs/abort")) // => memcache: cache miss 0
	fmt.Println(take("jobs/open"))  // => paint 0
	fmt.Println(take("jobs/close")) // => memcache: cache miss 0
	fmt.Println(take("jobs/t=20"))  // => memcache: cache miss 0
}
