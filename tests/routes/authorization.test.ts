import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { sql } from "kysely";
import { administrator } from "../../src/auth/caller.ts";
import { createUser } from "../../src/inventory/users.ts";
import { type Answer, mockObm, mockSwitch, type Service, startService } from "../support/service.ts";

// Who may do what: every call of the OpenAPI document by every kind of caller. Each request is made on
// objects of its own, so that whoever is let in gets the answer of the call itself. Whoever is not
// gets 401 and changes nothing in the database.

const roles = ["anonymous", "outsider", "member", "admin"] as const;
type Role = (typeof roles)[number];

/** Objects of one request. `n` is what makes their names unique. */
interface World {
  n: number;
  ok(method: string, path: string, body?: unknown): Promise<any>;
  /** A node in the member's project p. */
  node(): Promise<string>;
  freeNode(): Promise<string>;
  /** The same with a nic `nic` on port `1/1` of the switch that it is called like. */
  cabledNode(): Promise<string>;
  /** A network that p owns; one that the administrators keep for p; a public one. */
  ownNetwork(): Promise<string>;
  grantedNetwork(): Promise<string>;
  publicNetwork(): Promise<string>;
  switch(): Promise<string>;
  headnode(): Promise<string>;
  user(): Promise<string>;
}

interface Case {
  /** Statuses of anonymous, outsider, member and admin; when authentication is not required, of an anonymous caller. */
  expect: readonly [anonymous: 401, outsider: number, member: number, admin: number, open: number];
  /** Makes the objects; the path and the body. */
  make(world: World): Promise<readonly [path: string, body?: unknown]>;
}

const anyone = (status: number, make: Case["make"]): Case => ({ expect: [401, status, status, status, status], make });
const ofProject = (status: number, make: Case["make"]): Case => ({ expect: [401, 401, status, status, 401], make });
const ofAdmin = (status: number, make: Case["make"]): Case => ({ expect: [401, 401, 401, status, 401], make });

const detach =
  (query: string): Case["make"] =>
  async (world) => {
    const [node, network] = [await world.cabledNode(), await world.ownNetwork()];
    await world.ok("POST", `/node/${node}/nic/nic/connect_network`, { network });
    await service.apply();
    return [`/node/${node}/nic/nic/detach_network${query}`, { network }];
  };

