// What two clients of Node do with queues: `memcached` speaks text, `memjs` binary. node conversation.cjs HOST:PORT
// A line for each step; the first that is not as it should be ends it.
"use strict";
const assert = require("node:assert");
const { promisify } = require("node:util");
const Memcached = require("memcached");
const memjs = require("memjs");

const where = process.argv[2];
const step = (what) => console.log(what);

async function text() {
  const client = new Memcached(where, { timeout: 60000, poolSize: 1 });
  const ask = (name) => promisify(client[name].bind(client));
  for (const value of ["text ü", 42, { a: [1, 2] }, Buffer.from([0, 255, 13]), "x".repeat(100000), ""]) {
    assert.strictEqual(await ask("set")("npm", value, 0), true);
    assert.deepStrictEqual(await ask("get")("npm"), value);
  }
  step("memcached: values of any type come back");
  assert.strictEqual(await ask("get")("npm"), undefined);
  await ask("set")("npm", "one", 0);
  await ask("set")("npm", "two", 0);
  assert.strictEqual(await ask("get")("npm/open"), "one");
  assert.strictEqual(await ask("get")("npm/close/open"), "two");
  assert.strictEqual(await ask("get")("npm/close"), undefined);
  assert.strictEqual(await ask("get")("npm/t=200"), undefined);
  step("memcached: reliable reads");
  await ask("set")("a", 1, 0);
  await ask("set")("c", 3, 0);
  assert.deepStrictEqual({ ...(await ask("getMulti")(["a", "b", "c"])) }, { a: 1, c: 3 });
  step("memcached: several keys");
  await ask("set")("npm", "one", 0);
  const { cas } = await ask("gets")("npm/open");
  assert.strictEqual(await ask("cas")("done", "two", cas, 0), true);
  assert.strictEqual(await ask("get")("done"), "two");
  step("memcached: cas settles");
  assert.strictEqual(await ask("incr")("npm", 1), false);
  assert.strictEqual(await ask("add")("npm", "x", 0).catch(() => "refused"), "refused");
  assert.strictEqual(await ask("del")("none"), false);
  const [version] = await ask("version")();
  assert.match(version.version, /^\d+\.\d+\.\d+$/);
  const [numbers] = await ask("stats")();
  assert.strictEqual(numbers.curr_items, 0);
  assert.deepStrictEqual(await ask("flush")(), [true]);
  step("memcached: the rest");
  client.end();
}

async function binary() {
  const client = memjs.Client.create(where, { timeout: 60, retries: 0 });
  for (const value of ["text ü", "\r\nEND\r\n\0", "x".repeat(100000), ""]) {
    assert.strictEqual(await client.set("memjs", value, {}), true);
    assert.strictEqual((await client.get("memjs")).value.toString(), value);
  }
  step("memjs: values come back");
  assert.strictEqual((await client.get("memjs")).value, null);
  await client.set("memjs", "one", {});
  assert.strictEqual((await client.get("memjs/open")).value.toString(), "one");
  assert.strictEqual((await client.get("memjs/close")).value, null);
  assert.strictEqual((await client.get("memjs/t=200")).value, null);
  step("memjs: reliable reads");
  assert.strictEqual(await client.add("memjs", "x", {}), false);
  assert.strictEqual(await client.delete("none"), false);
  await client.set("memjs", "one", {});
  assert.strictEqual(await client.delete("memjs"), true);
  step("memjs: the rest");
  client.close();
}

text().then(binary).catch((error) => {
  console.error(error);
  process.exit(1);
});
