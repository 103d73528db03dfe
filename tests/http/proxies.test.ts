import { describe, expect, test } from "bun:test";
import { trustedProxies } from "../../src/http/proxies.ts";

const { clientOf } = trustedProxies(["10.0.0.1", "10.1.0.0/16", "2001:db8:1::/48", "::1"]);
const way = (peer: string, forwarded?: string | string[], proto?: string | string[], tls = false) => {
  const headers = new Headers();
  for (const value of [forwarded ?? []].flat()) headers.append("X-Forwarded-For", value);
  for (const value of [proto ?? []].flat()) headers.append("X-Forwarded-Proto", value);
  return clientOf(peer, tls, headers);
};
const address = (peer: string, forwarded?: string | string[]) => way(peer, forwarded).address;

describe("what a proxy says of its client", () => {
  test("is believed of a proxy that is trusted, by its address or its range", () => {
    expect(address("10.0.0.1", "192.0.2.7")).toBe("192.0.2.7");
    expect(address("10.1.200.3", "192.0.2.7")).toBe("192.0.2.7");
    expect(address("2001:db8:1:2::9", "2001:db8:ffff::7")).toBe("2001:db8:ffff::7");
    expect(address("::1", "192.0.2.7")).toBe("192.0.2.7");
    // As a socket for both families shows it.
    expect(address("::ffff:10.0.0.1", "192.0.2.7")).toBe("192.0.2.7");
  });

  test("is not believed of anybody else", () => {
    for (const peer of ["10.0.0.2", "10.2.0.1", "2001:db8:2::1", "127.0.0.1", "::ffff:10.0.0.2"])
      expect(way(peer, "192.0.2.7", "https")).toEqual({ address: peer.replace("::ffff:", ""), encrypted: false, direct: true });
    expect(
      trustedProxies([]).clientOf("10.0.0.1", false, new Headers({ "X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https" })),
    ).toEqual({
      address: "10.0.0.1",
      encrypted: false,
      direct: true,
    });
  });

  test("is believed up to the first that is not trusted: what stands before that is a stranger's word", () => {
    expect(address("10.0.0.1", "127.0.0.1, 192.0.2.7")).toBe("192.0.2.7");
    expect(address("10.0.0.1", "127.0.0.1, 192.0.2.7, 10.1.0.5")).toBe("192.0.2.7");
    expect(address("10.0.0.1", "10.1.0.9, 192.0.2.7, 10.1.0.5, ::1")).toBe("192.0.2.7");
    // Everybody is trusted: the first of them asked.
    expect(address("10.0.0.1", "10.1.0.9, 10.1.0.5")).toBe("10.1.0.9");
    // More than can be.
    expect(address("10.0.0.1", `192.0.2.7${", 10.1.0.5".repeat(1_000)}`)).toBe("10.1.0.5");
    expect(address("10.0.0.1", "::ffff:192.0.2.7")).toBe("192.0.2.7");
  });

  test("is one list in several headers", () => {
    expect(address("10.0.0.1", ["127.0.0.1", "192.0.2.7", "10.1.0.5"])).toBe("192.0.2.7");
    expect(address("10.0.0.1", ["192.0.2.7", "10.1.0.5, 10.1.0.6"])).toBe("192.0.2.7");
  });

  test("counts as far as it can be read, from the proxy on", () => {
    for (const broken of [
      "unknown",
      "",
      " ",
      "_hidden",
      "192.0.2.7:80",
      "[2001:db8::1]",
      "[2001:db8::1]:80",
      "fe80::1%eth0",
      "1.2.3",
      "0x7f.1",
      "'; --",
    ]) {
      expect(address("10.0.0.1", broken)).toBe("10.0.0.1");
      expect(address("10.0.0.1", `127.0.0.1, ${broken}`)).toBe("10.0.0.1");
      expect(address("10.0.0.1", `192.0.2.7, ${broken}, 10.1.0.5`)).toBe("10.1.0.5");
    }
    expect(address("10.0.0.1", ",".repeat(10_000))).toBe("10.0.0.1");
    expect(address("10.0.0.1", `${",".repeat(10_000)}192.0.2.7`)).toBe("192.0.2.7");
    expect(address("10.0.0.1", "10.1.0.5,".repeat(2_000))).toBe("10.0.0.1");
    expect(address("10.0.0.1", `192.0.2.7${" ".repeat(10_000)}`)).toBe("192.0.2.7");
    expect(address("10.0.0.1")).toBe("10.0.0.1");
  });

  test("is TLS by its last word, which is exactly https", () => {
    expect(way("10.0.0.1", "192.0.2.7", "https")).toEqual({ address: "192.0.2.7", encrypted: true, direct: false });
    expect(way("10.0.0.1", undefined, "http, https").encrypted).toBe(true);
    expect(way("10.0.0.1", undefined, ["http", "https"]).encrypted).toBe(true);
    for (const proto of ["http", "https, http", "HTTPS", "https:", "wss", "", "https,", "on", "https x"])
      expect(way("10.0.0.1", undefined, proto).encrypted).toBe(false);
    expect(way("10.0.0.1", undefined, ["https", "http"]).encrypted).toBe(false);
  });

  test("is not TLS because the proxy speaks it, unless it brings nobody", () => {
    expect(way("10.0.0.1", "192.0.2.7", "http", true).encrypted).toBe(false);
    expect(way("10.0.0.1", "192.0.2.7", undefined, true).encrypted).toBe(false);
    expect(way("10.0.0.1", undefined, "http", true).encrypted).toBe(false);
    expect(way("10.0.0.1", undefined, undefined, true)).toEqual({ address: "10.0.0.1", encrypted: true, direct: false });
    expect(way("10.0.0.1", undefined, undefined, false)).toEqual({ address: "10.0.0.1", encrypted: false, direct: false });
    // Whoever is none is as it is.
    expect(way("10.0.0.2", "192.0.2.7", "http", true)).toEqual({ address: "10.0.0.2", encrypted: true, direct: true });
  });
});

test("every IPv4 and IPv6 range means what it says", () => {
  const trusts = (range: string, peer: string) => trustedProxies([range]).has(peer);
  expect(trusts("10.9.9.9/8", "10.1.1.1")).toBe(true);
  expect(trusts("192.0.2.0/31", "192.0.2.1")).toBe(true);
  expect(trusts("192.0.2.0/31", "192.0.2.2")).toBe(false);
  expect(trusts("192.0.2.1/32", "192.0.2.1")).toBe(true);
  expect(trusts("0.0.0.0/0", "192.0.2.1")).toBe(true);
  expect(trusts("2001:db8::/32", "2001:DB8:0:0::5")).toBe(true);
  expect(trusts("2001:db8::/127", "2001:db8::2")).toBe(false);
  expect(trusts("::ffff:192.0.2.1", "192.0.2.1")).toBe(true);
});