/** Calls of the document; more than one case where it depends on the object. */
const cases: Record<string, Case[]> = {
  "GET /projects": [ofAdmin(200, async () => ["/projects"])],
  "PUT /project/{project}": [ofAdmin(200, async ({ n }) => [`/project/new${n}`])],
  "DELETE /project/{project}": [
    ofAdmin(200, async ({ n, ok }) => {
      await ok("PUT", `/project/gone${n}`);
      return [`/project/gone${n}`];
    }),
    // Not even a member, and before anything else is told about it.
    ofAdmin(409, async (world) => {
      await world.node();
      return ["/project/p"];
    }),
  ],
  "GET /project/{project}/nodes": [ofProject(200, async () => ["/project/p/nodes"])],
  "GET /project/{project}/networks": [ofProject(200, async () => ["/project/p/networks"])],
  "GET /project/{project}/headnodes": [ofProject(200, async () => ["/project/p/headnodes"])],
  "POST /project/{project}/connect_node": [ofProject(200, async (world) => ["/project/p/connect_node", { node: await world.freeNode() }])],
  "POST /project/{project}/detach_node": [ofProject(200, async (world) => ["/project/p/detach_node", { node: await world.node() }])],

  "GET /nodes/{which}": [anyone(200, async () => ["/nodes/free"]), anyone(200, async () => ["/nodes/all"])],
  "GET /node/{node}": [
    ofProject(200, async (world) => [`/node/${await world.node()}`]),
    anyone(200, async (world) => [`/node/${await world.freeNode()}`]),
  ],
  "PUT /node/{node}": [ofAdmin(200, async ({ n }) => [`/node/new${n}`, { obm: mockObm, metadata: { a: 1 } }])],
  "DELETE /node/{node}": [ofAdmin(200, async (world) => [`/node/${await world.freeNode()}`])],
  "PUT /node/{node}/nic/{nic}": [ofAdmin(200, async (world) => [`/node/${await world.node()}/nic/eth0`, { macaddr: "x" }])],
  "DELETE /node/{node}/nic/{nic}": [ofAdmin(200, async (world) => [`/node/${await world.cabledNode()}/nic/nic`])],
  "PUT /node/{node}/metadata/{label}": [ofAdmin(200, async (world) => [`/node/${await world.node()}/metadata/k`, { value: 1 }])],
  "DELETE /node/{node}/metadata/{label}": [
    ofAdmin(200, async (world) => {
      const node = await world.node();
      await world.ok("PUT", `/node/${node}/metadata/k`, { value: 1 });
      return [`/node/${node}/metadata/k`];
    }),
  ],
  "DELETE /node/{node}/metadata/": [
    ofAdmin(200, async ({ n, ok }) => {
      await ok("PUT", `/node/unlabelled${n}`, { obm: mockObm, metadata: { "": 1 } });
      return [`/node/unlabelled${n}/metadata/`];
    }),
  ],
  ...Object.fromEntries(
    (
      [
        ["POST", "power_cycle", 200, { force: false }],
        ["POST", "power_off", 200, undefined],
        ["POST", "power_on", 200, undefined],
        ["GET", "power_status", 200, undefined],
        ["PUT", "boot_device", 200, { bootdev: "disk" }],
        ["PUT", "obm", 200, { enabled: false }],
        ["PUT", "console", 200, undefined],
        ["GET", "console", 404, undefined],
        ["DELETE", "console", 200, undefined],
      ] as const
    ).map(([method, verb, status, body]) => [
      `${method} /node/{node}/${verb}`,
      [
        ofProject(status, async (world) => [`/node/${await world.node()}/${verb}`, body]),
        // A free node's power is nobody's but the administrators'.
        ofAdmin(status, async (world) => [`/node/${await world.freeNode()}/${verb}`, body]),
      ],
    ]),
  ),

  "GET /networks": [anyone(200, async () => ["/networks"])],
  "GET /network/{network}": [
    ofProject(200, async (world) => [`/network/${await world.ownNetwork()}`]),
    ofProject(200, async (world) => [`/network/${await world.grantedNetwork()}`]),
    anyone(200, async (world) => [`/network/${await world.publicNetwork()}`]),
  ],
  "PUT /network/{network}": [
    ofProject(200, async ({ n }) => [`/network/new${n}`, { owner: "p", access: "p", net_id: "" }]),
    ofAdmin(200, async ({ n }) => [`/network/new${n}`, { owner: "admin", access: "p", net_id: "" }]),
    ofAdmin(200, async ({ n }) => [`/network/new${n}`, { owner: "admin", access: "", net_id: "" }]),
  ],
  "DELETE /network/{network}": [
    ofProject(200, async (world) => [`/network/${await world.ownNetwork()}`]),
    ofAdmin(200, async (world) => [`/network/${await world.grantedNetwork()}`]),
  ],
  "PUT /network/{network}/access/{project}": [
    ofProject(200, async (world) => [`/network/${await world.ownNetwork()}/access/third`]),
    // To be on the list is no right to extend it, or to be put on it at one's own wish.
    ofAdmin(200, async (world) => [`/network/${await world.grantedNetwork()}/access/q`]),
  ],
  "DELETE /network/{network}/access/{project}": [
    ofProject(200, async (world) => {
      const network = await world.ownNetwork();
      await world.ok("PUT", `/network/${network}/access/third`);
      return [`/network/${network}/access/third`];
    }),
    ofProject(200, async (world) => [`/network/${await world.grantedNetwork()}/access/p`]),
    // The project itself may leave: here the outsider's.
    {
      expect: [401, 200, 200, 200, 401],
      async make(world) {
        const network = await world.ownNetwork();
        await world.ok("PUT", `/network/${network}/access/q`);
        return [`/network/${network}/access/q`];
      },
    },
  ],
  "GET /network/{network}/attachments": [
    ofProject(200, async (world) => [`/network/${await world.ownNetwork()}/attachments`]),
    ofAdmin(200, async (world) => [`/network/${await world.grantedNetwork()}/attachments`]),
    ofProject(200, async (world) => [`/network/${await world.grantedNetwork()}/attachments?project=p`]),
    // The outsider's own project is not on the list.
    ofAdmin(200, async (world) => [`/network/${await world.grantedNetwork()}/attachments?project=q`]),
  ],

  "POST /node/{node}/nic/{nic}/connect_network": [
    ofProject(202, async (world) => [`/node/${await world.cabledNode()}/nic/nic/connect_network`, { network: await world.ownNetwork() }]),
    // A dry run names the port.
    ofAdmin(200, async (world) => [
      `/node/${await world.cabledNode()}/nic/nic/connect_network?dry_run=true`,
      { network: await world.ownNetwork() },
    ]),
  ],
  "POST /node/{node}/nic/{nic}/detach_network": [ofProject(202, detach("")), ofAdmin(200, detach("?dry_run=true"))],
  "GET /networking_action/{status_id}": [
    ofProject(200, async (world) => {
      const [node, network] = [await world.cabledNode(), await world.ownNetwork()];
      const { status_id } = await world.ok("POST", `/node/${node}/nic/nic/connect_network`, { network });
      return [`/networking_action/${status_id}`];
    }),
  ],

  "GET /switches": [ofAdmin(200, async () => ["/switches"])],
  "GET /switch/{switch}": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}`])],
  "PUT /switch/{switch}": [ofAdmin(200, async ({ n }) => [`/switch/new${n}`, mockSwitch])],
  "DELETE /switch/{switch}": [
    ofAdmin(200, async ({ n, ok }) => {
      await ok("PUT", `/switch/bare${n}`, mockSwitch);
      return [`/switch/bare${n}`];
    }),
  ],
  "GET /switch/{switch}/port/{port}": [ofAdmin(200, async (world) => [`/switch/${await world.cabledNode()}/port/1%2F1`])],
  "PUT /switch/{switch}/port/{port}": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}/port/1%2F2`])],
  "DELETE /switch/{switch}/port/{port}": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}/port/1%2F1`])],
  "POST /switch/{switch}/port/{port}/connect_nic": [
    ofAdmin(200, async (world) => {
      const [node, name] = [await world.node(), await world.switch()];
      await world.ok("PUT", `/node/${node}/nic/eth0`, { macaddr: "x" });
      return [`/switch/${name}/port/1%2F1/connect_nic`, { node, nic: "eth0" }];
    }),
  ],
  "POST /switch/{switch}/port/{port}/detach_nic": [
    ofAdmin(200, async (world) => {
      const node = await world.cabledNode();
      await world.ok("POST", "/project/p/detach_node", { node });
      return [`/switch/${node}/port/1%2F1/detach_nic`];
    }),
    ofAdmin(409, async (world) => [`/switch/${await world.cabledNode()}/port/1%2F1/detach_nic`]),
  ],
  "POST /switch/{switch}/port/{port}/revert": [
    ofAdmin(202, async (world) => [`/switch/${await world.cabledNode()}/port/1%2F1/revert`]),
    ofAdmin(200, async (world) => [`/switch/${await world.cabledNode()}/port/1%2F1/revert?dry_run=true`]),
  ],
  "POST /switch/{switch}/port/{port}/trust": [ofAdmin(409, async (world) => [`/switch/${await world.switch()}/port/1%2F1/trust`])],
  "GET /switch/{switch}/ports/actual": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}/ports/actual`])],
  "GET /switch/{switch}/reconcile": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}/reconcile`])],
  "POST /switch/{switch}/reconcile": [
    ofAdmin(202, async (world) => [`/switch/${await world.switch()}/reconcile`]),
    ofAdmin(200, async (world) => [`/switch/${await world.switch()}/reconcile?dry_run=true`]),
  ],
  "POST /switch/{switch}/test": [ofAdmin(200, async (world) => [`/switch/${await world.switch()}/test`])],
  "DELETE /switch/{switch}/host_key": [ofAdmin(409, async (world) => [`/switch/${await world.switch()}/host_key`])],
  "GET /drift": [ofAdmin(200, async () => ["/drift"])],

  "GET /headnode_images/": [anyone(200, async () => ["/headnode_images/"])],
  "GET /headnode_images": [anyone(200, async () => ["/headnode_images"])],
  "PUT /headnode/{headnode}": [ofProject(200, async ({ n }) => [`/headnode/new${n}`, { project: "p", base_img: "img1" }])],
  "GET /headnode/{headnode}": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}`])],
  "DELETE /headnode/{headnode}": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}`])],
  "POST /headnode/{headnode}/start": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}/start`])],
  "POST /headnode/{headnode}/stop": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}/stop`])],
  "POST /headnode/{headnode}/edit": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}/edit`])],
  // Nothing runs, and nobody is told a port.
  "GET /headnode/{headnode}/vnc": [ofProject(409, async (world) => [`/headnode/${await world.headnode()}/vnc`])],
  "PUT /headnode/{headnode}/hnic/{hnic}": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}/hnic/new`])],
  "DELETE /headnode/{headnode}/hnic/{hnic}": [ofProject(200, async (world) => [`/headnode/${await world.headnode()}/hnic/eth0`])],
  "POST /headnode/{headnode}/hnic/{hnic}/connect_network": [
    ofProject(200, async (world) => [
      `/headnode/${await world.headnode()}/hnic/eth0/connect_network`,
      { network: await world.ownNetwork() },
    ]),
  ],
  "POST /headnode/{headnode}/hnic/{hnic}/detach_network": [
    ofProject(200, async (world) => [`/headnode/${await world.headnode()}/hnic/eth0/detach_network`]),
  ],

  "GET /active_extensions": [ofAdmin(200, async () => ["/active_extensions"])],
  "GET /auth/basic/users": [ofAdmin(200, async () => ["/auth/basic/users"])],
  "PUT /auth/basic/user/{user}": [ofAdmin(200, async ({ n }) => [`/auth/basic/user/new${n}`, { password: "pw", is_admin: true }])],
  "DELETE /auth/basic/user/{user}": [ofAdmin(200, async (world) => [`/auth/basic/user/${await world.user()}`])],
  "PATCH /auth/basic/user/{user}": [
    ofAdmin(200, async (world) => [`/auth/basic/user/${await world.user()}`, { is_admin: true }]),
    // Nobody helps themselves.
    ofAdmin(200, async () => ["/auth/basic/user/member", { is_admin: false }]),
    ofAdmin(409, async () => ["/auth/basic/user/admin", { is_admin: true }]),
  ],
  "POST /auth/basic/user/{user}/add_project": [
    ofAdmin(200, async (world) => [`/auth/basic/user/${await world.user()}/add_project`, { project: "p" }]),
    ofAdmin(409, async () => ["/auth/basic/user/outsider/add_project", { project: "q" }]),
  ],
  "POST /auth/basic/user/{user}/remove_project": [
    ofAdmin(200, async (world) => {
      const user = await world.user();
      await world.ok("POST", `/auth/basic/user/${user}/add_project`, { project: "p" });
      return [`/auth/basic/user/${user}/remove_project`, { project: "p" }];
    }),
    ofAdmin(404, async () => ["/auth/basic/user/outsider/remove_project", { project: "p" }]),
  ],
};

const password = (role: Role) => `${role}-pw`;
const headersOf = (role: Role): Record<string, string> =>
  role === "anonymous" ? {} : { authorization: `Basic ${Buffer.from(`${role}:${password(role)}`).toString("base64")}` };

let service: Service;
let open: Service;
let document: Record<string, Record<string, unknown>>;

// Ids for every world's networks.
const pool = "[haas.ext.network_allocators.vlan_pool]\nvlans = 1-4094";

async function populate(into: Service): Promise<void> {
  for (const role of roles) if (role !== "anonymous") await createUser(into.ctx.db, administrator, role, password(role), role === "admin");
  const ok = caller(into);
  for (const project of ["p", "q", "third"]) await ok("PUT", `/project/${project}`);
  await ok("POST", "/auth/basic/user/member/add_project", { project: "p" });
  await ok("POST", "/auth/basic/user/outsider/add_project", { project: "q" });
  // A stranger to p is no stranger to all: there is something that is q's.
  await ok("PUT", "/node/of-q", { obm: mockObm });
  await ok("POST", "/project/q/connect_node", { node: "of-q" });
  await ok("PUT", "/network/of-q", { owner: "q", access: "q", net_id: "" });
}

const caller = (to: Service) => async (method: string, path: string, body?: unknown) => {
  const answer = await to.call(method, path, body, headersOf("admin"));
  if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
};

beforeAll(async () => {
  service = await startService("sqlite", { auth: "database", more: pool });
  open = await startService("sqlite", { auth: "database", more: `${pool}\n[auth]\nrequire_authentication = False` });
  await populate(service);
  await populate(open);
  document = (await service.call("GET", "/swagger/json")).body.paths;
});
afterAll(async () => {
  await service.stop();
  await open.stop();
});

let worlds = 0;
function newWorld(on: Service): World {
  const n = ++worlds;
  const ok = caller(on);
  const freeNode = async (name = `n${n}`) => {
    await ok("PUT", `/node/${name}`, { obm: { ...mockObm, host: name } });
    return name;
  };
  const node = async () => {
    const name = await freeNode();
    await ok("POST", "/project/p/connect_node", { node: name });
    return name;
  };
  const makeSwitch = async (name = `sw${n}`) => {
    await ok("PUT", `/switch/${name}`, mockSwitch);
    await ok("PUT", `/switch/${name}/port/1%2F1`);
    return name;
  };
  const network = async (name: string, owner: string, access: string) => {
    await ok("PUT", `/network/${name}`, { owner, access, net_id: "" });
    return name;
  };
  return {
    n,
    ok,
    node,
    freeNode,
    async cabledNode() {
      const name = await node();
      await makeSwitch(name);
      await ok("PUT", `/node/${name}/nic/nic`, { macaddr: "x" });
      await ok("POST", `/switch/${name}/port/1%2F1/connect_nic`, { node: name, nic: "nic" });
      return name;
    },
    ownNetwork: () => network(`own${n}`, "p", "p"),
    grantedNetwork: () => network(`granted${n}`, "admin", "p"),
    publicNetwork: () => network(`public${n}`, "admin", ""),
    switch: () => makeSwitch(),
    async headnode() {
      await ok("PUT", `/headnode/h${n}`, { project: "p", base_img: "img1" });
      await ok("PUT", `/headnode/h${n}/hnic/eth0`);
      return `h${n}`;
    },
    async user() {
      // Not by the API: a hash takes a tenth of a second.
      await on.ctx.db
        .insertInto("users")
        .values({ label: `u${n}`, password_hash: "none", is_admin: 0 })
        .execute();
      return `u${n}`;
    },
  };
}

/** Every row of every table. */
async function everything(of: Service): Promise<string> {
  const tables = await of.ctx.db.introspection.getTables();
  const rows = [];
  for (const { name } of tables) rows.push([name, (await sql`select * from ${sql.table(name)}`.execute(of.ctx.db)).rows]);
  return JSON.stringify(rows);
}

/** Make the call on objects of its own; what a refusal has in common is checked here. */
async function attempt(on: Service, role: Role, method: string, { make }: Case): Promise<Answer> {
  const [path, body] = await make(newWorld(on));
  const before = await everything(on);
  const answer = await on.call(method, path, body, headersOf(role));
  if (answer.status !== 401) return answer;
  expect(answer.body).toEqual({ type: "AuthorizationError", msg: expect.any(String) });
  expect(await everything(on)).toBe(before);
  // Only who has not shown who they are is asked to.
  if (role !== "anonymous") expect(answer.headers.get("www-authenticate")).toBeNull();
  else if (on === service) expect(answer.headers.get("www-authenticate")).toStartWith("Basic");
  return answer;
}

test("the OpenAPI document and the expectations name the same calls", () => {
  const documented = Object.entries(document).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  expect(documented.length).toBeGreaterThan(60);
  expect(Object.keys(cases).toSorted()).toEqual(documented.toSorted());
});

test("the document names every method that a path has", async () => {
  for (const path of Object.keys(document)) {
    const answer = await service.call("TRACE", path.replaceAll(/\{\w+\}/g, "x"));
    // Whatever follows `/port/` is a port's name, unless the method is POST: x/connect_nic, say.
    const template = path.replace(/(?<=\/port\/\{port\})\/.*/, "");
    expect({
      path,
      allow: answer.headers
        .get("allow")
        ?.split(", ")
        .filter((method) => method !== "HEAD"),
    }).toEqual({
      path,
      allow: Object.keys(document[template]!)
        .map((method) => method.toUpperCase())
        .toSorted(),
    });
  }
});

describe.each(Object.entries(cases))("%s", (call, ofCall) => {
  const [method = "", template = ""] = call.split(" ");

  test.each(roles.map((role, i) => [role, i] as const))("%s", async (role, i) => {
    for (const [index, one] of ofCall.entries()) {
      const answer = await attempt(service, role, method, one);
      expect({ index, status: answer.status, body: answer.status < 400 ? null : answer.body }).toEqual({
        index,
        status: one.expect[i]!,
        body: one.expect[i]! < 400 ? null : expect.anything(),
      });
    }
  });

  test("anonymous, where authentication is not required", async () => {
    for (const [index, one] of ofCall.entries())
      expect({ index, status: (await attempt(open, "anonymous", method, one)).status }).toEqual({ index, status: one.expect[4] });
  });

  test("who is not known is told nothing else: not about bodies, queries or names, and not under /v0", async () => {
    const path = template.replaceAll(/\{\w+\}/g, "no-such-thing");
    for (const prefix of ["", "/v0"]) {
      for (const body of method === "GET" ? [undefined] : ["{", { unknown: 1 }]) {
        for (const credentials of [{}, { authorization: `Basic ${Buffer.from("admin:wrong").toString("base64")}` }]) {
          const answer = await service.call(method, `${prefix}${path}?unknown=`, body, credentials);
          expect(answer).toMatchObject({ status: 401, body: { type: "AuthorizationError" } });
          expect(answer.headers.get("www-authenticate")).toStartWith("Basic");
        }
      }
    }
  });
});

test("a member of the project sees no cabling, an administrator does", async () => {
  const node = await newWorld(service).cabledNode();
  const [asMember, asAdmin] = [
    await service.call("GET", `/node/${node}`, undefined, headersOf("member")),
    await service.call("GET", `/node/${node}`, undefined, headersOf("admin")),
  ];
  expect(asMember.body.nics).toEqual([{ label: "nic", macaddr: "x", networks: {} }]);
  expect(asAdmin.body.nics).toEqual([{ label: "nic", macaddr: "x", networks: {}, port: "1/1", switch: node }]);
});

test("a member can't bring a network or a node of others into play", async () => {
  const world = newWorld(service);
  const node = await world.cabledNode();
  const asMember = (method: string, path: string, body?: unknown) => service.call(method, path, body, headersOf("member"));
  expect(await asMember("POST", `/node/${node}/nic/nic/connect_network`, { network: "of-q" })).toMatchObject({
    status: 409,
    body: { type: "ProjectMismatchError" },
  });
  expect(await asMember("POST", "/project/p/connect_node", { node: "of-q" })).toMatchObject({ status: 409 });
  expect(await asMember("POST", "/project/p/detach_node", { node: "of-q" })).toMatchObject({ status: 404 });
  expect(await asMember("PUT", "/network/of-q/access/p")).toMatchObject({ status: 401 });
  expect(await asMember("PUT", `/network/stolen${world.n}`, { owner: "q", access: "q", net_id: "" })).toMatchObject({ status: 401 });
  expect(await asMember("PUT", `/headnode/stolen${world.n}`, { project: "q", base_img: "img1" })).toMatchObject({ status: 401 });
  const headnode = await world.headnode();
  expect(await asMember("POST", `/headnode/${headnode}/hnic/eth0/connect_network`, { network: "of-q" })).toMatchObject({
    status: 409,
    body: { type: "ProjectMismatchError" },
  });
});

test("what a network shows of its nodes is what the caller may see", async () => {
  const world = newWorld(service);
  const [node, network] = [await world.cabledNode(), await world.publicNetwork()];
  await world.ok("POST", `/node/${node}/nic/nic/connect_network`, { network });
  await service.apply();
  const shown = async (role: Role) =>
    (await service.call("GET", `/network/${network}`, undefined, headersOf(role))).body["connected-nodes"];
  expect(await shown("outsider")).toEqual({});
  expect(await shown("member")).toEqual({ [node]: ["nic"] });
  expect(await shown("admin")).toEqual({ [node]: ["nic"] });
});
