// What a STOMP client of stompjs does at the broker, in Node and in browsers. Every step that is done is told.
const PATIENCE = 60_000;

const within = (promise, what) =>
  Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error(`no ${what}`)), PATIENCE))]);

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

// Both are lists of octets, or both are text.
function same(got, expected) {
  if (String(got) !== String(expected)) throw new Error(`${got}, and not ${expected}`);
}

// `over`: by its name each way to the broker, as the options of a `Client` that takes it.
export async function converse(Client, over, tell) {
  async function connected(way, options = {}) {
    const client = new Client({ ...over[way](), reconnectDelay: 0, heartbeatIncoming: 0, heartbeatOutgoing: 0, ...options });
    client.heard = new Heard();
    client.onStompError = client.heard.hear;
    await within(new Promise((yes) => { client.onConnect = yes; client.activate(); }), "CONNECTED");
    return client;
  }

  const confirmed = (client, id, act) =>
    within(new Promise((yes) => { client.watchForReceipt(id, yes); act({ receipt: id }); }), `RECEIPT ${id}`);

  // The broker drops who is silent for twice its own period, so this takes longer than that; the period is what a slow
  // machine may be late by. What the client makes of the broker's silence is not looked at.
  async function beat(way) {
    const options = { heartbeatIncoming: 300, heartbeatOutgoing: 2000, heartbeatToleranceMultiplier: 200 };
    const client = await connected(way, options);
    await new Promise((yes) => setTimeout(yes, 4500));
    same(client.connected, true);
    await client.deactivate();
  }

  // They go on beside the other steps: those take no longer for it.
  const beating = Object.fromEntries(Object.keys(over).map((way) => [way, beat(way)]));

  const steps = {
    async "text and binary bodies, and headers with special characters"(way) {
      const client = await connected(way);
      const odd = "a:b\\ d\ne grün"; // a backslash before an n or c is one that this client unescapes twice
      client.subscribe(`/topic/${way}`, client.heard.hear);
      client.publish({ destination: `/topic/${way}`, body: "grün", headers: { odd } });
      const text = await client.heard.next("message");
      same(text.body, "grün");
      same(text.headers.odd, odd);
      const binaryBody = Uint8Array.from([0, 255, 0, 10, 1]);
      client.publish({ destination: `/topic/${way}`, binaryBody });
      same((await client.heard.next("message")).binaryBody, binaryBody);
      await client.deactivate();
    },

    async "receipts, acks and nacks"(way) {
      const client = await connected(way);
      const destination = `/queue/acks-${way}`;
      await confirmed(client, "sent", (headers) => client.publish({ destination, body: "1", headers }));
      client.subscribe(destination, client.heard.hear, { ack: "client-individual" });
      const first = await client.heard.next("message");
      same(first.headers.redelivered, "false");
      first.nack();
      const again = await client.heard.next("message");
      same(again.headers.redelivered, "true");
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
      same(message.headers.redelivered, "true");
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
      same((await client.heard.next("message")).body, "commit");
      await client.deactivate();
    },

    async "heart-beats"(way) {
      await beating[way];
    },

    async "large messages, whole and in pieces"(way) {
      const client = await connected(way, { splitLargeFrames: way === "websocket", maxWebSocketChunkSize: 8192 });
      const body = "0123456789".repeat(100_000);
      client.subscribe(`/topic/large-${way}`, client.heard.hear);
      client.publish({ destination: `/topic/large-${way}`, body });
      same((await client.heard.next("message")).body, body);
      await client.deactivate();
    },

    async "requests and replies"(way) {
      const client = await connected(way);
      client.onUnhandledMessage = client.heard.hear;
      const worker = await connected(way);
      worker.subscribe(`/queue/work-${way}`, (request) =>
        worker.publish({ destination: request.headers["reply-to"], body: `${request.body}!` }));
      client.publish({ destination: `/queue/work-${way}`, body: "hello", headers: { "reply-to": "/temp-queue/me" } });
      same((await client.heard.next("reply")).body, "hello!");
      await worker.deactivate();
      await client.deactivate();
    },

    async "an error, and what closes after it"(way) {
      const client = await connected(way);
      const closed = within(new Promise((yes) => { client.onWebSocketClose = yes; }), "close");
      client.publish({ destination: "/topic/", body: "x" });
      same((await client.heard.next("ERROR")).headers["error-code"], "invalid-destination");
      await closed;
      await client.deactivate();
    },
  };

  for (const way of Object.keys(over)) {
    for (const [what, step] of Object.entries(steps)) {
      await step(way);
      tell(`${way}: ${what}`);
    }
  }
}
