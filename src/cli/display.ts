import { createServer, type Socket } from "node:net";
import { ApiError } from "../client/http.ts";
import { conversation } from "./conversation.ts";
import { record, wordOrNull } from "./reading.ts";

/** What may wait for a slow viewer. */
const bufferLimitBytes = 16 * 1024 * 1024;

export const displayCommand = conversation({
  name: "headnode_vnc",
  grouped: "headnode vnc",
  about: "give VNC viewers on this machine a headnode's display, until Ctrl-C",
  args: { headnode: "name of the headnode" },
  async talk({ headnode }, { json }, server) {
    const shown = record(await server.call({ method: "GET", path: ["headnode", headnode] }));
    // This is no WebSocket: a refusal for another reason than that tells why there is no display.
    await server.call({ method: "GET", path: ["headnode", headnode, "vnc"] }).catch((error: unknown) => {
      if (!(error instanceof ApiError) || error.type !== "ValidationError") throw error;
    });
    const listener = createServer((viewer) => relay(viewer, server.socket(["headnode", headnode, "vnc"])));
    await new Promise<void>((resolve, reject) => listener.once("error", reject).listen(0, "127.0.0.1", resolve));
    const address = listener.address();
    const where = `127.0.0.1:${typeof address === "object" && address ? address.port : ""}`;
    const password = wordOrNull(shown.vnc_password);
    process.stdout.write(json ? `${JSON.stringify({ address: where, password })}\n` : `display: ${where}\npassword: ${password}\n`);
    await new Promise((resolve) => process.once("SIGINT", resolve).once("SIGTERM", resolve));
    process.exit(0);
  },
});

/** A viewer's connection, and the WebSocket that it goes through. */
function relay(viewer: Socket, display: WebSocket): void {
  display.binaryType = "arraybuffer";
  // What the viewer says waits until the WebSocket is open.
  viewer.pause();
  display.addEventListener("open", () => viewer.resume());
  display.addEventListener("message", ({ data }) => {
    viewer.write(new Uint8Array(data as ArrayBuffer));
    if (viewer.writableLength > bufferLimitBytes) viewer.destroy();
  });
  display.addEventListener("close", ({ code, reason }) => {
    if (code !== 1000 && !viewer.destroyed) process.stderr.write(`The display was closed${reason === "" ? "" : `: ${reason}`}.\n`);
    viewer.end();
  });
  viewer.on("data", (bytes) => display.send(bytes));
  viewer.on("close", () => display.close());
  viewer.on("error", () => display.close());
}
