const { promisify } = require("node:util");
const Memcached = require("memcached");

const client = new Memcached("localhost:22122", { poolSize: 1 });
const [set, get, many] = ["set", "get", "getMulti"].map((name) => promisify(client[name]).bind(client));

async function main() {
  // What is put in comes out once, as the value it was.
  await set("orders", { id: 7, who: "Zoë", tags: [1.5, null, true] }, 0);
  await set("orders", Buffer.from([0, 255, 13, 10]), 0);
  console.log(JSON.stringify(await get("orders"))); // => {"id":7,"who":"Zoë","tags":[1.5,null,true]}
  console.log(await get("orders")); // => <Buffer 00 ff 0d 0a>
  console.log(await get("orders")); // => undefined
  console.log(await get("never-heard-of")); // => undefined

  // One message of each queue that has one.
  await set("north", 1, 0);
  await set("south", 2, 0);
  console.log({ ...(await many(["north", "east", "south"])) }); // => { north: 1, south: 2 }

  // Delivered within a minute or not at all.
  await set("calls", "now", 60);
  await set("calls", "too late", -1);
  console.log(await get("calls")); // => now
  console.log(await get("calls")); // => undefined

  // A loan: the message is the reader's until it is closed or given back.
  await set("jobs", "paint", 0);
  console.log(await get("jobs/open")); // => paint
  console.log(await get("jobs/abort")); // => undefined
  console.log(await get("jobs/open")); // => paint
  console.log(await get("jobs/close")); // => undefined
  console.log(await get("jobs/t=100")); // => undefined
  client.end();
}

main();
