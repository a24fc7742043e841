// @stomp/stompjs against the broker: node conversation.mjs WEBSOCKET-URL TCP-PORT. Every step that is done is a line.
import assert from "node:assert/strict";
import { Client } from "@stomp/stompjs";
import { TCPWrapper } from "@stomp/tcp-wrapper";
import { WebSocket } from "ws";

const [, , url, port] = process.argv;
const PATIENCE = 10_000;

const within = (promise, what) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error(`no ${what}`)), PATIENCE).unref())]);

// Messages, errors and closings of a client, one after the other.
class Heard {
  #waiting = [];
  #come = [];

  hear = (one) => {
    const waiting = this.#waiting.shift();
    if (waiting) waiting(one);
    else this.#come.push(one);
  };

  next(what) {
    if (this.#come.length) return Promise.resolve(this.#come.shift());
    return within(new Promise((yes) => this.#waiting.push(yes)), what);
  }
}

const over = {
  websocket: () => ({ webSocketFactory: () => new WebSocket(url, ["v12.stomp", "v11.stomp", "v10.stomp"]) }),
  tcp: () => ({ webSocketFactory: () => new TCPWrapper("127.0.0.1", Number(port)) }),
};

async function connected(way, options = {}) {
  const client = new Client({ ...over[way](), reconnectDelay: 0, heartbeatIncoming: 0, heartbeatOutgoing: 0, ...options });
  client.heard = new Heard();
  client.onStompError = client.heard.hear;
  await within(new Promise((yes) => { client.onConnect = yes; client.activate(); }), "CONNECTED");
  return client;
}

const confirmed = (client, id, act) =>
  within(new Promise((yes) => { client.watchForReceipt(id, yes); act({ receipt: id }); }), `RECEIPT ${id}`);

const steps = {
  async "text and binary bodies, and headers with special characters"(way) {
    const client = await connected(way);
    const odd = "a:b\\ d\ne grün"; // a backslash before an n or c is one that this client unescapes twice
    client.subscribe(`/topic/${way}`, client.heard.hear);
    client.publish({ destination: `/topic/${way}`, body: "grün", headers: { odd } });
    const text = await client.heard.next("message");
    assert.equal(text.body, "grün");
    assert.equal(text.headers.odd, odd);
    const binaryBody = Uint8Array.from([0, 255, 0, 10, 1]);
    client.publish({ destination: `/topic/${way}`, binaryBody });
    assert.deepEqual((await client.heard.next("message")).binaryBody, binaryBody);
    await client.deactivate();
  },

  async "receipts, acks and nacks"(way) {
    const client = await connected(way);
    const destination = `/queue/acks-${way}`;
    await confirmed(client, "sent", (headers) => client.publish({ destination, body: "1", headers }));
    client.subscribe(destination, client.heard.hear, { ack: "client-individual" });
    const first = await client.heard.next("message");
    assert.equal(first.headers.redelivered, "false");
    first.nack();
    const again = await client.heard.next("message");
    assert.equal(again.headers.redelivered, "true");
    await confirmed(client, "acked", (headers) => again.ack(headers));
    await client.deactivate();
  },

  async "what is not acked comes again on the next connection"(way) {
    let client = await connected(way);
    const destination = `/queue/again-${way}`;
    client.publish({ destination, body: "1" });
    client.subscribe(destination, client.heard.hear, { ack: "client" });
    await client.heard.next("message");
    await client.deactivate();
    client = await connected(way);
    client.subscribe(destination, client.heard.hear, { ack: "client" });
    const message = await client.heard.next("message");
    assert.equal(message.headers.redelivered, "true");
    message.ack();
    await client.deactivate();
  },

  async "transactions"(way) {
    const client = await connected(way);
    const destination = `/queue/tx-${way}`;
    client.subscribe(destination, client.heard.hear);
    for (const end of ["abort", "commit"]) {
      const transaction = client.begin();
      client.publish({ destination, body: end, headers: { transaction: transaction.id } });
      transaction[end]();
    }
    assert.equal((await client.heard.next("message")).body, "commit");
    await client.deactivate();
  },

  async "heart-beats"(way) {
    const client = await connected(way, { heartbeatIncoming: 300, heartbeatOutgoing: 300 });
    await new Promise((yes) => setTimeout(yes, 1000));
    assert.ok(client.connected);
    await client.deactivate();
  },

  async "large messages, whole and in pieces"(way) {
    const client = await connected(way, { splitLargeFrames: way === "websocket", maxWebSocketChunkSize: 8192 });
    const body = "0123456789".repeat(100_000);
    client.subscribe(`/topic/large-${way}`, client.heard.hear);
    client.publish({ destination: `/topic/large-${way}`, body });
    assert.equal((await client.heard.next("message")).body, body);
    await client.deactivate();
  },

  async "requests and replies"(way) {
    const client = await connected(way);
    client.onUnhandledMessage = client.heard.hear;
    const worker = await connected(way);
    worker.subscribe(`/queue/work-${way}`, (request) =>
      worker.publish({ destination: request.headers["reply-to"], body: `${request.body}!` }));
    client.publish({ destination: `/queue/work-${way}`, body: "hello", headers: { "reply-to": "/temp-queue/me" } });
    assert.equal((await client.heard.next("reply")).body, "hello!");
    await worker.deactivate();
    await client.deactivate();
  },

  async "an error, and what closes after it"(way) {
    const client = await connected(way);
    const closed = within(new Promise((yes) => { client.onWebSocketClose = yes; }), "close");
    client.publish({ destination: "/topic/", body: "x" });
    assert.equal((await client.heard.next("ERROR")).headers["error-code"], "invalid-destination");
    await closed;
    await client.deactivate();
  },
};

for (const way of Object.keys(over)) {
  for (const [what, step] of Object.entries(steps)) {
    await step(way);
    console.log(`${way}: ${what}`);
  }
}
process.exit(0);
