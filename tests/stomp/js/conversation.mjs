// @stomp/stompjs against the broker: node conversation.mjs WEBSOCKET-URL TCP-PORT. Every step that is done is a line.
import { Client } from "@stomp/stompjs";
import { TCPWrapper } from "@stomp/tcp-wrapper";
import { WebSocket } from "ws";
import { converse } from "./steps.mjs";

const [, , url, port] = process.argv;
const over = {
  websocket: () => ({ webSocketFactory: () => new WebSocket(url, ["v12.stomp", "v11.stomp", "v10.stomp"]) }),
  tcp: () => ({ webSocketFactory: () => new TCPWrapper("127.0.0.1", Number(port)) }),
};

await converse(Client, over, console.log);
process.exit(0);
