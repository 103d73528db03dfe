// Who is known to the server that is attacked, and which of its nodes matter.

const user = (name: string) => ({ name, password: `password of ${name}` });

export const people = {
  /** An administrator: the good client. */
  admin: user("keeper"),
  /** A member of project-1, who attacks as well. */
  tenant: user("tenant"),
  /** Tenants who have not logged in yet. */
  owners: Array.from({ length: 6 }, (_, n) => user(`owner-${n + 1}`)),
};

export const nodeCount = 2_200;
/** The last so many nodes are free, but wait for their ports to be read. */
export const freshCount = 100;
export const freshNode = (n: number) => `node-0${nodeCount - (n % freshCount)}`;
